"""Pure reducer of a seed's lifecycle: (state, input) to (state, events).

There are three kinds of input. *Commands* come from a policy. A *tick* advances automatic processes: amplitude
ramps, cooldowns, gates that open automatically. An *elapsed epoch* is counted
after training, so that at decision time ``ticks_in_stage`` is the number of epochs trained in the
stage. A slot without a seed is ``None``. This module has no tensors; the owner of the modules applies the events.
"""

from dataclasses import dataclass, field, replace

from esper_ray.kasmina.lifecycle.alpha import TOLERANCE, AlphaController, check_ticks
from esper_ray.kasmina.lifecycle.gates import Gate, GateResult, GateRules, evaluate_gate
from esper_ray.leyline.actions import AlphaCurve, AlphaMode, BlendOperator, GerminationStyle
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements
from esper_ray.leyline.stages import PRUNABLE, TRANSITIONS, Stage, can_transition


@dataclass(frozen=True, slots=True)
class SeedState:
    """State of one seed without its tensors."""

    seed_id: str
    blueprint: str
    """Name in the registry of blueprints."""
    style: GerminationStyle
    tempo: int
    """Ticks of the first ramp; 0 for a seed that was born live."""
    target: float
    """Amplitude that the first ramp leads to, in (0, 1]."""
    stage: Stage = Stage.GERMINATED
    previous_stage: Stage = Stage.DORMANT
    ticks_in_stage: int = 0
    age: int = 0
    alpha: AlphaController = field(default_factory=AlphaController)
    removal: str | None = None
    """Reason of the running ramp to zero."""
    outgoing: BlendOperator | None = None
    """Operator that the one of ``style`` replaces along the running ramp."""
    shut_by: tuple[str, ...] = ()
    """Failed checks of an automatic gate, as last reported."""

    @property
    def operator(self) -> BlendOperator:
        """Blend operator of the seed's change and the host's features."""
        return self.style.operator

    @property
    def operator_share(self) -> float:
        """Weight of :attr:`operator` against the outgoing one, in [0, 1]."""
        return 1.0 if self.outgoing is None else self.alpha.share

    @property
    def fading(self) -> bool:
        """Whether the amplitude falls; a seed does not learn while it does."""
        return self.alpha.mode is AlphaMode.DOWN


@dataclass(frozen=True, slots=True)
class Rules:
    """Lifecycle rules of a run."""

    gates: GateRules = field(default_factory=GateRules)
    auto_forward: frozenset[Gate] = frozenset()
    embargo_ticks: int = 5
    live_widenings: bool = False
    """Whether the seeds that policies plant on spans are born live."""


@dataclass(frozen=True, slots=True)
class Germinate:
    """Start a seed in an empty slot.

    With a tempo of 0 it is born *live*: at its amplitude target from its first step, where it changes nothing yet. It
    did not develop behind the host, so gates G1 to G3 have nothing to judge.
    """

    seed_id: str
    blueprint: str
    style: GerminationStyle = GerminationStyle.SIGMOID_ADD
    tempo: int = 5
    target: float = 1.0


@dataclass(frozen=True, slots=True)
class Advance:
    """Request the next stage, subject to its gate."""


@dataclass(frozen=True, slots=True)
class SetAlphaTarget:
    """Ramp the amplitude of a blending or holding seed to a target in (0, 1].

    A style with another operator cross-fades to it along the same ramp; 0 ticks change both at once.
    """

    target: float
    ticks: int
    curve: AlphaCurve = AlphaCurve.LINEAR
    steepness: float = 12.0
    style: GerminationStyle | None = None
    """Style after the ramp; ``None`` keeps the present one."""


@dataclass(frozen=True, slots=True)
class Prune:
    """Remove a seed, at once or after a ramp to zero. There is a ramp if the seed has amplitude and ``ticks`` > 0."""

    ticks: int = 0
    curve: AlphaCurve = AlphaCurve.LINEAR
    steepness: float = 12.0
    reason: str = "policy"


@dataclass(frozen=True, slots=True)
class Fossilize:
    """Request the permanent commitment of a holding seed, subject to G5."""


@dataclass(frozen=True, slots=True)
class FoldIn:
    """Make a committed seed of a span a part of the layers of its host. Its slot is empty afterwards."""


Command = Germinate | Advance | SetAlphaTarget | Prune | Fossilize | FoldIn


@dataclass(frozen=True, slots=True)
class StageChanged:
    """A transition between stages. DORMANT is the source at germination, and the target when the slot is free again."""

    source: Stage
    target: Stage
    ticks: int
    """Epochs that were spent in ``source``."""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.source.name} -> {self.target.name}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class GateEvaluated:
    """A verdict of a gate."""

    result: GateResult

    def __str__(self) -> str:
        verdict = "opens" if self.result.passed else f"stays shut: {self.result.message}"
        return f"{self.result.gate.name} {verdict}"


