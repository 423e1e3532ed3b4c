"""The Ray shell of one trial: the function that Tune runs in a worker process.

Trials that follow each other share a process if their resources are equal, so that torch is imported once.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune

from esper_actors.cluster.metrics_exporter import EXPORT_SECONDS, RayExporter
from esper_actors.factory import make_workers
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.sweep.trial import METRIC, TIME, Origin, TrialRun
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.config.sweep import POPULATION_SCHEDULERS
from esper_ray.nissa.metrics.exporter import Exporter
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

ORIGIN = "origin.json"
"""The one file of a Tune checkpoint: name and round of the state that it refers to."""


def run_trial(config: dict[str, Any]) -> None:
    """Run one trial. ``config`` holds the folder of the sweep, the trial and the values of its grid."""
    sweep = SweepDirectory.open(Path(config["sweep"]))
    name = tune.get_context().get_trial_name()  # config["trial"] may be that of a trial whose state was copied
    settings = {**sweep.trials[name].settings, **{key: config[key] for key in sweep.sweep.grid}}
    run_config = build(sweep.base.model_dump(mode="json"), settings)
    is_population = sweep.sweep.scheduler in POPULATION_SCHEDULERS

    def report(run: RunDirectory) -> None:
        result = sweep.result(name)
        metrics = {METRIC: result.score_pp, TIME: result.round_index}
        if not is_population:
            tune.report(metrics)
            return
        with TemporaryDirectory() as folder:
            origin = {"run": run.path.name, "round": result.round_index}
            Path(folder, ORIGIN).write_text(json.dumps(origin))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    watched = bool(config["watched"]) and run_config.telemetry.level != "off"
    local = run_config.system.workers == "local"
    snapshots = SnapshotPolicy(str(sweep.trials_path / f".{name}.episodes"), run_config.system.snapshot_every)
    origin = _origin() if is_population else None
    with _exporters((sweep.path.name, name) if watched and local else None) as exporters:
        trial = TrialRun(sweep, name, run_config, origin, watched=watched, exporters=exporters)
        metrics = (sweep.path.name, name) if watched else None
        placed = on_own_gpus(run_config) if local else run_config
        trial.run(make_workers(placed, snapshots=snapshots, label=name, metrics=metrics, scraped=watched), report)


def on_own_gpus(config: RunConfig) -> RunConfig:
    """``config`` with its CUDA devices numbered from 0, as Ray shows them to the process."""
    devices = dict.fromkeys(d for d in (*config.system.devices, config.system.device) if d != "cpu")
    own = {"cpu": "cpu"} | {device: f"cuda:{index}" for index, device in enumerate(devices)}
    changes = {"device": own[config.system.device], "devices": tuple(own[d] for d in config.system.devices)}
    return config.model_copy(update={"system": config.system.model_copy(update=changes)})


@contextmanager
def _exporters(names: tuple[str, str] | None) -> Iterator[tuple[Exporter, ...]]:
    """The exporter of a local trial, open until its last metrics have been scraped."""
    if names is None:
        yield ()
        return
    exporter = RayExporter(*names)
    try:
        yield (exporter,)
    finally:
        exporter.close(EXPORT_SECONDS)


def _origin() -> Origin | None:
    """The state that Tune has chosen for this trial; ``None``: its own newest."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        tree = json.loads(Path(folder, ORIGIN).read_text())
    return Origin(tree["run"], tree["round"])
