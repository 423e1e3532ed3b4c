"""Ray Tune shell of sweeps: a placement group and run directory per trial.

Tune places trials, passes their reports to the scheduler and retries failures. The state of a trial is its run
directory, not a snapshot of Tune: a resumed sweep is a new experiment over the unfinished trials, each of which resumes
from its newest checkpoint. A killed driver therefore loses nothing, the scheduler is rebuilt from earlier reports, and
no foreign file is unpickled.
"""

import logging
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import ray
import torch
from ray import tune

from esper_actors.cluster.connection import start_ray
from esper_actors.cluster.control_processes import ClusterLostError, ControlProcesses
from esper_actors.sweep.resources import RESOURCE_KINDS, amount, bundles, check_fits, check_places
from esper_actors.sweep.schedulers import make_scheduler
from esper_actors.sweep.trainable import run_trial
from esper_actors.training.workers import ShouldStop
from esper_ray.leyline.config.sweep import Trial
from esper_ray.leyline.results.sweep import DONE
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

SETTINGS = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # run directories hold all that its loggers would write
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # prints even with verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # Ray would print tracebacks; the sweep reports the errors of trials
}
"""Environment variables of Tune for this process and the trials."""


class Watcher(Protocol):
    """An observer of a running sweep."""

    def changed(self, trial: str, status: str) -> None:
        """Called when a trial starts, finishes a round, or ends."""