@dataclass(frozen=True, slots=True)
class AlphaMoved:
    """A change of the amplitude."""

    alpha: float

    def __str__(self) -> str:
        return f"alpha {self.alpha:.4g}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A command without effect."""

    reason: str

    def __str__(self) -> str:
        return f"refused: {self.reason}"


LifecycleEvent = StageChanged | GateEvaluated | AlphaMoved | Refused
Reduction = tuple[SeedState | None, tuple[LifecycleEvent, ...]]


def execute(
    state: SeedState | None, command: Command, rules: Rules, measured: SeedMeasurements = UNMEASURED
) -> Reduction:
    """The slot after ``command``. An impossible command leaves the state and emits :class:`Refused`."""
    if isinstance(command, Germinate):
        return _germinate(state, command)
    if state is None:
        return None, (Refused("slot is empty"),)
    match command:
        case Advance():
            return _advance(state, rules, measured)
        case Fossilize():
            if state.stage is not Stage.HOLDING:
                return state, (Refused(f"only a HOLDING seed can be fossilized, this one is {state.stage.name}"),)
            return _through_gate(state, Stage.FOSSILIZED, rules, measured)
        case FoldIn():
            if state.stage is not Stage.FOSSILIZED:
                return state, (Refused(f"only a committed seed can be folded, this one is {state.stage.name}"),)
            return None, (StageChanged(state.stage, Stage.DORMANT, state.ticks_in_stage, "folded"),)
        case SetAlphaTarget():
            return _set_alpha_target(state, command)
        case Prune():
            return _prune(state, command)


def tick(state: SeedState | None, rules: Rules, measured: SeedMeasurements = UNMEASURED) -> Reduction:
    """The slot after one step of ramps, cooldowns and automatic gates."""
    if state is None:
        return None, ()
    match state.stage:
        case Stage.GERMINATED if Gate.G1 in rules.auto_forward:
            return _through_gate(state, Stage.TRAINING, rules, measured)
        case Stage.TRAINING if Gate.G2 in rules.auto_forward:
            if state.ticks_in_stage >= rules.gates.min_training_epochs:
                return _blending_tick(*_automatically(state, Stage.BLENDING, rules, measured), rules, measured)
        case Stage.BLENDING:
            return _blending_tick(state, (), rules, measured)
        case Stage.PRUNED:
            return _moved(state, Stage.EMBARGOED)
        case Stage.EMBARGOED if state.ticks_in_stage >= rules.embargo_ticks:
            return _moved(state, Stage.RESETTING)
        case Stage.RESETTING:
            return None, (StageChanged(Stage.RESETTING, Stage.DORMANT, state.ticks_in_stage),)
    return state, ()


def epoch_elapsed(state: SeedState | None) -> SeedState | None:
    """The slot after one more epoch was trained."""
    if state is None:
        return None
    return replace(state, ticks_in_stage=state.ticks_in_stage + 1, age=state.age + 1)


def _moved(state: SeedState, target: Stage, reason: str = "") -> tuple[SeedState, tuple[LifecycleEvent, ...]]:
    if not can_transition(state.stage, target):
        raise RuntimeError(f"seed {state.seed_id}: no transition leads from {state.stage.name} to {target.name}")
    event = StageChanged(state.stage, target, state.ticks_in_stage, reason)
    moved = replace(state, stage=target, previous_stage=state.stage, ticks_in_stage=0, shut_by=())
    return moved, (event,)


def _germinate(state: SeedState | None, command: Germinate) -> Reduction:
    if state is not None:
        return state, (Refused(f"slot is occupied by {state.seed_id} ({state.stage.name})"),)
    if not 0.0 < command.target <= 1.0:
        raise ValueError(f"amplitude target must lie in (0, 1], got {command.target}")
    check_ticks("tempo", command.tempo, least=0)
    seed = SeedState(command.seed_id, command.blueprint, command.style, command.tempo, command.target)
    result = evaluate_gate(Stage.GERMINATED, Stage.DORMANT, 0, seed.alpha, UNMEASURED, GateRules())
    events = (GateEvaluated(result), StageChanged(Stage.DORMANT, Stage.GERMINATED, 0))
    return (seed, events) if command.tempo else _live(seed, events)


def _live(seed: SeedState, events: tuple[LifecycleEvent, ...]) -> Reduction:
    """A newborn seed at its amplitude target."""
    alpha = seed.alpha.retargeted(seed.target, 0, seed.style.curve, seed.alpha.steepness)
    full = seed.target >= 1.0 - TOLERANCE
    for stage in (Stage.TRAINING, Stage.BLENDING, *([Stage.HOLDING] if full else [])):
        seed, moved = _moved(seed, stage, "born live")
        events += moved
    return replace(seed, alpha=alpha), (*events, AlphaMoved(alpha.alpha))


