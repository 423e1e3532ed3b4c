"""Toy problems with a known optimum for the real learner and policy: records and legality without a host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from learner_builders import open_masks, small_config

from esper_actors.training.learner.ppo import PPOLearner, exploration_share
from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import state_value
from esper_policies.tamiyo import LearnedPolicy
from esper_ray.leyline.actions import Action, AlphaMode, BlendOperator, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.context import SlotPlace
from esper_ray.leyline.legality import Limits, legality
from esper_ray.leyline.policy import Episode, Trajectory, View
from esper_ray.leyline.records import HostSignals, Reports, SeedMeasurements, SlotReport
from esper_ray.leyline.stages import Stage


class Toy(Protocol):
    """An episode of a fixed number of steps."""

    steps: int

    def view(self) -> View:
        """The present view."""

    def step(self, action: Action) -> float:
        """Execute a legal action; its reward."""


def toy_config(**changes: Any) -> Any:
    """Configuration of a small learner with a high learning rate."""
    settings = {
        "gamma": 1.0,
        "policy__memory_size": 32,
        "policy__feature_size": 32,
        "ppo__lr": 3e-3,
        "ppo__epochs": 4,
        "ppo__minibatch_episodes": 16,
        "ppo__target_kl": 0.05,
        "ppo__entropy_start": 0.02,
        "ppo__entropy_end": 0.0,
        "ppo__epsilon_start": 0.1,
    }
    return small_config(**(settings | changes))


def slot_report(stage: Stage, slot: int, **changes: Any) -> SlotReport:
    """A slot report; keys that are not a field of the report belong to its measurements."""
    measured = {key: changes.pop(key) for key in list(changes) if key in SeedMeasurements.__slots__}
    report = SlotReport(
        slot_id=f"r0c{slot}",
        seed_id=f"r0c{slot}-1",
        blueprint=Blueprint.NOOP,
        stage=stage,
        previous_stage=Stage.UNKNOWN,
        ticks_in_stage=0,
        age=0,
        alpha=1.0 if stage in (Stage.HOLDING, Stage.FOSSILIZED) else 0.0,
        alpha_mode=AlphaMode.HOLD,
        alpha_target=1.0,
        alpha_velocity=0.0,
        ramp_total=0,
        ramp_done=0,
        operator=BlendOperator.ADD,
        tempo=3,
        parameters=24,
        measured=SeedMeasurements(**measured),
    )
    return replace(report, **changes)


def host_signals(epoch: int, epochs: int, loss: float = 1.0, accuracy_pp: float = 50.0) -> HostSignals:
    return HostSignals(epoch, epochs, loss, accuracy_pp, (loss,), (accuracy_pp,), 0, True)


class Bandit:
    """Contextual bandit of one step in which every action is legal.

    Accuracy determines the right operation, loss the blueprint, contribution the slot. Each is a third of the reward;
    the blueprint counts as right with operations that read none.
    """

    steps = 1
    OPERATIONS = (LifecycleOp.GERMINATE, LifecycleOp.PRUNE, LifecycleOp.FOSSILIZE)
    BLUEPRINTS = (Blueprint.DEPTHWISE, Blueprint.MLP)
    OPTIMUM = 1.0

    def __init__(self, seed: int, slots: int = 3) -> None:
        rng = np.random.default_rng([7, seed])
        which, self.slot, kind = int(rng.integers(3)), int(rng.integers(slots)), int(rng.integers(2))
        self.operation, self.blueprint = self.OPERATIONS[which], self.BLUEPRINTS[kind]
        self._signals = host_signals(0, 1, loss=(0.5, 3.0)[kind], accuracy_pp=10.0 + 40.0 * which)
        contributions = rng.uniform(-9.0, -1.0, slots)
        contributions[self.slot] = rng.uniform(1.0, 9.0)
        blueprints = rng.integers(1, 13, slots)
        self._reports: Reports = tuple(
            slot_report(Stage.HOLDING, i, contribution_pp=float(pp), blueprint=Blueprint(int(blueprints[i])))
            for i, pp in enumerate(contributions)
        )

    def view(self) -> View:
        reports = self._reports
        masks = open_masks(len(reports))
        return View.build(self._signals, reports, masks)

    def step(self, action: Action) -> float:
        if action.op != self.operation:
            return 0.0
        blueprint = action.blueprint == self.blueprint or self.operation is not LifecycleOp.GERMINATE
        return (1.0 + (action.slot == self.slot) + blueprint) / 3.0


@dataclass(frozen=True)
class Rules:
    """Rewards of a :class:`Lifecycle`."""

    steps: int = 16
    slots: int = 3
    right: Blueprint = Blueprint.DEPTHWISE
    blueprints: frozenset[Blueprint] = frozenset(
        {Blueprint.NORM, Blueprint.CONV_LIGHT, Blueprint.DEPTHWISE, Blueprint.BOTTLENECK}
    )
    window: tuple[int, int] = (3, 6)
    """First and last epoch of a timely germination."""
    elsewhere: float = 0.4
    """Share of the prize that the right blueprint wins in a wrong slot."""
    untimely: float = 0.3
    """Share of the prize that is lost with each epoch between a germination and its window."""
    wrong: float = 0.0
    """Reward of committing any other blueprint."""
    birth: float = -0.01
    late: float = 0.02
    """Deducted from the prize of 1 for each epoch before it is won."""

    def timing(self, epoch: int) -> float:
        """Share of the prize that a germination at ``epoch`` can win."""
        missed = max(self.window[0] - epoch, epoch - self.window[1], 0)
        return max(0.0, 1.0 - self.untimely * missed)

    def commitment(self, share: float, epoch: int) -> float:
        """Reward of FOSSILIZE at ``epoch``; a share of 0 is a wrong blueprint."""
        return share * (1.0 - self.late * epoch) if share else self.wrong


PATIENCE = {Stage.GERMINATED: 1, Stage.TRAINING: 2, Stage.BLENDING: 2}
"""Ticks in a stage before ADVANCE is accepted."""
NEXT = {
    Stage.GERMINATED: Stage.TRAINING,
    Stage.TRAINING: Stage.BLENDING,
    Stage.BLENDING: Stage.HOLDING,
}


def stage_after(stage: Stage, ticks: int, op: LifecycleOp) -> tuple[Stage, int]:
    """Stage and ticks of a seed at the end of a step with ``op``."""
    if op is LifecycleOp.ADVANCE and ticks >= PATIENCE[stage]:
        return NEXT[stage], 1
    if op is LifecycleOp.FOSSILIZE:
        return Stage.FOSSILIZED, 1
    if op is LifecycleOp.SET_ALPHA_TARGET:
        return Stage.BLENDING, 1
    if op is LifecycleOp.PRUNE:
        return Stage.DORMANT, 0
    return stage, ticks + 1


def optimum(rules: Rules) -> float:
    """Highest return of one seed, by dynamic programming over epoch, stage and ticks.

    More seeds earn no more, because only one commitment is rewarded.
    """

    @cache
    def best(epoch: int, stage: Stage, ticks: int, share: float) -> float:
        if epoch == rules.steps or stage is Stage.FOSSILIZED:
            return 0.0
        returns = [best(epoch + 1, *stage_after(stage, ticks, LifecycleOp.WAIT), share)]
        if stage is Stage.DORMANT:
            returns.append(rules.birth + best(epoch + 1, Stage.GERMINATED, 1, rules.timing(epoch)))
        elif stage in NEXT:
            returns.append(best(epoch + 1, *stage_after(stage, ticks, LifecycleOp.ADVANCE), share))
        elif stage is Stage.HOLDING:
            returns.append(rules.commitment(share, epoch))
        return max(returns)

    return best(0, Stage.DORMANT, 0, 0.0)


class Lifecycle:
    """The task `patterns` without networks: one blueprint in one slot, germinated in time, wins the prize.

    Only the first commitment of an episode is rewarded. Stages, masks, observations and contexts are the real ones, and
    empty slots are empty. The right slot is the deepest one; slots are in no order of depth.
    """

    def __init__(self, seed: int, rules: Rules) -> None:
        rng = np.random.default_rng([11, seed])
        self.rules, self.steps, self.epoch = rules, rules.steps, 0
        depths = rng.permutation(np.arange(1, rules.slots + 1) / (rules.slots + 1))
        self.slot = int(depths.argmax())
        places = tuple(self._place(float(depth), rng) for depth in depths)
        self._reports: list[SlotReport | None] = [None] * rules.slots
        self._shares = [0.0] * rules.slots
        self._won = False
        slots = tuple(f"r0c{index}" for index in range(rules.slots))
        self._limits = Limits(slots, rules.blueprints, frozenset(GerminationStyle), places=places)

    @staticmethod
    def _place(depth: float, rng: np.random.Generator) -> SlotPlace:
        """A place at ``depth``; all else is drawn and means nothing."""
        channels, positions = (int(2**power) for power in rng.integers(2, 9, 2))
        return SlotPlace(depth, channels, positions, float(rng.uniform(0.0, 1.0)), Topology.IMAGES)

    def view(self) -> View:
        reports = tuple(self._reports)
        signals = host_signals(self.epoch, self.steps)
        return View.build(signals, reports, legality(reports, self._limits), self._limits.places)

    def step(self, action: Action) -> float:
        reward = 0.0
        for index, report in enumerate(self._reports):
            op = action.operation if index == action.slot else LifecycleOp.WAIT
            if op is LifecycleOp.GERMINATE:
                reward = self._germinate(index, Blueprint(action.blueprint))
            elif report is not None:
                if op is LifecycleOp.FOSSILIZE and not self._won:
                    reward, self._won = self.rules.commitment(self._shares[index], self.epoch), True
                self._age(index, op)
        self.epoch += 1
        return reward

    def _germinate(self, index: int, blueprint: Blueprint) -> float:
        share = self.rules.timing(self.epoch) * (1.0 if index == self.slot else self.rules.elsewhere)
        self._shares[index] = share if blueprint is self.rules.right else 0.0
        self._reports[index] = slot_report(Stage.GERMINATED, index, blueprint=blueprint, ticks_in_stage=1, age=1)
        return self.rules.birth

    def _age(self, index: int, op: LifecycleOp) -> None:
        report = self._reports[index]
        assert report is not None
        stage, ticks = stage_after(report.stage, report.ticks_in_stage, op)
        if stage is Stage.DORMANT:
            self._reports[index] = None
        else:
            self._reports[index] = replace(report, stage=stage, ticks_in_stage=ticks, age=report.age + 1)


def play_round(learner: PPOLearner, toys: Sequence[Toy], epsilon: float, seed: int) -> list[Episode]:
    """One episode of each toy, in a batch, step by step through the memory."""
    network, generator = learner.network, torch.Generator().manual_seed(seed)
    columns: list[tuple[Any, ...]] = []
    memory = None
    for _ in range(toys[0].steps):
        views = [toy.view() for toy in toys]
        features = np.stack([view.features for view in views])
        blueprints = np.stack([view.blueprints for view in views])
        context = np.stack([view.context for view in views])
        masks = np.stack([view.masks.vector() for view in views])
        with torch.inference_mode():
            seen = [torch.from_numpy(part)[:, None] for part in (features, blueprints, context)]
            output = network(*seen, memory)
            legal = MaskTensors.from_vectors(torch.from_numpy(masks), blueprints.shape[1])
            distribution = ActionDistribution(output.logits, legal, epsilon)
            choice = distribution.sample(generator)
            actions = choice.actions
            values = network.values(state_value(distribution.op, output.q))
            q_taken = network.values(output.q.gather(1, actions[:, :1])[:, 0])
            policy_columns = (actions, choice.log_prob_op, choice.log_prob_arguments, values, q_taken)
        memory = output.memory
        chosen_actions = [Action.from_indices(row, blueprints.shape[1]) for row in actions.tolist()]
        assert all(view.masks.allows(action) for view, action in zip(views, chosen_actions, strict=True))
        rewards = np.asarray([toy.step(action) for toy, action in zip(toys, chosen_actions, strict=True)])
        columns.append((features, blueprints, context, masks, *(column.numpy() for column in policy_columns), rewards))
    stacked = [np.stack(parts, axis=1) for parts in zip(*columns, strict=True)]
    return [_episode(index, [part[index] for part in stacked]) for index in range(len(toys))]


def _episode(index: int, parts: Sequence[np.ndarray]) -> Episode:
    trajectory = Trajectory(*parts, bootstrap=0.0, terminated=True)
    return Episode(index, index, index, trajectory, (), float(parts[-1].sum()), 0.0, 0.0, 1.0, {}, 0, 0, False)


def train(
    learner: PPOLearner,
    make_toy: Callable[[int], Toy],
    episodes: int,
    watch: Callable[[list[Episode], dict[str, float]], None] = lambda episodes, report: None,
) -> None:
    """All rounds of the learner's configuration, each episode with its own seed."""
    for index in range(learner.config.ppo.rounds):
        toys = [make_toy(index * episodes + i) for i in range(episodes)]
        played_episodes = play_round(learner, toys, exploration_share(learner.config.ppo, index), seed=index)
        watch(played_episodes, learner.update(played_episodes, index))


def greedy_policy(learner: PPOLearner) -> LearnedPolicy:
    """The learner's present policy, greedy and without exploration."""
    policy = LearnedPolicy(learner.config.policy)
    policy.load(learner.weights(), 0.0)
    policy.greedy = True
    return policy


def mean_total(policy: LearnedPolicy, toys: Sequence[Toy]) -> float:
    """Mean return of ``policy``."""
    totals = []
    for index, toy in enumerate(toys):
        policy.begin_episode(index)
        totals.append(0.0)
        for _ in range(toy.steps):
            view = toy.view()
            action = policy.decide(view).action
            assert view.masks.allows(action)
            totals[-1] += toy.step(action)
    return float(np.mean(totals))
