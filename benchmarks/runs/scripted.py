"""Simple strategies, honest and exploiting, for tests of the rewards. Each uses reports only."""

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
"""Epochs in HOLDING after which they prune a seed."""
SOLVED_PP = 99.0
"""Accuracy above which no further seed is worth its price."""

RIGHT = (Blueprint.CONV_LIGHT, Blueprint.BOTTLENECK, Blueprint.DEPTHWISE)
"""By slot: the best blueprint on other seeds of ``digits``; the first alone solves ``patterns``."""

Options = Iterator[Action]
Strategy = Callable[["Situation"], Options]


class Situation:
    """View with the helpers to build actions for it."""

    def __init__(self, view: View, limits: Limits) -> None:
        self.view, self.limits = view, limits

    @property
    def seeds(self) -> list[tuple[int, SlotReport]]:
        """Occupied slots."""
        return [(slot, report) for slot, report in enumerate(self.view.reports) if report is not None]

    @property
    def empty(self) -> list[int]:
        """Free slots in order; parameters are cheapest in the first."""
        return [slot for slot, report in enumerate(self.view.reports) if report is None]

    def live(self) -> list[tuple[int, SlotReport]]:
        """Live seeds, which PRUNE can remove."""
        stages = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING)
        return [(slot, report) for slot, report in self.seeds if report.stage in stages]

    def holding(self, least: int = 0) -> list[tuple[int, SlotReport]]:
        """Seeds that have been in HOLDING for at least this number of epochs."""
        return [(s, r) for s, r in self.seeds if r.stage is Stage.HOLDING and r.ticks_in_stage >= least]

    def germinate(self, slot: int, *choices: Blueprint) -> Action:
        """A seed of the first blueprint that the run allows."""
        blueprint = next((b for b in choices if b in self.limits.blueprints), min(self.limits.blueprints))
        style = min(self.limits.styles, key=lambda s: s is not GerminationStyle.LINEAR_ADD)
        return Action(LifecycleOp.GERMINATE, slot, blueprint, int(style), FAST, alpha_target=FULL)


def _prune(slot: int) -> Action:
    return Action(LifecycleOp.PRUNE, slot)


def _commit(slot: int) -> Action:
    return Action(LifecycleOp.FOSSILIZE, slot)


def idle(s: Situation) -> Options:
    """WAIT in every step."""
    yield from ()


def churn(s: Situation) -> Options:
    """Germinate, and prune as soon as it is allowed."""
    yield from (_prune(slot) for slot, _ in s.live())
    yield from (s.germinate(slot, Blueprint.CONV_LIGHT) for slot in s.empty)


def rush(s: Situation) -> Options:
    """Commit every seed in the first epoch in which it is allowed."""
    yield from (_commit(slot) for slot, _ in s.holding())
    yield from (s.germinate(slot, _rotation(slot)) for slot in s.empty)


def turntable(s: Situation) -> Options:
    """Advance seeds to HOLDING for the rewards of the stages, prune them, and start again."""
    yield from (_prune(slot) for slot, _ in s.holding(2))
    yield from (s.germinate(slot, Blueprint.CONV_LIGHT) for slot in s.empty)


def hold_for_ever(s: Situation) -> Options:
    """Grow the right seeds, and hold them for ever."""
    yield from _right_seeds(s)


def fossilize_everything(s: Situation) -> Options:
    """Fill every slot with any seed, and commit all of them after the holding time."""
    yield from (_commit(slot) for slot, _ in s.holding(HELD))
    yield from (s.germinate(slot, _rotation(slot)) for slot in s.empty)


def ransomware(s: Situation) -> Options:
    """Blend in useless seeds early, so that the network depends on them, and commit them."""
    for slot, report in s.holding():
        if (report.measured.contribution_pp or 0.0) >= 1.0:
            yield _commit(slot)
    yield from (s.germinate(slot, Blueprint.NORM) for slot in s.empty)


def cheapest_blueprint(s: Situation) -> Options:
    """Grow the cheapest seed in every slot, and judge it honestly."""
    yield from _judge(s)
    yield from (s.germinate(slot, Blueprint.NORM) for slot in s.empty)


def do_right(s: Situation) -> Options:
    """Grow the right blueprints; commit seeds with a measured contribution, prune the others."""
    yield from _judge(s)
    yield from _right_seeds(s)


def _right_seeds(s: Situation) -> Options:
    """Germinate the best seed for its price in each slot, below the target accuracy."""
    if s.view.signals.val_accuracy_pp < SOLVED_PP:
        yield from (s.germinate(slot, RIGHT[slot % len(RIGHT)]) for slot in s.empty)


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
