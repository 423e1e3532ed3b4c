"""Counter of the floating-point operations of training."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from torch.utils.flop_counter import FlopCounterMode

from esper_ray.kasmina.model import MorphogeneticModel


class FlopMeter:
    """Meter of floating-point operations of matrix products, convolutions and attention.

    A multiply-add counts as two; elementwise operations are not counted. An epoch of a structure that was counted
    before is not counted again but looked up: every epoch has as many steps and examples.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._known: dict[Hashable, float] = {}

    @contextmanager
    def epoch(self, model: MorphogeneticModel) -> Iterator[None]:
        """Context of one training epoch of ``model``, whose operations are counted."""
        key = _structure(model)
        if key in self._known:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            self._known[key] = float(counter.get_total_flops())
        self.total += self._known[key]


def _structure(model: MorphogeneticModel) -> Hashable:
    """Key of the work in a training step of ``model``."""
    seeds = (
        (slot, state.blueprint, state.style, state.stage, state.alpha.mode, state.alpha.alpha > 0, state.outgoing)
        for slot, state in model.states.items()
        if state is not None
    )
    return (model.host_parameters, *seeds)
