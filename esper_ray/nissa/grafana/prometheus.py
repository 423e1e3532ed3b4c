"""A Prometheus of our own beside a run, and what any Prometheus answers."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from esper_ray.leyline.errors import UserError
from esper_ray.nissa.grafana.dashboard import files

READY_SECONDS = 60.0
ANSWER_SECONDS = 10.0


class PrometheusError(UserError):
    """A Prometheus that cannot be found, started or asked."""

    remedy = "Check the address, or install Prometheus where the message looked for it."


@dataclass(frozen=True, slots=True)
class Curve:
    """A time series."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """(Unix time, value)"""


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """Asks a Prometheus by HTTP."""

    address: str
    """Such as ``http://127.0.0.1:9090``."""

    def at(self, expression: str, moment: float | None = None) -> list[Curve]:
        """What an expression gives at a moment: one point for each series.

        Args:
            moment: Unix time; now if not given.

        Raises:
            PrometheusError: if nobody answers, or the expression cannot be evaluated.
        """
        when = {} if moment is None else {"time": moment}
        found = self._get("query", query=expression, **when)["result"]
        return [Curve(one["metric"], [(float(one["value"][0]), float(one["value"][1]))]) for one in found]

    def over(self, expression: str, begin: float, end: float, step_s: float) -> list[Curve]:
        """What it gives between two moments, one point every ``step_s`` seconds.

        Raises:
            PrometheusError: see above.
        """
        found = self._get("query_range", query=expression, start=begin, end=end, step=step_s)["result"]
        return [Curve(one["metric"], [(float(t), float(value)) for t, value in one["values"]]) for one in found]

    def label_values(self, label: str) -> list[str]:
        """All values of a label, sorted.

        Raises:
            PrometheusError: if nobody answers.
        """
        return sorted(self._get(f"label/{label}/values"))

    def firing(self) -> dict[str, str]:
        """Alerts that ring, with what they say."""
        alerts = self._get("alerts")["alerts"]
        return {
            one["annotations"]["summary"]: one["annotations"]["description"]
            for one in alerts
            if one["state"] == "firing"
        }

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            with urlopen(f"{self.address}/-/ready", timeout=ANSWER_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, **query: Any) -> Any:
        url = f"{self.address}/api/v1/{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            with urlopen(url, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise PrometheusError(f"{self.address}: {_reason(error)}") from error
        except URLError as error:
            raise PrometheusError(f"no Prometheus answers at {self.address}: {error.reason}") from error
        except (OSError, ValueError, KeyError) as error:
            raise PrometheusError(f"{self.address} does not answer as a Prometheus does: {error!r}") from error


class PrometheusServer:
    """A Prometheus that is started within ``with``, and ended. Its data are in a temporary folder."""

    def __init__(self, target: str, port: int = 0, program: str | None = None) -> None:
        """
        Args:
            target: ``host:port`` that it scrapes every second.
            port: where it answers, on this machine only; 0: a free one.
            program: its executable; that on the PATH if not given.

        Raises:
            PrometheusError: if there is no such program, or the port is taken.
        """
        found = shutil.which(program or "prometheus")
        if found is None:
            raise PrometheusError(
                f"there is no program {program or 'prometheus'}: Debian and Ubuntu have the package prometheus "
                "(`apt-get install prometheus`), others https://prometheus.io/download/"
            )
        self._program, self._target = found, target
        self.port = _checked_port(port)
        self.api = PrometheusApi(f"http://127.0.0.1:{self.port}")
        self._folder = tempfile.TemporaryDirectory(prefix="esper-prometheus-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        scrape = {"job_name": "esper", "static_configs": [{"targets": [self._target]}]}
        times = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        tree = {"global": times, "rule_files": ["alerts.yaml"], "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(tree))
        (folder / "alerts.yaml").write_text(files()["alerts.yaml"])
        words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [self._program, *words, f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is not meant for it
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._folder.cleanup()

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The last line of its log."""
        lines = (Path(self._folder.name) / "log").read_text().strip().splitlines()
        return lines[-1] if lines else "it has said nothing"

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.api.is_ready():
            if not self.alive:
                raise PrometheusError(f"{self._program} has ended: {self.last_words()}")
            if time.monotonic() > deadline:
                raise PrometheusError(f"{self._program} is not ready after {READY_SECONDS:g} s: {self.last_words()}")
            time.sleep(0.1)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return _checked_port(0)


def _checked_port(port: int) -> int:
    with closing(socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PrometheusError(f"port {port} cannot be had: {error.strerror or error}") from error
        return int(probe.getsockname()[1])


def _reason(error: HTTPError) -> str:
    body = error.read().decode(errors="replace")
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError):
        return f"{error.code} {error.reason}"
