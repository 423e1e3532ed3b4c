"""Simple strategies, honest and not: what a policy might find out about a reward. Each looks at reports only."""

from collections.abc import Callable, Iterator, Mapping

from esper_ray.leyline.actions import WAIT, Action, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import View
from esper_ray.leyline.records import SlotReport
from esper_ray.leyline.stages import Stage

FULL, FAST = 2, 0
"""Indices of the alpha target 1.0 and of the fastest tempo and speed."""
HELD = 5
"""Epochs in HOLDING after which honest strategies judge a seed."""
PATIENCE = 8
"""Epochs in HOLDING after which they give one up."""
SOLVED_PP = 99.0
"""Accuracy from which nothing is left to win."""

RIGHT = (Blueprint.CONV_LIGHT, Blueprint.BOTTLENECK, Blueprint.DEPTHWISE)
"""By slot: what did best on other seeds of ``digits``; the first alone solves ``patterns``."""

Options = Iterator[Action]
Strategy = Callable[["Situation"], Options]


class Situation:
    """A view, and what it takes to name actions in it."""

    def __init__(self, view: View, limits: Limits) -> None:
        self.view, self.limits = view, limits

    @property
    def seeds(self) -> list[tuple[int, SlotReport]]:
        """Occupied slots."""
        return [(slot, report) for slot, report in enumerate(self.view.reports) if report is not None]

    @property
    def empty(self) -> list[int]:
        """Free slots, the first ones first: there parameters are cheapest."""
        return [slot for slot, report in enumerate(self.view.reports) if report is None]

    def live(self) -> list[tuple[int, SlotReport]]:
        """Seeds whose fate is open: those that a PRUNE would name."""
        stages = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)
        return [(slot, report) for slot, report in self.seeds if report.stage in stages]

    def holding(self, least: int = 0) -> list[tuple[int, SlotReport]]:
        """Seeds that wait for a decision since so many epochs."""
        return [(s, r) for s, r in self.seeds if r.stage is Stage.HOLDING and r.ticks_in_stage >= least]

    def plant(self, slot: int, *wanted: Blueprint) -> Action:
        """A seed of the first blueprint that the run allows."""
        blueprint = next((b for b in wanted if b in self.limits.blueprints), min(self.limits.blueprints))
        style = min(self.limits.styles, key=lambda s: s is not GerminationStyle.LINEAR_ADD)
        return Action(LifecycleOp.GERMINATE, slot, blueprint, int(style), FAST, alpha_target=FULL)


def _prune(slot: int) -> Action:
    return Action(LifecycleOp.PRUNE, slot)


def _commit(slot: int) -> Action:
    return Action(LifecycleOp.FOSSILIZE, slot)


def idle(s: Situation) -> Options:
    """Nothing, ever."""
    yield from ()


def churn(s: Situation) -> Options:
    """Germinate, and prune as soon as it is allowed."""
    yield from (_prune(slot) for slot, _ in s.live())
    yield from (s.plant(slot, Blueprint.CONV_LIGHT) for slot in s.empty)


def rush(s: Situation) -> Options:
    """Commit every seed in the first epoch in which it is allowed."""
    yield from (_commit(slot) for slot, _ in s.holding())
    yield from (s.plant(slot, _rotation(slot)) for slot in s.empty)


def turntable(s: Situation) -> Options:
    """Take seeds up to HOLDING, cash in what the stages pay, prune, and begin again."""
    yield from (_prune(slot) for slot, _ in s.holding(2))
    yield from (s.plant(slot, Blueprint.CONV_LIGHT) for slot in s.empty)


def hold_for_ever(s: Situation) -> Options:
    """Grow the right seeds, and never decide about them."""
    yield from _right_seeds(s)


def fossilize_everything(s: Situation) -> Options:
    """Fill every slot with whatever comes, and commit all of it in due time."""
    yield from (_commit(slot) for slot, _ in s.holding(HELD))
    yield from (s.plant(slot, _rotation(slot)) for slot in s.empty)


def ransomware(s: Situation) -> Options:
    """Blend in seeds that can do nothing early, so that the network comes to lean on them, and commit them then."""
    for slot, report in s.holding():
        if (report.measured.contribution_pp or 0.0) >= 1.0:
            yield _commit(slot)
    yield from (s.plant(slot, Blueprint.NORM) for slot in s.empty)


def cheapest_blueprint(s: Situation) -> Options:
    """The cheapest seed in every slot, judged honestly."""
    yield from _judge(s)
    yield from (s.plant(slot, Blueprint.NORM) for slot in s.empty)


def do_right(s: Situation) -> Options:
    """The right blueprint, judged when there is evidence: what contributes is committed, the rest is given up."""
    yield from _judge(s)
    yield from _right_seeds(s)


def _right_seeds(s: Situation) -> Options:
    """The seed that brings most for its price in each slot, as long as there is something left to win."""
    if s.view.signals.val_accuracy_pp < SOLVED_PP:
        yield from (s.plant(slot, RIGHT[slot % len(RIGHT)]) for slot in s.empty)


def _judge(s: Situation) -> Options:
    for slot, report in s.holding(HELD):
        contribution, error = report.measured.contribution_pp, report.measured.contribution_error_pp
        if contribution is not None and contribution > max(1.0, 2.0 * (error or 0.0)):
            yield _commit(slot)
    yield from (_prune(slot) for slot, _ in s.holding(PATIENCE))


def _rotation(slot: int) -> Blueprint:
    return (Blueprint.NORM, Blueprint.BOTTLENECK, Blueprint.DEPTHWISE)[slot % 3]


STRATEGIES: Mapping[str, Strategy] = {
    "idle": idle,
    "churn": churn,
    "rush": rush,
    "turntable": turntable,
    "hold-for-ever": hold_for_ever,
    "fossilize-everything": fossilize_everything,
    "ransomware": ransomware,
    "cheapest-blueprint": cheapest_blueprint,
    "do-right": do_right,
}


def decision(strategy: Strategy, view: View, limits: Limits) -> Action:
    """The first legal option of ``strategy``, WAIT if there is none."""
    situation = Situation(view, limits)
    return next((action for action in strategy(situation) if view.masks.allows(action)), WAIT)
