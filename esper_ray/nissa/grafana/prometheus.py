"""Client of a Prometheus, and a Prometheus server as a child process."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
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
    """A Prometheus that cannot be found, started or queried."""

    remedy = "Check the address, or install Prometheus where the message looked for it."


@dataclass(frozen=True, slots=True)
class Curve:
    """One time series."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """(Unix time, value)"""


@dataclass(frozen=True, slots=True)
class PrometheusApi:
    """HTTP client of one Prometheus."""

    address: str
    """Such as ``http://127.0.0.1:9090``."""

    def at(self, expression: str, moment: float | None = None) -> list[Curve]:
        """Value of an expression at one moment: one point for each series.

        Args:
            moment: Unix time; now if not given.

        Raises:
            PrometheusError: if there is no answer, or the expression cannot be evaluated.
        """
        time = {} if moment is None else {"time": moment}
        series = self._get("query", query=expression, **time)["result"]
        return [Curve(entry["metric"], [(float(entry["value"][0]), float(entry["value"][1]))]) for entry in series]

    def over(self, expression: str, begin: float, end: float, step_s: float) -> list[Curve]:
        """Values between two moments, one point every ``step_s`` seconds.

        Raises:
            PrometheusError: see above.
        """
        series = self._get("query_range", query=expression, start=begin, end=end, step=step_s)["result"]
        return [Curve(entry["metric"], [(float(t), float(value)) for t, value in entry["values"]]) for entry in series]

    def label_values(self, label: str) -> list[str]:
        """All values of a label, sorted.

        Raises:
            PrometheusError: if there is no answer.
        """
        return sorted(self._get(f"label/{label}/values"))

    def firing(self) -> dict[str, str]:
        """Description of each firing alert by its summary."""
        alerts = self._get("alerts")["alerts"]
        return {
            alert["annotations"]["summary"]: alert["annotations"]["description"]
            for alert in alerts
            if alert["state"] == "firing"
        }

    def is_ready(self) -> bool:
        """Whether it is ready to answer."""
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
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise PrometheusError(f"{self.address} does not answer like a Prometheus: {error!r}") from error


class PrometheusServer:
    """Child process of a Prometheus, alive within ``with``. Its data are in a temporary folder."""

    def __init__(self, target: str, port: int = 0, program: str | None = None) -> None:
        """
        Args:
            target: ``host:port`` that it scrapes every second.
            port: on this machine only; 0 selects a free one.
            program: its executable; that on the PATH if not given.

        Raises:
            PrometheusError: if there is no such program, or the port is in use.
        """
        program = "prometheus" if program is None else program
        executable = shutil.which(program)
        if executable is None:
            raise PrometheusError(
                f"there is no program {program!r}: Debian and Ubuntu have the package prometheus "
                "(`apt-get install prometheus`), others https://prometheus.io/download/"
            )
        self._program, self._target = executable, target
        self.port = _checked_port(port)
        self.api = PrometheusApi(f"http://127.0.0.1:{self.port}")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="esper-prometheus-")
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
                start_new_session=True,  # no SIGINT by Ctrl-C
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
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def alive(self) -> bool:
        """Whether its process is running."""
        return self._process is not None and self._process.poll() is None

    def last_log_line(self) -> str:
        """The last line of its log."""
        text = "" if self._folder is None else (Path(self._folder.name) / "log").read_text()
        lines = text.strip().splitlines()
        return lines[-1] if lines else "its log is empty"

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.api.is_ready():
            if not self.alive:
                raise PrometheusError(f"{self._program} has ended: {self.last_log_line()}")
            if time.monotonic() > deadline:
                raise PrometheusError(f"{self._program} is not ready after {READY_SECONDS:g} s: {self.last_log_line()}")
            time.sleep(0.1)


def free_port() -> int:
    """A free port of this machine."""
    return _checked_port(0)


def _checked_port(port: int) -> int:
    with closing(socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PrometheusError(f"port {port} is not available: {error.strerror or error}") from error
        return int(probe.getsockname()[1])


def _reason(error: HTTPError) -> str:
    body = error.read().decode(errors="replace")
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError):
        return f"{error.code} {error.reason}"
