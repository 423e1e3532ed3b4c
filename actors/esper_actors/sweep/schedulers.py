"""Schedulers of sweeps: Ray Tune's, made resumable and separate for each reward mode.

Tune identifies a trial by a random id. Here trials have names that stay the same when a sweep is resumed, so that a
scheduler can be rebuilt from the reports of earlier processes.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from esper_actors.sweep.trial import METRIC, TIME
from esper_ray.leyline.config.sweep import HalvingConfig, SweepConfig
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

History = Mapping[str, Sequence[float]]
"""Reported values of each trial by name, one a round."""


class Halving(FIFOScheduler):  # type: ignore[misc]
    """ASHA over named trials, rebuilt from the reports of earlier processes.

    Tune drops the state of a scheduler when an experiment is restored. Here it is rebuilt by replaying all earlier
    reports into ASHA. A milestone that a trial has passed is not judged again.
    """

    def __init__(self, config: HalvingConfig, rounds: int, past: History) -> None:
        """
        Args:
            rounds: rounds of every trial; a finished trial is never stopped.
        """
        super().__init__()
        grace = min(config.grace_rounds or max(1, rounds // 4), rounds)
        self._rounds = rounds
        self._asha = ASHAScheduler(
            time_attr=TIME,
            metric=METRIC,
            mode="max",
            max_t=rounds,
            grace_period=grace,
            reduction_factor=config.reduction,
            stop_last_trials=False,
        )
        length = max((len(curve) for curve in past.values()), default=0)
        for name in past:
            self._asha.on_trial_add(None, _named(name))
        for index in range(length):
            for name, curve in past.items():
                if index < len(curve):
                    self._judge(name, {TIME: index + 1, METRIC: curve[index]})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See Tune."""
        self._asha.on_trial_add(tune_controller, _named(str(trial)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decision of the scheduler for a trial: continue or stop."""
        return self._judge(str(trial), result)

    def _judge(self, name: str, result: Mapping[str, Any]) -> str:
        if TIME not in result or result[TIME] >= self._rounds:
            return str(TrialScheduler.CONTINUE)
        return str(self._asha.on_trial_result(None, _named(name), result))

    def debug_string(self) -> str:
        """Status text for Tune."""
        return str(self._asha.debug_string())


class Populations(FIFOScheduler):  # type: ignore[misc]
    """One population for each reward mode, so that policies never move between reward modes."""

    def __init__(self, make: Callable[[], Any], population_of: Callable[[Any], str], rounds: int) -> None:
        """
        Args:
            make: creates the scheduler of a population.
            population_of: name of the population of a trial.
            rounds: rounds of every trial; a finished trial is never changed.
        """
        super().__init__()
        self._make, self._population_of, self._rounds = make, population_of, rounds
        self._schedulers: dict[str, Any] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """See Tune."""
        population = self._population_of(trial)
        scheduler = self._schedulers.setdefault(population, None) or self._make()
        self._schedulers[population] = scheduler
        scheduler.on_trial_add(self._view(tune_controller, population), trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decision for a trial: continue, stop, or pause. A paused trial restarts from the state of a better trial."""
        if TIME in result and result[TIME] >= self._rounds:
            return str(TrialScheduler.CONTINUE)
        with warnings.catch_warnings():
            # PB2's Gaussian process: options that SciPy drops, fits that do not converge
            for category in (DeprecationWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            return str(self._of(trial).on_trial_result(self._view_for(tune_controller, trial), trial, result))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See Tune."""
        self._of(trial).on_trial_error(self._view_for(tune_controller, trial), trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See Tune."""
        self._of(trial).on_trial_complete(self._view_for(tune_controller, trial), trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """See Tune."""
        self._of(trial).on_trial_remove(self._view_for(tune_controller, trial), trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The least advanced trial of the first population that has a trial to start."""
        for population, scheduler in self._schedulers.items():
            trial = scheduler.choose_trial_to_run(self._view(tune_controller, population))
            if trial is not None:
                return trial
        return None

    def debug_string(self) -> str:
        """Status text for Tune."""
        return "\n".join(f"{name}: {scheduler.debug_string()}" for name, scheduler in self._schedulers.items())

    def _of(self, trial: Any) -> Any:
        return self._schedulers[self._population_of(trial)]

    def _view_for(self, tune_controller: Any, trial: Any) -> "_View":
        return self._view(tune_controller, self._population_of(trial))

    def _view(self, tune_controller: Any, population: str) -> "_View":
        return _View(tune_controller, lambda trial: self._population_of(trial) == population)


class _View:
    """A view of Tune's controller that is limited to the trials of one population."""

    def __init__(self, tune_controller: Any, belongs: Callable[[Any], bool]) -> None:
        self._controller, self._belongs = tune_controller, belongs

    def get_trials(self) -> list[Any]:
        """All trials of the population."""
        return [trial for trial in self._controller.get_trials() if self._belongs(trial)]

    def get_live_trials(self) -> list[Any]:
        """Trials of the population that have not ended."""
        return [trial for trial in self._controller.get_live_trials() if self._belongs(trial)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)


def make_scheduler(sweep: SweepDirectory) -> Any:
    """The scheduler of ``sweep``, rebuilt from the earlier reports of its trials."""
    rounds = max(trial.config.ppo.rounds for trial in sweep.trials.values())
    if sweep.sweep.scheduler == "none":
        return FIFOScheduler()
    if sweep.sweep.scheduler == "asha":
        past = {name: sweep.result(name).reported_pp(sweep.sweep.window) for name in sweep.trials}
        return Halving(sweep.sweep.asha, rounds, past)
    return Populations(
        lambda: _population(sweep.sweep, rounds), lambda trial: sweep.trials[str(trial)].config.reward.mode, rounds
    )


def _population(sweep: SweepConfig, rounds: int) -> Any:
    """An asynchronous PBT or PB2 scheduler; synchronous ones can leave trials paused for ever."""
    population = sweep.population
    common = {
        "time_attr": TIME,
        "metric": METRIC,
        "mode": "max",
        "perturbation_interval": population.interval_rounds or max(1, rounds // 10),
        "quantile_fraction": population.quantile,
        "log_config": False,
    }
    if sweep.scheduler == "pb2":
        from ray.tune.schedulers.pb2 import PB2  # brings scikit-learn

        bounds = {key: [float(min(values)), float(max(values))] for key, values in sweep.grid.items()}
        return PB2(hyperparam_bounds=bounds, **common)
    choices = {key: sorted(values, key=_order) for key, values in sweep.grid.items()}
    return PopulationBasedTraining(hyperparam_mutations=choices, resample_probability=population.resample, **common)


def _order(value: Any) -> tuple[bool, Any]:
    """Sort key: numbers by size, then other values by their text, so that neighbours are similar."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else str(value)


def _named(name: str) -> Any:
    return SimpleNamespace(trial_id=name)
