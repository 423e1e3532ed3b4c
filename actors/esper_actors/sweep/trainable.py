"""The Ray shell of one trial: what runs in the process that Tune starts for it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune

from esper_actors.cluster.telemetry_actor import EXPORT_SECONDS
from esper_actors.cluster.workers import RayWorkerGroup
from esper_actors.rollout.snapshots import SnapshotPolicy
from esper_actors.sweep.schedulers import METRIC, TIME
from esper_actors.sweep.trial import Origin, TrialRun
from esper_ray.leyline.config.loading import build
from esper_ray.leyline.config.sweep import POPULATION_SCHEDULERS
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

ORIGIN = "origin.json"
"""The one file of a checkpoint as Tune sees it: which state of which trial it stands for."""


def run_trial(config: dict[str, Any]) -> None:
    """One trial, in a process of its own. ``config`` holds the folder of the sweep and the values of its grid."""
    sweep = SweepDirectory.open(Path(config["sweep"]))
    name = tune.get_context().get_trial_name()  # config["trial"] may be that of a trial whose state was copied
    settings = {**sweep.trials[name].settings, **{key: config[key] for key in sweep.sweep.grid}}
    run_config = build(sweep.base.model_dump(mode="json"), settings)
    is_population = sweep.sweep.scheduler in POPULATION_SCHEDULERS

    def report(run: RunDirectory) -> None:
        standing = sweep.standing(name)
        metrics = {METRIC: standing.score_pp, TIME: standing.round_index}
        if not is_population:
            tune.report(metrics)
            return
        with TemporaryDirectory() as folder:
            origin = {"run": run.path.name, "round": standing.round_index}
            Path(folder, ORIGIN).write_text(json.dumps(origin))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    keeping = SnapshotPolicy(str(sweep.trials_path / f".{name}.episodes"), run_config.system.snapshot_every)
    names = (sweep.path.name, name) if config["watched"] and run_config.telemetry.level != "off" else None
    with RayWorkerGroup(run_config, keeping, name, metrics=names, linger_s=EXPORT_SECONDS) as crew:
        TrialRun(sweep, name, run_config, _origin() if is_population else None).run(crew, report)


def _origin() -> Origin | None:
    """The state from which Tune tells this trial to go on."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        tree = json.loads(Path(folder, ORIGIN).read_text())
    return Origin(tree["run"], tree["round"])