class Sweeper:
    """The runner of trials. Used within ``with``, which stops all processes."""

    def __init__(self, trials: Sequence[Trial], concurrent: int) -> None:
        """
        Args:
            concurrent: trials at a time; 0: as many as the cluster holds.
        """
        self._concurrent = concurrent
        self._configs = {trial.name: trial.config for trial in trials}
        self._requests = {trial.name: bundles(trial.config) for trial in trials}
        self._strategies = {trial.name: trial.config.system.placement.upper() for trial in trials}
        self._control: ControlProcesses | None = None
        self._started_ray = False
        self._sweep: SweepDirectory | None = None

    def __enter__(self) -> Self:
        os.environ.update(SETTINGS)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        if not ray.is_initialized():
            if "RAY_ADDRESS" not in os.environ:
                cpus = max(os.cpu_count() or 1, self._cpus())
                check_fits(self._requests, self._concurrent, {"CPU": cpus, "GPU": torch.cuda.device_count()})
            start_ray(self._cpus())
            self._started_ray = True
        try:
            self._control = ControlProcesses(self._abandon)
            check_fits(self._requests, self._concurrent, ray.cluster_resources())
            check_places(self._configs, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        control, self._control = self._control, None
        failure = None
        if control is not None:
            failure = control.verdict(exception[1])
            control.stop()
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False
        if failure is not None:
            raise failure

    def describe(self) -> str:
        """A one-line description of cluster and trials."""
        has, needs = ray.cluster_resources(), self._largest()
        fit = min(int(has.get(kind, 0.0) / count + 1e-6) for kind, count in needs.items() if count)
        at_once = min(fit, self._concurrent) if self._concurrent else fit
        takes = " and ".join(f"{count:g} {kind}" for kind, count in needs.items() if count)
        there = ", ".join(f"{has.get(kind, 0.0):g} {kind}" for kind in needs)
        address = ray.get_runtime_context().gcs_address
        return f"Ray at {address} has {there}; a trial takes up to {takes}: {at_once} at a time"

    def run(self, sweep: SweepDirectory, watcher: Watcher, should_stop: ShouldStop) -> dict[str, str]:
        """Run until all trials of ``sweep`` have ended or a stop is requested.

        Returns:
            The last error of each trial that failed after all retries.
        """
        self._sweep = sweep
        left = [name for name in sweep.trials if sweep.result(name).status not in DONE]
        storage = sweep.path.resolve() / "tune"
        shutil.rmtree(storage, ignore_errors=True)  # never needed again: see above
        tuner = tune.Tuner(
            tune.with_resources(run_trial, partial(_placement, dict(self._requests), dict(self._strategies))),
            param_space=_space(sweep, left),
            tune_config=tune.TuneConfig(
                scheduler=make_scheduler(sweep),
                max_concurrent_trials=self._concurrent or None,
                reuse_actors=True,  # a trial that follows another one does not import torch again
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="experiment",
                storage_path=str(storage),
                stop=_Stop(should_stop, self._control),
                callbacks=[_Watch(sweep, watcher)],
                failure_config=tune.FailureConfig(max_failures=sweep.sweep.retries),
                verbose=0,
            ),
        )
        try:
            results = tuner.fit()
        except BaseException:
            for name in left:
                if sweep.result(name).status == "running":
                    sweep.set_status(name, "failed")
            raise
        errors = {Path(result.path).name: _last_line(result.error) for result in results if result.error}
        for name in left:
            if name in errors:
                sweep.set_status(name, "failed", error=errors[name])
            elif sweep.result(name).status == "running":
                sweep.set_status(name, "interrupted")
        shutil.rmtree(storage, ignore_errors=True)
        return errors

    def _abandon(self, error: ClusterLostError) -> None:
        """End this program. Tune waits for a control process that has died, and Ray would end it without a word."""
        try:
            if self._sweep is not None:
                for name in self._sweep.trials:
                    if self._sweep.result(name).status == "running":
                        self._sweep.set_status(name, "failed")
                error.add_note("safe: every finished round of every trial")
                error.add_note(f"resume with: esper sweep --resume {shlex.quote(str(self._sweep.path))}")
            lines = [f"error: {error}", *getattr(error, "__notes__", ())]
            sys.stderr.write("".join(f"esper: {line}\n" for line in lines))
            sys.stderr.flush()
        finally:
            os._exit(error.exit_code)

    def _largest(self) -> dict[str, float]:
        """Largest request of any trial, by kind."""
        return {
            kind: max(amount(trial_bundles, kind) for trial_bundles in self._requests.values())
            for kind in RESOURCE_KINDS
        }

    def _cpus(self) -> int:
        return math.ceil(self._largest()["CPU"])


def _placement(requests: Mapping[str, Any], strategies: Mapping[str, str], config: Mapping[str, Any]) -> Any:
    """The placement group of the trial of ``config``. Tune pickles it, so it refers to data only."""
    name = config["trial"]
    return tune.PlacementGroupFactory(requests[name], strategy=strategies[name])


def _last_line(error: Exception) -> str:
    """The last line of a traceback, which names the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])


def _space(sweep: SweepDirectory, names: list[str]) -> dict[str, Any]:
    """The search space that Tune expands to the trials ``names`` with their present settings."""
    settings = {name: sweep.settings(name) for name in names}

    def value(key: str) -> Any:
        return tune.sample_from(lambda spec: settings[spec.config["trial"]][key])

    grid = {key: value(key) for key in sweep.sweep.grid}
    watched = "RAY_ADDRESS" in os.environ  # a local cluster is not scraped
    return {"sweep": str(sweep.path.resolve()), "trial": tune.grid_search(names), "watched": watched, **grid}


class _Stop(tune.Stopper):  # type: ignore[misc]
    """A stopper that ends the experiment when a stop is requested."""

    def __init__(self, should_stop: ShouldStop, control: ControlProcesses | None) -> None:
        self._should_stop, self._control = should_stop, control

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        stop = self._should_stop()
        if not stop and self._control is not None:
            self._control.check()
        return stop

    def __reduce__(self) -> Any:
        return tune.stopper.NoopStopper, ()  # snapshots of Tune are never read


class _Watch(tune.Callback):  # type: ignore[misc]
    """A callback that stores the status of trials and notifies the watcher."""

    def __init__(self, sweep: SweepDirectory, watcher: Watcher) -> None:
        self._sweep, self._watcher = sweep, watcher

    def __reduce__(self) -> Any:
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.changed(str(trial), "running")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._watcher.changed(str(trial), "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = self._sweep.result(str(trial))
        if result.round_index < result.rounds:  # it was the scheduler that ended it
            self._sweep.set_status(str(trial), "stopped")
        self._watcher.changed(str(trial), "stopped" if result.round_index < result.rounds else "finished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.changed(str(trial), "failed")
