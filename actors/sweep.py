"""The Ray Tune shell of sweeps: trials that own their actors, within a placement group each.

Tune places trials, hands their reports to the scheduler and starts again what fails. What a trial *is*
lives in its run directory, not in Tune's snapshots: a sweep is taken up again by starting a new
experiment over the trials that are not done, each of which goes on from its newest checkpoint. So the
kill of a driver loses nothing, a scheduler sees the past again, and nobody unpickles a stranger's file.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self

import ray
import torch
from ray import tune

from actors.cluster import RayCrew, ResourceError, start_ray
from actors.crew import ShouldStop
from actors.sweep_schedulers import METRIC, TIME, make_scheduler
from actors.sweep_trial import Origin, TrialRun
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.loading import build
from esper_ray.leyline.standings import DONE
from esper_ray.leyline.sweep import POPULATION_SCHEDULERS, Trial
from esper_ray.nissa.run_directory import RunDirectory
from esper_ray.nissa.sweep_directory import SweepDirectory

SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # run directories hold all that its loggers would write
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # prints even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Of Tune, for this process and the trials."""
ORIGIN = "origin.json"
"""The one file of a checkpoint as Tune sees it: which state of which trial it stands for."""


class Watcher(Protocol):
    """Looks on while a sweep runs."""

    def changed(self, trial: str, status: str) -> None:
        """A trial has started, finished a round, or ended."""


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """What a trial asks for, as the bundles of a placement group. The first, empty one is the trial's own process.

    It waits while its actors work, and so does the learner while environments play: neither takes a CPU.
    """
    system = config.system
    actors = max(math.ceil(system.envs / system.envs_per_actor), min(system.envs, len(system.devices)))
    devices = [system.devices[index % len(system.devices)] for index in range(actors)]
    users = [*devices, system.device]
    gpu = {device: {} if device == "cpu" else {"GPU": 1.0 / users.count(device)} for device in users}
    return [{}, *({"CPU": 1.0, **gpu[device]} for device in devices), *filter(None, [gpu[system.device]])]


def check_fits(asked: Mapping[str, list[dict[str, float]]], concurrent: int, has: Mapping[str, float]) -> None:
    """Refuse at once what would otherwise wait for ever.

    Args:
        asked: bundles by trial.

    Raises:
        ResourceError: with the arithmetic.
    """
    at_once = max(1, concurrent)
    for kind in ("CPU", "GPU"):
        needs = {trial: sum(bundle.get(kind, 0.0) for bundle in wanted) for trial, wanted in asked.items()}
        largest = sorted(needs, key=lambda name: -needs[name])[:at_once]
        total = sum(needs[name] for name in largest)
        if total > has.get(kind, 0.0) + 1e-6:
            terms = " + ".join(f"{needs[name]:g}" for name in largest)
            what = f"trial {largest[0]} needs {total:g}" if len(largest) == 1 else f"{terms} = {total:g}"
            at_a_time = f"{at_once} trials at a time need " if len(largest) > 1 else ""
            raise ResourceError(f"{at_a_time}{what} {kind}, the cluster has {has.get(kind, 0.0):g}")


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

    with RayCrew(run_config) as crew:
        TrialRun(sweep, name, run_config, _origin() if is_population else None).run(crew, report)