def _advance(state: SeedState, rules: Rules, measured: SeedMeasurements) -> Reduction:
    if state.stage not in (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING):
        return state, (Refused(f"a {state.stage.name} seed does not advance"),)
    return _through_gate(state, TRANSITIONS[state.stage][0], rules, measured)


def _automatically(
    state: SeedState, target: Stage, rules: Rules, measured: SeedMeasurements
) -> tuple[SeedState, tuple[LifecycleEvent, ...]]:
    """Pass the gate to ``target`` if it opens; each set of failures is reported once."""
    moved, events = _through_gate(state, target, rules, measured)
    if moved.stage is target:
        return moved, events
    reasons = tuple(
        check.name for e in events if isinstance(e, GateEvaluated) for check in e.result.checks if not check.passed
    )
    return replace(state, shut_by=reasons), () if reasons == state.shut_by else events


def _through_gate(
    state: SeedState, target: Stage, rules: Rules, measured: SeedMeasurements
) -> tuple[SeedState, tuple[LifecycleEvent, ...]]:
    result = evaluate_gate(target, state.stage, state.ticks_in_stage, state.alpha, measured, rules.gates)
    if not result.passed:
        return state, (GateEvaluated(result),)
    state, events = _moved(state, target)
    if target is Stage.BLENDING:
        ramp = state.alpha.retargeted(state.target, state.tempo, state.style.curve, state.alpha.steepness)
        state = replace(state, alpha=ramp)
    return state, (GateEvaluated(result), *events)


def _blending_tick(
    state: SeedState, before: tuple[LifecycleEvent, ...], rules: Rules, measured: SeedMeasurements
) -> Reduction:
    if state.stage is not Stage.BLENDING:
        return state, before
    state = replace(state, alpha=state.alpha.ticked())
    if state.alpha.mode is AlphaMode.HOLD:
        state = replace(state, outgoing=None)
    events: tuple[LifecycleEvent, ...] = (*before, AlphaMoved(state.alpha.alpha))
    if state.alpha.at_target and state.alpha.target == 0.0:  # only removal leads to zero
        removed, more = _removed(state, state.removal or "scheduled prune")
        return removed, events + more
    if Gate.G3 in rules.auto_forward and state.alpha.at_target and state.alpha.target >= 1.0 - TOLERANCE:
        state, more = _automatically(state, Stage.HOLDING, rules, measured)
        events += more
    return state, events


def _set_alpha_target(state: SeedState, command: SetAlphaTarget) -> Reduction:
    if not 0.0 < command.target <= 1.0:
        raise ValueError(f"amplitude target must lie in (0, 1], got {command.target}; removal is Prune")
    if state.stage not in (Stage.BLENDING, Stage.HOLDING):
        return state, (Refused(f"a {state.stage.name} seed has no amplitude to retarget"),)
    if state.alpha.mode is not AlphaMode.HOLD:
        return state, (Refused(f"amplitude is ramping {state.alpha.mode.name}"),)
    style = state.style if command.style is None else command.style
    crossfades = style.operator is not state.operator and command.ticks > 0
    events: tuple[LifecycleEvent, ...] = ()
    if state.stage is Stage.HOLDING and (crossfades or command.target < 1.0 - TOLERANCE):
        state, events = _moved(state, Stage.BLENDING, "changes operator" if crossfades else "demoted")
    alpha = state.alpha.retargeted(
        command.target, command.ticks, command.curve, command.steepness, even_if_there=crossfades
    )
    outgoing = state.operator if crossfades else None
    return replace(state, alpha=alpha, style=style, outgoing=outgoing), (*events, AlphaMoved(alpha.alpha))


def _prune(state: SeedState, command: Prune) -> Reduction:
    check_ticks("ramp length", command.ticks, least=0)
    if state.stage not in PRUNABLE:
        return state, (Refused(f"a {state.stage.name} seed cannot be pruned"),)
    fades = state.stage in (Stage.BLENDING, Stage.HOLDING) and command.ticks > 0 and state.alpha.alpha > 0
    if not fades:
        return _removed(state, command.reason)
    if state.alpha.mode is not AlphaMode.HOLD:
        return state, (Refused(f"amplitude is ramping {state.alpha.mode.name}"),)
    events: tuple[LifecycleEvent, ...] = ()
    if state.stage is Stage.HOLDING:
        state, events = _moved(state, Stage.BLENDING, "fading out")
    alpha = state.alpha.retargeted(0.0, command.ticks, command.curve, command.steepness)
    return replace(state, alpha=alpha, removal=command.reason), events


def _removed(state: SeedState, reason: str) -> tuple[SeedState, tuple[LifecycleEvent, ...]]:
    state, events = _moved(state, Stage.PRUNED, reason)
    return replace(state, alpha=AlphaController(), removal=None, outgoing=None), (AlphaMoved(0.0), *events)
