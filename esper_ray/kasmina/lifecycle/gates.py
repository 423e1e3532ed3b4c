"""The gates between stages. Each check carries its value, its threshold and its margin."""

import math
from dataclasses import dataclass
from enum import IntEnum

from esper_ray.kasmina.lifecycle.alpha import TOLERANCE, AlphaController
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage


class Gate(IntEnum):
    """Gate in front of a stage. Number 4 belonged to a stage that was removed."""

    G0 = 0
    G1 = 1
    G2 = 2
    G3 = 3
    G5 = 5


GATE_OF_TARGET = {
    Stage.GERMINATED: Gate.G0,
    Stage.TRAINING: Gate.G1,
    Stage.BLENDING: Gate.G2,
    Stage.HOLDING: Gate.G3,
    Stage.FOSSILIZED: Gate.G5,
}


@dataclass(frozen=True, slots=True)
class GateRules:
    """Thresholds of the gates; the meaning of each is in ``GrowthConfig``."""

    strict: bool = False
    min_training_epochs: int = 10
    min_blending_epochs: int = 10
    min_training_improvement_pp: float = 0.5
    min_gradient_ratio: float = 0.1
    min_gradient_health: float = 0.7
    min_contribution_pp: float = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison ``value >= threshold`` (or ``>`` where ``strictly``).

    An unmeasured value fails, and so does one that is not finite: infinity is a fault, not a large measurement.
    """

    name: str
    """Quantity or condition, as the event log has it."""
    value: float | None
    threshold: float
    strictly: bool = False
    failure: str = ""
    """Message of a failed condition; empty for a quantity, whose numbers form the message."""

    @property
    def margin(self) -> float | None:
        """Value minus threshold; ``None`` if unmeasured."""
        return None if self.value is None else self.value - self.threshold

    @property
    def passed(self) -> bool:
        """Whether the value was measured, is finite and reaches the threshold."""
        if self.value is None or not math.isfinite(self.value):
            return False
        return self.value > self.threshold if self.strictly else self.value >= self.threshold

    @property
    def message(self) -> str:
        """What was measured and what is needed, in words."""
        if self.value is None:
            return f"{self.name}: not measured yet"
        if self.failure:
            return self.failure
        if not math.isfinite(self.value):
            return f"{self.name}: {self.value}, needed a finite value"
        return f"{self.name}: {self.value:.4g}, needed {'above' if self.strictly else 'at least'} {self.threshold:.4g}"


@dataclass(frozen=True, slots=True)
class GateResult:
    """Verdict of one gate."""

    gate: Gate
    target: Stage
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def message(self) -> str:
        """The failed checks in words, empty if the gate is open."""
        return "; ".join(check.message for check in self.checks if not check.passed)


def condition(name: str, met: bool | None, failure: str) -> Check:
    """A check of a condition that holds or does not.

    Args:
        met: ``None`` if it was not measured.
        failure: message if it does not hold.
    """
    return Check(name, None if met is None else float(met), 1.0, failure=failure)


def evaluate_gate(
    target: Stage,
    stage: Stage,
    ticks_in_stage: int,
    alpha: AlphaController,
    measured: SeedMeasurements,
    rules: GateRules,
) -> GateResult:
    """The verdict of the gate in front of ``target`` on a seed in ``stage``.

    Even the permissive set requires a measured contribution above zero for G5.

    Raises:
        ValueError: if no gate leads to ``target``.
    """
    gate = GATE_OF_TARGET.get(target)
    if gate is None:
        raise ValueError(f"no gate leads to {target.name}; gates lead to {', '.join(s.name for s in GATE_OF_TARGET)}")
    checks: tuple[Check, ...] = ()
    if gate is Gate.G0:
        checks = (
            condition(
                "slot is empty", stage in (Stage.DORMANT, Stage.UNKNOWN), f"the slot holds a seed in {stage.name}"
            ),
        )
    elif gate is Gate.G1:
        checks = (
            condition(
                "seed is germinated", stage is Stage.GERMINATED, f"the seed is in {stage.name}, not in GERMINATED"
            ),
        )
    elif gate is Gate.G2:
        checks = _training_checks(ticks_in_stage, measured, rules)
    elif gate is Gate.G3:
        checks = _blending_checks(ticks_in_stage, alpha, rules)
    elif gate is Gate.G5:
        checks = _commit_checks(measured, rules)
    return GateResult(gate, target, checks)


def _training_checks(ticks: int, measured: SeedMeasurements, rules: GateRules) -> tuple[Check, ...]:
    dwell = Check("epochs in training", ticks, rules.min_training_epochs)
    if rules.strict:
        return (
            dwell,
            Check("improvement (pp)", measured.improvement_pp, rules.min_training_improvement_pp),
            Check("gradient ratio", measured.gradient_ratio, rules.min_gradient_ratio),
        )
    calm = None if measured.exploding is None else not measured.exploding
    return (
        dwell,
        condition("gradients do not explode", calm, "gradients explode"),
        Check("gradient health", measured.gradient_health, rules.min_gradient_health),
    )


def _blending_checks(ticks: int, alpha: AlphaController, rules: GateRules) -> tuple[Check, ...]:
    full = Check("amplitude target", alpha.target, 1.0 - TOLERANCE)
    rests = condition("amplitude rests at target", alpha.at_target, "amplitude is still moving to its target")
    if rules.strict:
        return (full, rests, Check("epochs in blending", ticks, rules.min_blending_epochs))
    return (full, rests)


def _commit_checks(measured: SeedMeasurements, rules: GateRules) -> tuple[Check, ...]:
    healthy = condition("seed is finite", measured.finite, "parameters or gradients of the seed are not finite")
    if rules.strict:
        return (healthy, Check("contribution (pp)", measured.contribution_pp, rules.min_contribution_pp))
    return (healthy, Check("contribution (pp)", measured.contribution_pp, 0.0, strictly=True))
