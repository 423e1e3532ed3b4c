"""The evaluator: episodes on paired seeds without exploration, scored on the test split."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from esper_actors.evaluation.candidates import SCRATCH_FLOPS, UNSTEERED, WIDE, Candidate
from esper_actors.evaluation.scratch import ScratchTraining, Search
from esper_actors.rollout.runner import POLICY_STREAM, Interrupted
from esper_policies.scripts import BASELINES
from esper_ray.environment import MorphogenesisEnv
from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.leyline.commitment import committed_accuracy_pp, committed_slots
from esper_ray.leyline.config.host import AnyHostConfig, BuiltInHostConfig, CNNHostConfig, MLPHostConfig, OwnHostConfig
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.process.locks import GLOBAL_GENERATOR
from esper_ray.leyline.records import Reports
from esper_ray.leyline.results.evaluation import Score
from esper_ray.leyline.stages import WITH_MODULE
from esper_ray.runtime.host import EpisodeRuntime, PlantedSeed
from esper_ray.simic.rewards.terminal import priced_value
from esper_ray.tolaria.assembly import AnyData, ConfiguredHost, derived_seed
from esper_ray.tolaria.flops import FlopMeter

OTHER_TRY = 202
"""Key of the seeds of further tries."""
WIDEST = 4096
"""Largest width in the search for a host of a given size."""


@dataclass(frozen=True, slots=True)
class FinalNetwork:
    """A final network, from which controls are built."""

    parameters: int
    seeds: tuple[PlantedSeed, ...]
    train_flops: float = field(default=0.0, compare=False)
    """Operations of its growth."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """The score of an episode, and its final network."""

    score: Score
    final: FinalNetwork


class Evaluator:
    """An evaluator of candidates in the environment of one configuration."""

    def __init__(self, config: RunConfig, device: str = "cpu", *, greedy: bool = True) -> None:
        """
        Args:
            config: its ``compile_mode`` is ignored: hosts are trained eagerly, so that operations can be counted.
            greedy: learned policies take their mode; ``False``: they sample.
        """
        training = config.training.model_copy(update={"compile_mode": "off"})
        self.config = config.model_copy(update={"training": training})
        self.device, self.greedy = device, greedy
        self.flops = FlopMeter()
        self.env = MorphogenesisEnv(self.config, device, flops=self.flops)
        self._host_parameters = host_parameter_count(self.config.host, self.env.data)
        self._scratch = ScratchTraining(self.config, self.env, device, self.flops)

    def play(self, candidate: Candidate, seed: int, should_stop: Callable[[], bool] = lambda: False) -> EpisodeResult:
        """Run one episode of a policy.

        Of several tries the best by the objective counts, with the operations of all.

        Raises:
            Interrupted: if a stop is requested between two steps.
            ValueError: if the policy cannot play here.
        """
        results = [self._episode(candidate, try_seed, should_stop) for try_seed in _tries(candidate, seed)]
        best = max(results, key=lambda result: result.score.objective_pp)
        spent = sum(result.score.train_flops for result in results)
        return EpisodeResult(replace(best.score, seed=seed, train_flops=spent), best.final)

    def _episode(self, candidate: Candidate, seed: int, should_stop: Callable[[], bool]) -> EpisodeResult:
        env = self.env
        policy = candidate.policy(env.limits, self.config.task.name, self.device, greedy=self.greedy)
        self.flops.total = 0.0
        env.reset(seed=seed)
        policy.begin_episode(derived_seed(seed, POLICY_STREAM))
        over = False
        while not over:
            if should_stop():
                raise Interrupted
            action = policy.decide(env.view).action
            if not env.masks.allows(action):
                raise RuntimeError(f"{candidate.label} chose the illegal action {action} at step {env.epoch + 1}")
            _, _, terminated, truncated, _ = env.step(action.to_indices())
            over = terminated or truncated
        return self._result(candidate.label, seed, env.runtime, env.reports, env.ledger.total())

    def unsteered(
        self, kind: str, seed: int, after: FinalNetwork, should_stop: Callable[[], bool] = lambda: False
    ) -> EpisodeResult:
        """Run one episode of a control, built from the final network of a policy.

        Args:
            kind: ``wide-host``, ``from-scratch``, ``from-scratch-flops``, or the name of a search.

        Raises:
            Interrupted: if a stop is requested between two epochs.
            ValueError: if ``kind`` is another, or there is no such host.
        """
        search, scratch = Search.parse(kind), self._scratch
        if search is None and kind not in UNSTEERED:
            raise ValueError(f"unknown control {kind!r}; there are {', '.join(UNSTEERED)}, random-search-2x, asha-2x")
        self.flops.total = 0.0
        if search is not None:
            look = scratch.successive_halving if search.halving else scratch.random_search
            runtime = look(seed, search.times * after.train_flops, self._objective_pp, should_stop)
        elif kind == WIDE:
            host = widened_host(self.config.host, self.env.data, after.parameters)
            wide = self.config.model_copy(update={"host": host})
            runtime = scratch.train(scratch.start(seed, wide=wide), should_stop)
        else:
            equal = kind == SCRATCH_FLOPS
            epochs = scratch.epochs_within(seed, after.seeds, after.train_flops) if equal else None
            runtime = scratch.train(scratch.start(seed, after.seeds, epochs=epochs), should_stop)
        return self._result(kind, seed, runtime, runtime.reports(), None)

    def _result(
        self, label: str, seed: int, runtime: EpisodeRuntime, reports: Reports, reward: float | None
    ) -> EpisodeResult:
        present = [report for report in reports if report is not None and report.stage in WITH_MODULE]
        grown = sum(report.parameters for report in present)
        committed, accuracy_pp = committed_slots(reports), runtime.measured.accuracy_pp
        score = Score(
            policy=label,
            seed=seed,
            test_accuracy_pp=runtime.test_measurement().accuracy_pp,
            val_accuracy_pp=accuracy_pp,
            objective_pp=self._objective_pp(runtime),
            committed_accuracy_pp=committed_accuracy_pp(committed, runtime.measured),
            parameters=runtime.total_parameters,
            grown_parameters=grown,
            train_flops=self.flops.total,
            rollbacks=runtime.health.rollbacks,
            fossilized=len(committed),
            total_reward=reward,
            seeds_grown=tuple((report.slot_id, report.blueprint_name) for report in present),
        )
        states = runtime.organism.model.states
        planted = (
            PlantedSeed(report.slot_id, report.blueprint_name, state.style)
            for report in present
            if (state := states[report.slot_id]) is not None
        )
        return EpisodeResult(score, FinalNetwork(runtime.total_parameters, tuple(planted), self.flops.total))

    def _objective_pp(self, runtime: EpisodeRuntime) -> float:
        """Objective in percentage points: validation accuracy minus the price of grown parameters."""
        grown = runtime.total_parameters - self._host_parameters
        return 100.0 * priced_value(runtime.measured.accuracy_pp, grown, self.config.reward)


def _tries(candidate: Candidate, seed: int) -> list[int]:
    """Seeds of the tries of one episode, its own one first."""
    return [seed, *(derived_seed(seed, OTHER_TRY, number) for number in range(1, candidate.tries))]


def widened_host(host: AnyHostConfig, data: AnyData, parameters: int) -> AnyHostConfig:
    """The narrowest host of the same family and depth with at least ``parameters`` parameters.

    Raises:
        ValueError: if there is none, or the host is an own one.
    """
    if isinstance(host, OwnHostConfig):
        raise ValueError(f"the own host {host.build!r} cannot be widened; there is no control {WIDE}")
    field, unit = _width_of(host)
    for width in range(getattr(host, field), WIDEST + 1, unit):
        wider = host.model_copy(update={field: width})
        if host_parameter_count(wider, data) >= parameters:
            return wider
    raise ValueError(f"no host with {field} up to {WIDEST} has {parameters} parameters")


def host_parameter_count(host: AnyHostConfig, data: AnyData) -> int:
    """Parameter count of a host, without allocating the weights of a built-in one."""
    if isinstance(host, OwnHostConfig):
        with seeded_initialisation(0):
            return count_parameters(ConfiguredHost(host)(data).module)
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]), torch.device("meta"):
        return count_parameters(build_host(host, data.example_shape, data.classes).module)


def _width_of(host: BuiltInHostConfig) -> tuple[str, int]:
    """Name of the width field of a host, and the step between valid widths."""
    if isinstance(host, CNNHostConfig):
        return "base_channels", 1
    if isinstance(host, MLPHostConfig):
        return "width", 1
    return "embedding", host.heads


def unique_labels(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with unique labels: a second ``digits`` becomes ``digits-2``.

    Names of baselines and controls are reserved for these.
    """
    reserved = {*BASELINES, *UNSTEERED}
    reserved_labels = {entry.label for entry in candidates} | reserved
    labels: set[str] = set()
    result = []
    for entry in candidates:
        label = entry.label
        if label in labels or (label in reserved and label != entry.baseline):
            label = next(
                new for count in itertools.count(2) if (new := f"{entry.label}-{count}") not in reserved_labels
            )
        reserved_labels.add(label)
        labels.add(label)
        result.append(replace(entry, label=label))
    return result
