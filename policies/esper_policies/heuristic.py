"""The heuristic policy: the most urgent of the sensible actions of all slots."""

from collections.abc import Iterator
from dataclasses import dataclass

from esper_ray.leyline.actions import WAIT, Action, AlphaMode, Blueprint, GerminationStyle, LifecycleOp
from esper_ray.leyline.config.base import Section
from esper_ray.leyline.legality import Limits, Masks
from esper_ray.leyline.policy import Decision, View
from esper_ray.leyline.records import HostSignals, SlotReport
from esper_ray.leyline.stages import Stage

FULL = 2
"""Index of the alpha target 1.0."""
FAST = 0
"""Index of the fastest tempo."""


class HeuristicConfig(Section):
    """Thresholds of :class:`HeuristicPolicy`."""

    first_epoch: int = 2
    """Epochs before the first germination."""
    min_contribution_pp: float = 0.5
    """Contribution above which a holding seed is committed."""
    patience: int = 6
    """Epochs in HOLDING after which a seed that contributes too little, or is not let through, is pruned."""
    live_patience: int = 16
    """As ``patience``, of a seed that was born live: it develops in HOLDING."""
    last_pruning: int | None = None
    """Last epoch in which a seed in HOLDING is pruned; later ones stay, since no other could take their place in time.

    ``None`` for every epoch.
    """
    live_last_pruning: int | None = None
    """As ``last_pruning``, of a seed that was born live."""
    confidence: float = 0.0
    """Standard errors by which the contribution of a seed must exceed zero to be committed."""
    max_failures: int | None = None
    """Pruned seeds after which nothing more is tried in a slot; ``None`` for no limit."""
    max_failures_in_a_row: int | None = None
    """Pruned seeds, with none committed between, after which nothing more is tried.

    ``None`` for no limit.
    """
    least_room_pp: float = 0.0
    """Held-out errors in points, down from which there is too little to gain for a birth."""
    fast_fall: float | None = None
    """Share of its errors that the host lost in two epochs, above which it needs no birth.

    ``None`` for no such rule.
    """
    training_patience: int = 25
    """Epochs in TRAINING after which a seed that no gate lets through is pruned."""
    prune_drop_pp: float = 15.0
    """Loss of accuracy in BLENDING above which a seed is pruned."""
    rotation: tuple[Blueprint, ...] = (
        Blueprint.CONV_LIGHT,
        Blueprint.DEPTHWISE,
        Blueprint.BOTTLENECK,
        Blueprint.MLP_SMALL,
        Blueprint.LORA,
        Blueprint.NORM,
    )
    """Blueprints in the order in which they are tried, as far as a run allows them; some for every topology.

    Own ones in other places come after them.
    """


@dataclass(frozen=True, slots=True)
class _Option:
    urgency: float
    action: Action
    reason: str


