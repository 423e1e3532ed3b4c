"""Sink for MLflow: a server (``MLFLOW_TRACKING_URI``), or files in ``mlruns/`` beside the run directory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_ray.nissa.sinks.protocol import RunFacts

EXPERIMENT = "esper-ray"
TAG = "esper.run"
PARAMETERS = 100
"""Most parameters of one request to MLflow."""
ENDS = {"finished": "FINISHED", "interrupted": "KILLED"}


class MlflowSink:
    """Sink for MLflow, needs the package ``mlflow`` or ``mlflow-skinny``."""

    name = "mlflow"

    def __init__(self) -> None:
        self._client: Any = None
        self._run = ""

    def open(self, facts: RunFacts) -> None:
        """See :class:`Sink`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:  # without a database, which would need all of MLflow
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            place = (facts.folder.absolute().parent / "mlruns").as_uri()
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=place)
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        runs = self._client.search_runs([experiment], f"tags.`{TAG}` = '{facts.name}'", max_results=1)
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {TAG: facts.name, "esper.group": facts.group}
        self._run = self._client.create_run(experiment, tags=tags, run_name=facts.name).info.run_id
        parameters = [Param(name, str(value)) for name, value in facts.config.items()]
        for begin in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(self._run, params=parameters[begin : begin + PARAMETERS])

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if (experiment := self._client.get_experiment_by_name(name)) is not None:
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # another run has just created it
            if (experiment := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(experiment.experiment_id)

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """See :class:`Sink`."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, v, now, round_index) for name, v in values.items()])

    def close(self, status: str, picture: Path | None) -> None:
        """See :class:`Sink`."""
        if picture is not None:
            self._client.log_artifact(self._run, str(picture))
        self._client.set_tag(self._run, "esper.status", status)
        self._client.set_terminated(self._run, ENDS.get(status, "FAILED"))
