"""Prometheus server of the tests, and its HTTP interface."""

import json
import shutil
import subprocess
import time
from contextlib import closing, contextmanager
from socket import socket
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from esper_ray.nissa.grafana.dashboard import files

PROMETHEUS = shutil.which("prometheus")
WAIT_SECONDS = 60
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="no prometheus on this machine (Debian's package prometheus has it)"
)


class Prometheus:
    """Client of the HTTP interface of a Prometheus."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path, **query):
        try:
            with urlopen(f"{self.address}/api/v1/{path}?{urlencode(query)}", timeout=30) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            if error.code == 503:
                raise ConnectionError(f"{self.address} is not ready") from error
            raise AssertionError(f"{query}: {error.read().decode()}") from error

    def values(self, expression):
        return [float(item["value"][1]) for item in self.get("query", query=expression)["result"]]

    def firing_alerts(self):
        """Names of the firing alerts."""
        return {item["labels"]["alertname"] for item in self.get("alerts")["alerts"] if item["state"] == "firing"}

    def wait_for(self, expression, seconds=WAIT_SECONDS):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if values := self.values(expression):
                    return values
            except OSError:
                pass
            time.sleep(0.3)
        raise AssertionError(f"{expression} has no result after {seconds} s")


@contextmanager
def running_prometheus(folder, rules=None, **where):
    """Running Prometheus that scrapes every second.

    Args:
        rules: for alerts; ours if not given.
        where: targets, as keys of a scrape configuration.
    """
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    times = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    tree = {"global": times, "rule_files": ["alerts.yaml"], "scrape_configs": [{"job_name": "esper", **where}]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(tree))
    (folder / "alerts.yaml").write_text(rules or files()["alerts.yaml"])
    words = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [PROMETHEUS, *words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
    prometheus = Prometheus(port)
    try:
        prometheus.wait_for("vector(1)")
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)