class HeuristicPolicy:
    """A policy that fossilizes contributing seeds, prunes others, and fills empty slots, deepest first."""

    def __init__(self, limits: Limits, config: HeuristicConfig | None = None) -> None:
        """
        Raises:
            ValueError: if none of the blueprints in the rotation is allowed.
        """
        self.config = config or HeuristicConfig()
        known = [*self.config.rotation, *sorted(set(limits.own_blueprints).difference(self.config.rotation))]
        self.rotation = [blueprint for blueprint in known if blueprint in limits.blueprints]
        self._name_of = limits.blueprint_name
        if not self.rotation:
            allowed = ", ".join(limits.blueprint_name(blueprint) for blueprint in sorted(limits.blueprints))
            raise ValueError(f"no blueprint of the rotation is allowed here; allowed are {allowed}")
        style = GerminationStyle.SIGMOID_ADD
        self._style = int(style if style in limits.styles else min(limits.styles))
        self.begin_episode(0)

    def begin_episode(self, seed: int) -> None:
        """Reset the failure counts; nothing is random, so ``seed`` has no effect."""
        self._failures: dict[int, int] = {}
        self._in_a_row = 0

    def decide(self, view: View) -> Decision:
        """The most urgent legal option, WAIT if there is none."""
        options = [option for option in self._options(view) if view.masks.allows(option.action)]
        if not options:
            return Decision(WAIT, reason="nothing to do")
        best = max(options, key=lambda option: option.urgency)
        if best.action.operation is LifecycleOp.PRUNE:
            self._failures[best.action.slot] = self._failures.get(best.action.slot, 0) + 1
            self._in_a_row += 1
        elif best.action.operation is LifecycleOp.FOSSILIZE:
            self._in_a_row = 0
        return Decision(best.action, reason=best.reason)

    def _options(self, view: View) -> Iterator[_Option]:
        for slot, report in enumerate(view.reports):
            if report is not None:
                yield from self._manage(slot, report, view.signals.epoch)
            elif self._has_use_for_seeds(view.signals) and not self._gave_up(slot):
                yield self._plant(slot, view.masks)

    def _has_use_for_seeds(self, signals: HostSignals) -> bool:
        """Whether the host has something to gain that it does not gain alone."""
        errors = [100.0 - accuracy for accuracy in signals.accuracy_history_pp[-3:]]
        alone = self.config.fast_fall is not None and errors[-1] < (1.0 - self.config.fast_fall) * errors[0]
        return signals.epoch >= self.config.first_epoch and errors[-1] > self.config.least_room_pp and not alone

    def _gave_up(self, slot: int) -> bool:
        most, together = self.config.max_failures, self.config.max_failures_in_a_row
        return (most is not None and self._failures.get(slot, 0) >= most) or (
            together is not None and self._in_a_row >= together
        )

    def _plant(self, slot: int, masks: Masks) -> _Option:
        """Option to germinate in a slot. Deeper slots come first, since their features are richest.

        Each failure lowers the urgency of a slot.
        """
        failures = self._failures.get(slot, 0)
        legal = [blueprint for blueprint in self.rotation if masks.arguments["blueprint"][blueprint]] or self.rotation
        blueprint = legal[failures % len(legal)]
        action = Action(
            op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint, style=self._style, tempo=FAST, alpha_target=FULL
        )
        return _Option(1.0 + 0.01 * slot - 0.1 * failures, action, f"slot is empty: try {self._name_of(blueprint)}")

    def _manage(self, slot: int, seed: SlotReport, epoch: int) -> Iterator[_Option]:
        if seed.stage in (Stage.GERMINATED, Stage.TRAINING):
            yield _Option(2.0, Action(LifecycleOp.ADVANCE, slot), "develop further")
            if seed.ticks_in_stage >= self.config.training_patience:
                yield _Option(
                    3.0, Action(LifecycleOp.PRUNE, slot), f"still in training after {seed.ticks_in_stage} epochs"
                )
        elif seed.stage is Stage.BLENDING:
            yield from self._blend(slot, seed)
        elif seed.stage is Stage.HOLDING and seed.measured.contribution_pp is not None:
            yield self._hold(slot, seed, seed.measured.contribution_pp, epoch)

    def _hold(self, slot: int, seed: SlotReport, contribution: float, epoch: int) -> _Option:
        """Fossilize a contributing seed; prune any other.

        A seed that the gate refuses for too long is also pruned.
        """
        config, held = self.config, seed.ticks_in_stage
        patience, last = (
            (config.patience, config.last_pruning) if seed.tempo else (config.live_patience, config.live_last_pruning)
        )
        stays = last is not None and epoch > last
        doubt = config.confidence * (seed.measured.contribution_error_pp or 0.0)
        sure = contribution > config.min_contribution_pp and (not doubt or contribution > doubt)
        if sure and (stays or held < 2 * patience):
            action = Action(LifecycleOp.FOSSILIZE, slot)
            return _Option(4.0 + contribution / 100.0, action, f"contributes {contribution:+.1f} points")
        if held >= patience and not stays:
            reason = f"contributes {contribution:+.1f} points after {held} epochs"
            return _Option(3.0, Action(LifecycleOp.PRUNE, slot), reason)
        return _Option(0.0, WAIT, "contributes too little so far")

    def _blend(self, slot: int, seed: SlotReport) -> Iterator[_Option]:
        if seed.alpha_mode is not AlphaMode.HOLD:
            return
        if seed.alpha_target < 1.0:
            action = Action(LifecycleOp.SET_ALPHA_TARGET, slot, style=self._style, alpha_target=FULL, alpha_speed=1)
            yield _Option(2.5, action, "bring to full amplitude")
        yield _Option(2.0, Action(LifecycleOp.ADVANCE, slot), "ramp has ended")
        change = seed.measured.improvement_pp
        if change is not None and change < -self.config.prune_drop_pp:
            yield _Option(3.5, Action(LifecycleOp.PRUNE, slot), f"accuracy changed by {change:+.1f} points")
