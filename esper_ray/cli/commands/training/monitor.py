"""``esper monitor``: a training run with a Prometheus server beside it."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from socket import socket
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table

from esper_actors.training.stop_request import StopRequest
from esper_ray.leyline.errors import UsageError

if TYPE_CHECKING:
    from esper_ray.nissa.grafana.prometheus import PrometheusServer

app = typer.Typer(add_completion=False)

CONTEXT = {"allow_interspersed_args": False}
"""Arguments after the options are those of ``train ppo``, with ``--`` or without."""
DEFAULT = ("--preset", "digits")
POLL_SECONDS = 1.0
HEADLINES = {
    "rounds": ("rounds_done", "{:.0f}"),
    "accuracy, mean of ten rounds": ("round_accuracy_rolling_ratio", "{:.1%}"),
    "accuracy without growth": ("round_accuracy_control_ratio", "{:.1%}"),
    "accuracy with fossilized seeds only": ("round_committed_accuracy_ratio", "{:.1%}"),
    "growth": ("round_growth_ratio", "{:.2f}x"),
    "return": ("return_mean", "{:+.2f}"),
    "steps per second": ("env_steps_per_second", "{:.1f}"),
}


@app.command(context_settings=CONTEXT)
def monitor(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="options of `esper train ppo`", metavar="-- OPTIONS ...")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of Prometheus; 0: a free one")] = 0,
    prometheus: Annotated[str | None, typer.Option(help="executable of Prometheus; default: that on the PATH")] = None,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="keep Prometheus running until Ctrl-C; default: at a terminal"),
    ] = None,
) -> None:
    """Train with a Prometheus server beside the run.

    Prints links, the panels to look at, and alerts. The exit code is that of the run.

    Example: esper monitor -- --preset digits
    """
    from esper_ray.nissa.grafana.prometheus import PrometheusServer, free_port

    words = arguments or list(DEFAULT)
    if any(word.partition("=")[0] == "--metrics-port" for word in words):
        raise UsageError("--metrics-port is chosen by esper monitor: leave it out")
    console, target = Console(), free_port()
    keep_running = sys.stdout.isatty() if keep is None else keep
    server = PrometheusServer(f"127.0.0.1:{target}", port, prometheus)
    command = [sys.executable, "-m", "esper_ray.cli.main", "train", "ppo", *words, "--metrics-port", str(target)]
    with StopRequest() as stop, Run(command, server, console, stop) as run, server:
        if run.serves_metrics(target):  # a refused run is its message alone
            _print_links(console, server.api.address, target)
            run.follow()
            run.summarise()
            if keep_running and not stop():
                console.print(
                    f"Prometheus keeps running at {server.api.address}; Ctrl-C ends it", highlight=False, soft_wrap=True
                )
                while not stop() and server.alive:
                    time.sleep(POLL_SECONDS / 5)
    raise SystemExit(run.exit_code)


class Run:
    """Training in its own process, and the Prometheus server that scrapes it. The process lives within ``with``."""

    def __init__(self, command: Sequence[str], server: "PrometheusServer", console: Console, stop: StopRequest) -> None:
        self._server, self._console, self._stop = server, console, stop
        self._firing: set[str] = set()
        self._values: dict[str, float] = {}
        self._server_ended = self._signal_sent = False
        self._process = subprocess.Popen(command, start_new_session=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._process.poll() is None:
            if kind is not None:  # Ctrl-C again, or a Prometheus that does not start
                self._process.send_signal(signal.SIGINT)
            _end(self._process)

    @property
    def exit_code(self) -> int:
        """Exit code of the training, which has ended."""
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    def serves_metrics(self, port: int) -> bool:
        """Wait until the training serves its metrics. Whether it does; false if it ends before."""
        while self._runs():
            with closing(socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return True
        return False

    def follow(self) -> None:
        """Wait until the training ends, and print alerts meanwhile."""
        last_poll = time.monotonic()
        while self._runs():
            if time.monotonic() - last_poll > POLL_SECONDS:
                last_poll = time.monotonic()
                self._poll()

    def _runs(self) -> bool:
        """Whether the training runs, after a moment. A signal is forwarded to it once."""
        if self._stop() and not self._signal_sent and self._process.poll() is None:
            self._process.send_signal(self._stop.signal or signal.SIGTERM)
            self._signal_sent = True
        time.sleep(POLL_SECONDS / 20)
        return self._process.poll() is None

    def summarise(self) -> None:
        """Print the last values in Prometheus."""
        self._poll()
        table = Table(title="last values in Prometheus", title_justify="left", show_header=False)
        for name, (_, form) in HEADLINES.items():
            value = self._values.get(name, math.nan)
            table.add_row(name, "no value" if math.isnan(value) else form.format(value))
        table.add_row("firing alerts", ", ".join(sorted(self._firing)) or "none")
        self._console.print(table)

    def _poll(self) -> None:
        from esper_ray.nissa.catalogue.metrics import METRICS
        from esper_ray.nissa.grafana.prometheus import PrometheusError

        if self._server_ended:
            return
        try:
            for name, (metric, _) in HEADLINES.items():
                for curve in self._server.api.at(f"last_over_time({METRICS[f'esper_{metric}'].exported}[5m])"):
                    self._values[name] = curve.points[-1][1]
            firing = self._server.api.firing()
        except PrometheusError as error:
            if not self._server.alive:
                self._server_ended = True
                self._say(f"Prometheus has ended, the run continues: {self._server.last_log_line()}")
            else:
                self._say(str(error))
            return
        for name in sorted(firing.keys() - self._firing):
            self._say(f"alert {name}: {firing[name]}")
        for name in sorted(self._firing - firing.keys()):
            self._say(f"alert {name} resolved")
        self._firing = set(firing)

    def _say(self, message: str) -> None:
        self._console.print(message, highlight=False, soft_wrap=True)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait until the run ends, with time to save; then terminate it."""
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _print_links(console: Console, address: str, target: int) -> None:
    from esper_ray.nissa.catalogue.panels import ROWS
    from esper_ray.nissa.catalogue.queries import SELECTED
    from esper_ray.nissa.grafana.dashboard import filled

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    say(f"Prometheus {address}: alerts {address}/alerts, targets {address}/targets")
    say(f"metrics http://127.0.0.1:{target}/metrics")
    say("panels to watch, one for each row of the dashboard:")
    for row in ROWS:
        panel = row.panels[0]
        query: dict[str, str] = {}
        for number, panel_query in enumerate(panel.queries):
            expression = filled(panel_query.expression.replace(SELECTED, "").replace("{}", ""), "")
            query |= {f"g{number}.expr": expression, f"g{number}.tab": "0", f"g{number}.range_input": "15m"}
        say(f"  {row.title}\n    {panel.title}: {panel.about} Healthy: {row.healthy}")
        say(f"    {address}/graph?{urlencode(query)}")
    say("the whole dashboard in Grafana: esper dashboards push --url http://<grafana>:3000, or docker/compose.yaml")
    say(f"pictures, from another terminal: esper dashboards picture --prometheus {address} FOLDER")
