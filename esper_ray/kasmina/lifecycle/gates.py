"""The gates between stages. Each check carries its value, its threshold and its margin."""

from dataclasses import dataclass
from enum import IntEnum

from esper_ray.kasmina.lifecycle.alpha import TOLERANCE, AlphaController
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage


class Gate(IntEnum):
    """Gate in front of a stage. 4 belonged to a stage that no longer exists."""

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
    """One comparison ``value >= threshold`` (or ``>`` where ``strictly``). An unmeasured value fails."""

    name: str
    value: float | None
    threshold: float
    strictly: bool = False

    @property
    def margin(self) -> float | None:
        """Value minus threshold; ``None`` if unmeasured."""
        return None if self.value is None else self.value - self.threshold

    @property
    def passed(self) -> bool:
        """Whether the value was measured and reaches the threshold."""
        if self.margin is None:
            return False
        return self.margin > 0 if self.strictly else self.margin >= 0


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
        return "; ".join(
            f"{check.name} {'unmeasured' if check.value is None else f'{check.value:.4g}'}, "
            f"needs {'>' if check.strictly else '>='} {check.threshold:.4g}"
            for check in self.checks
            if not check.passed
        )


def evaluate_gate(
    target: Stage,
    stage: Stage,
    ticks_in_stage: int,
    alpha: AlphaController,
    measured: SeedMeasurements,
    rules: GateRules,
) -> GateResult:
    """The verdict of the gate in front of ``target`` on a seed in ``stage``.

    Even the permissive set asks G5 for a measured contribution above zero: nothing is committed
    on faith.

    Raises:
        ValueError: if no gate leads to ``target``.
    """
    gate = GATE_OF_TARGET.get(target)
    if gate is None:
        raise ValueError(f"no gate leads to {target.name}; gates lead to {', '.join(s.name for s in GATE_OF_TARGET)}")
    checks: tuple[Check, ...] = ()
    if gate is Gate.G0:
        checks = (Check("slot is empty", float(stage in (Stage.DORMANT, Stage.UNKNOWN)), 1.0),)
    elif gate is Gate.G1:
        checks = (Check("seed is germinated", float(stage is Stage.GERMINATED), 1.0),)
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
    calm = None if measured.exploding is None else float(not measured.exploding)
    return (
        dwell,
        Check("gradients do not explode", calm, 1.0),
        Check("gradient health", measured.gradient_health, rules.min_gradient_health),
    )


def _blending_checks(ticks: int, alpha: AlphaController, rules: GateRules) -> tuple[Check, ...]:
    full = Check("amplitude target", alpha.target, 1.0 - TOLERANCE)
    rests = Check("amplitude rests at target", float(alpha.at_target), 1.0)
    if rules.strict:
        return (full, rests, Check("epochs in blending", ticks, rules.min_blending_epochs))
    return (full, rests)


def _commit_checks(measured: SeedMeasurements, rules: GateRules) -> tuple[Check, ...]:
    healthy = Check("seed is finite", None if measured.finite is None else float(measured.finite), 1.0)
    if rules.strict:
        return (healthy, Check("contribution (pp)", measured.contribution_pp, rules.min_contribution_pp))
    return (healthy, Check("contribution (pp)", measured.contribution_pp, 0.0, strictly=True))
