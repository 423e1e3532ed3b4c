"""A slot that steps as in the environment, and seeds in every stage."""

from dataclasses import dataclass, field

from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import (
    Command,
    GateEvaluated,
    LifecycleEvent,
    Refused,
    Rules,
    SeedState,
    StageChanged,
    epoch_elapsed,
    execute,
    tick,
)
from esper_ray.leyline.actions import AlphaCurve, GerminationStyle
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage

HEALTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True)
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=2.0)


def worked(events: tuple[LifecycleEvent, ...]) -> bool:
    return not any(isinstance(e, Refused) or (isinstance(e, GateEvaluated) and not e.result.passed) for e in events)


def changes(events: tuple[LifecycleEvent, ...]) -> list[StageChanged]:
    return [event for event in events if isinstance(event, StageChanged)]


@dataclass
class Slot:
    """One slot of an environment: execute, tick, observe, train."""

    rules: Rules = field(default_factory=Rules)
    state: SeedState | None = None
    events: tuple[LifecycleEvent, ...] = ()
    before: tuple[str, int] = ("", -1)
    """Previous stage, and the epochs spent in it."""

    def step(self, command: Command | None = None, measured: SeedMeasurements = HEALTHY) -> bool:
        executed: tuple[LifecycleEvent, ...] = ()
        if command is not None:
            self.state, executed = execute(self.state, command, self.rules, measured)
        self.state, ticked = tick(self.state, self.rules, measured)
        self.events = executed + ticked
        for change in changes(self.events):
            self.before = (change.source.name, change.ticks)
        return worked(executed)

    def train(self) -> None:
        self.state = epoch_elapsed(self.state)

    def row(self) -> tuple[object, ...]:
        """Stage, amplitude, mode, ramp done/total, epochs in stage, age, previous stage and its epochs."""
        if self.state is None:
            return ("empty",)
        s, a = self.state, self.state.alpha
        return (
            s.stage.name,
            round(a.alpha, 4),
            a.mode.name,
            f"{a.done}/{a.total}",
            s.ticks_in_stage,
            s.age,
            *self.before,
        )


def seed_in(stage: Stage, ticks: int = 0, alpha: float | None = None, age: int = 10) -> SeedState:
    """A seed at rest in ``stage``."""
    full = stage in (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
    amplitude = (1.0 if full else 0.0) if alpha is None else alpha
    return SeedState(
        "r0c0-1",
        "norm",
        GerminationStyle.LINEAR_ADD,
        3,
        1.0,
        stage=stage,
        previous_stage=Stage.UNKNOWN,
        ticks_in_stage=ticks,
        age=age,
        alpha=AlphaController(alpha=amplitude, start=amplitude, target=amplitude),
    )


def ramping(target: float, alpha: float = 0.2) -> SeedState:
    """A blending seed in the middle of an amplitude ramp."""
    state = seed_in(Stage.BLENDING, alpha=alpha)
    moving = state.alpha.retargeted(target, 5, AlphaCurve.LINEAR, 12.0).ticked()
    return SeedState("r0c0-1", "norm", GerminationStyle.LINEAR_ADD, 3, 1.0, Stage.BLENDING, alpha=moving)


def rules_with(auto: frozenset = frozenset(), embargo: int = 5, **gates: object) -> Rules:
    return Rules(GateRules(**gates), auto, embargo)
