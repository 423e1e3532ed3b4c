"""Options, outcomes, records and listeners of growth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, get_args

from torch import Tensor, nn

from esper_ray.kasmina.lifecycle.reducer import GateEvaluated, LifecycleEvent, Refused, SeedState, StageChanged
from esper_ray.kasmina.network.spans.folding import Replacement
from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.growth import Initialisation, WideningStart

HOST_GROUP = "host"

LossClosure = Callable[[], Tensor]
"""Function that runs the model on a batch and returns the scalar loss."""


@dataclass(frozen=True, slots=True)
class GrowthOptions:
    """Options of seeds besides the rules of their lifecycle."""

    freeze_fossils: bool = False
    """Stop training a seed when it is committed."""
    initialisation: Mapping[GerminationStyle, Initialisation] = field(default_factory=dict)
    """Initialisation of the inner weights by style or its id; default ``zero_scale``."""
    widening: WideningStart = "paired"
    """Initialisation of the channels that widen a span."""
    own_blueprints: Mapping[Blueprint, str] = field(default_factory=dict)
    """Own blueprints by the built-in ones whose action index they have."""

    def __post_init__(self) -> None:
        starts = {GerminationStyle.parse(style): start for style, start in self.initialisation.items()}
        object.__setattr__(self, "initialisation", starts)
        for style, start in starts.items():
            if start not in get_args(Initialisation):
                problem = unknown_name_message("initialisation", start, list(get_args(Initialisation)))
                raise ValueError(f"style {style.id!r}: {problem}")
        if self.widening not in get_args(WideningStart):
            raise ValueError(unknown_name_message("start of a widening", self.widening, list(get_args(WideningStart))))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a command; true if it took effect."""

    events: tuple[LifecycleEvent, ...]

    @property
    def success(self) -> bool:
        """Whether the command took effect: nothing refused it, no gate stayed shut."""
        return not any(
            isinstance(event, Refused) or (isinstance(event, GateEvaluated) and not event.result.passed)
            for event in self.events
        )

    def __str__(self) -> str:
        if self.success:
            changes = ", ".join(str(event) for event in self.events if isinstance(event, StageChanged))
            return f"done: {changes}" if changes else "done"
        gates = [event.result for event in self.events if isinstance(event, GateEvaluated)]
        unmeasured = any(check.value is None for gate in gates for check in gate.checks)
        return f"no effect: {self.message}" + ("; model.measure(held_out) measures it" if unmeasured else "")

    @property
    def message(self) -> str:
        """Reason why it had no effect; empty if it had one."""
        reasons = [event.reason for event in self.events if isinstance(event, Refused)]
        reasons += [event.result.message for event in self.events if isinstance(event, GateEvaluated)]
        return "; ".join(filter(None, reasons))

    def __bool__(self) -> bool:
        return self.success


@dataclass(frozen=True, slots=True)
class SlotEvent:
    """Event of a slot."""

    epoch: int
    """Number of epochs that the model was trained."""
    slot: str
    seed_id: str | None
    event: LifecycleEvent

    def __str__(self) -> str:
        return f"epoch {self.epoch}  {self.seed_id or self.slot}  {self.event}"


@dataclass(frozen=True, slots=True)
class GrowthRecord:
    """States of all seeds as plain data."""

    states: Mapping[str, SeedState | None]
    germinations: Mapping[str, int]
    epoch: int
    seed: int
    added: Mapping[str, int] = field(default_factory=dict)
    """Channels that were folded into the layers of each span."""


class GrowthListener(Protocol):
    """Listener for changes of the trained parameters, such as an optimizer."""

    def arrange(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        """Keep ``groups``: the host with committed seeds, and one per live seed. Frozen parameters rest."""

    def replace(self, parameters: Mapping[nn.Parameter, tuple[nn.Parameter, Replacement]]) -> None:
        """Give wider parameters what belongs to the old ones and to the seed's; :meth:`arrange` follows."""