def _origin() -> Origin | None:
    """The state from which Tune tells this trial to go on."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        tree = json.loads(Path(folder, ORIGIN).read_text())
    return Origin(tree["run"], tree["round"])


class Sweeper:
    """Runs trials. Used within ``with``, which ends what was started."""

    def __init__(self, trials: Sequence[Trial], concurrent: int) -> None:
        """
        Args:
            concurrent: trials at a time; 0: as many as fit.
        """
        self._concurrent = concurrent
        self._asked = {trial.name: bundles(trial.config) for trial in trials}
        self._started_ray = False

    def __enter__(self) -> Self:
        os.environ.update(SETTINGS)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        if not ray.is_initialized():
            if "RAY_ADDRESS" not in os.environ:
                cpus = max(os.cpu_count() or 1, self._widest())
                check_fits(self._asked, self._concurrent, {"CPU": cpus, "GPU": torch.cuda.device_count()})
            start_ray(self._widest())
            self._started_ray = True
        try:
            check_fits(self._asked, self._concurrent, ray.cluster_resources())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def describe(self) -> str:
        """One line about what is where."""
        has, widest = ray.cluster_resources(), self._widest()
        fit = int(has["CPU"] // widest)
        at_once = min(fit, self._concurrent) if self._concurrent else fit
        address = ray.get_runtime_context().gcs_address
        return f"Ray at {address}: {has['CPU']:g} CPU, a trial takes up to {widest}; {at_once} at a time"

    def run(self, sweep: SweepDirectory, watcher: Watcher, should_stop: ShouldStop) -> None:
        """Run until all trials of ``sweep`` have ended, or somebody asks to stop."""
        left = [name for name in sweep.trials if sweep.standing(name).status not in DONE]
        storage = sweep.path.resolve() / "tune"
        shutil.rmtree(storage, ignore_errors=True)  # never needed again: see above
        tuner = tune.Tuner(
            tune.with_resources(run_trial, self._resources),
            param_space=_space(sweep, left),
            tune_config=tune.TuneConfig(
                scheduler=make_scheduler(sweep),
                max_concurrent_trials=self._concurrent or None,
                trial_name_creator=_name_of,
                trial_dirname_creator=_name_of,
            ),
            run_config=tune.RunConfig(
                name="experiment",
                storage_path=str(storage),
                stop=_Stop(should_stop),
                callbacks=[_Watch(sweep, watcher)],
                failure_config=tune.FailureConfig(max_failures=sweep.sweep.retries),
                verbose=0,
            ),
        )
        tuner.fit()
        for name in left:
            if sweep.standing(name).status == "running":
                sweep.set_status(name, "interrupted")
        shutil.rmtree(storage, ignore_errors=True)

    def _resources(self, config: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory(self._asked[config["trial"]])

    def _widest(self) -> int:
        return max(math.ceil(sum(bundle.get("CPU", 0.0) for bundle in wanted)) for wanted in self._asked.values())


def _name_of(trial: Any) -> str:
    return str(trial.config["trial"])


def _space(sweep: SweepDirectory, names: list[str]) -> dict[str, Any]:
    """What Tune expands to the trials ``names``, each with the values of the grid that it has now."""
    settings = {name: sweep.settings(name) for name in names}

    def value(key: str) -> Any:
        return tune.sample_from(lambda spec: settings[spec.config["trial"]][key])

    grid = {key: value(key) for key in sweep.sweep.grid}
    return {"sweep": str(sweep.path.resolve()), "trial": tune.grid_search(names), **grid}


class _Stop(tune.Stopper):  # type: ignore[misc]
    """Ends the experiment when somebody asks."""

    def __init__(self, should_stop: ShouldStop) -> None:
        self._should_stop = should_stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._should_stop()

    def __reduce__(self) -> Any:
        return tune.stopper.NoopStopper, ()  # Tune's snapshots, which nobody reads, need not hold it


class _Watch(tune.Callback):  # type: ignore[misc]
    """Notes how trials end, and tells the watcher."""

    def __init__(self, sweep: SweepDirectory, watcher: Watcher) -> None:
        self._sweep, self._watcher = sweep, watcher

    def __reduce__(self) -> Any:
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.changed(str(trial), "running")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._watcher.changed(str(trial), "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        standing = self._sweep.standing(str(trial))
        if standing.round_index < standing.rounds:  # it was the scheduler that ended it
            self._sweep.set_status(str(trial), "stopped")
        self._watcher.changed(str(trial), "stopped" if standing.round_index < standing.rounds else "finished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._sweep.set_status(str(trial), "failed")
        self._watcher.changed(str(trial), "failed")
