"""Module of a slot: one seed, its amplitude, and its blend with the host's features."""

from dataclasses import dataclass
from math import prod
from typing import Any, get_args

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape, build_seed
from esper_ray.kasmina.network.operators import blend
from esper_ray.kasmina.network.passes.branching import Fork
from esper_ray.leyline.actions import BlendOperator, GerminationStyle
from esper_ray.leyline.blueprints import is_widening
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.growth import IncubationMethod
from esper_ray.leyline.stages import AMPLIFIED, IN_FORWARD, Stage


@dataclass(frozen=True, slots=True)
class Incubation:
    """Training method of a seed that does not change the host's output."""

    method: IncubationMethod = "shadow"
    """``shadow``: on the loss of a second pass in which the seed is on at full amplitude, everything else held
    fixed. ``straight_through``: on the host's own gradient, as if its change were added; nothing but a trust
    region keeps it from running away."""
    weight: float = 10.0
    """Weight of the trust region's penalty on the squared excess (straight-through)."""
    bound: float = 0.25
    """Free ratio of RMS(change) to RMS(features) (straight-through)."""
    clip: float | None = 1.0
    """Largest L2 norm of the gradient that a shadow pass gives a seed; ``None`` leaves that to the training loop."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: if there is no such method, weight or bound is negative, or clip is not positive.
        """
        methods = get_args(IncubationMethod)
        if self.method not in methods:  # a seed would never learn, without a sign of it
            raise ValueError(unknown_name_message("method of incubation", self.method, methods))
        if not (self.weight >= 0.0 and self.bound >= 0.0):
            raise ValueError(f"weight and bound of incubation must be >= 0, got {self.weight} and {self.bound}")
        if self.clip is not None and not self.clip > 0.0:
            raise ValueError(f"clip of incubation must be > 0, got {self.clip}")


@dataclass(slots=True)
class ClippingRecord:
    """Clipping of one seed's gradients in incubation so far."""

    steps: int = 0
    largest: Tensor | None = None
    """0-dim largest norm before clipping."""
    said: bool = False
    """Whether a warning was given."""


class StraightThrough(torch.autograd.Function):
    """Straight-through estimator: forward returns the features, backward also reaches the change.

    The change also gets the gradient of ``weight * max(0, RMS(d) / RMS(h) - bound) ** 2``.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, change: Tensor, weight: float, bound: float) -> Tensor:
        ctx.save_for_backward(features, change)
        ctx.weight, ctx.bound = weight, bound
        return features.clone()  # a view would forbid in-place operations in the user's next layer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = gradients
        features, change = ctx.saved_tensors
        change_rms = change.float().pow(2).mean().add(1e-12).sqrt()
        features_rms = features.float().pow(2).mean().add(1e-8).sqrt()
        excess = (change_rms / features_rms - ctx.bound).clamp_min(0.0)
        pull = 2.0 * ctx.weight * excess / (change.numel() * change_rms * features_rms)
        return gradient, (gradient + pull * change).to(change.dtype), None, None


class FiniteGradient(torch.autograd.Function):
    """The identity, whose gradient is zero wherever it would not be finite."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return torch.where(gradient.isfinite(), gradient, 0.0)


class SeedCell(nn.Module):
    """Slot module that exists as long as the model, with or without a seed.

    ``alpha`` and ``operator_share`` are 0-dim tensors that are written in place and never replaced.
    """

    alpha: Tensor
    operator_share: Tensor

    def __init__(self, shape: SlotShape, example_shape: tuple[int, ...], incubation: Incubation) -> None:
        """
        Args:
            example_shape: of the features of one example, as seen when the slot was attached.
        """
        super().__init__()
        self.shape, self.example_shape = shape, example_shape
        self.incubation = incubation
        self.host_cache: str | None = None
        """Name of a tensor in which the host keeps earlier tokens from one pass to the next."""
        self.seed: nn.Module | None = None
        self.gate: nn.Module | None = None
        self.pinned: list[nn.Parameter] = []
        """Parameters of the seed that were frozen at birth and stay so."""
        self.stage = Stage.DORMANT
        self.open = False
        """Whether the amplitude is above zero."""
        self.operator = BlendOperator.ADD
        self.outgoing: BlendOperator | None = None
        self.tap: list[Tensor] | None = None
        """List that receives the features of the next pass as its gradient root; ``None`` for none."""
        self.fork: Fork | None = None
        """Fork of the blocks of rows without and with the seed."""
        self.switch: tuple[int, tuple[int, ...]] | None = None
        """(n, which): of the n blocks of rows of a batch, those that see the seed."""
        self.shadowed = False
        self.clipping = ClippingRecord()
        """Clipping of the present seed."""
        self.register_buffer("alpha", torch.zeros(()))
        self.register_buffer("operator_share", torch.ones(()))

    def forward(self, h: Tensor) -> Tensor:
        """Features to features of the same shape and type.

        An empty or germinated slot returns its input. At amplitude 0 (in TRAINING always) the output is
        the input, bit by bit, and the host learns as if there were no seed; the seed learns as
        :class:`Incubation` says. Above that the change is joined, and the host's own
        path keeps its full gradient.
        """
        if self.tap is not None:
            root = h if h.requires_grad else h.detach().requires_grad_()
            self.tap.append(root)
            h = root.clone()  # the user's next layer may work in place
        if self.seed is None or self.stage is Stage.GERMINATED:
            return h
        if self.fork is not None:
            return self._forked(h, self.fork)
        if self.switch is not None:
            return self._switched(h, *self.switch)
        if self.open:
            return self.blended(h)
        if self.shadowed:
            return self._shadow(h)
        if self.training and self.incubation.method == "straight_through":
            change = self.change(h.detach())
            passed: Tensor = StraightThrough.apply(h, change, self.incubation.weight, self.incubation.bound)
            return passed
        return h

    def blended(self, h: Tensor) -> Tensor:
        """Features with the seed's change joined at the live amplitude.

        Raises:
            RuntimeError: if the slot holds no seed.
        """
        return self._mixed(h, self.alpha)

    def check_style(self, style: GerminationStyle) -> None:
        """Check that seeds here can be blended in as ``style`` says.

        Raises:
            ValueError: if not.
        """

    def newborn(self, blueprint: str) -> nn.Module:
        """A seed for this slot, its weights drawn from torch's global generator.

        Raises:
            ValueError: if there is no such blueprint for the slot.
        """
        if is_widening(blueprint):
            raise ValueError(
                f"blueprint {blueprint!r} widens a span, but this slot sits on the output of a submodule; give the "
                "slot a span of find_spans(model, example_input) as its place"
            )
        return build_seed(blueprint, self.shape)

    def probe(self, rows: int) -> Tensor:
        """(rows, ...) values in the form of what the seed reads."""
        size = (rows, *self.example_shape)
        return torch.linspace(-1.0, 1.0, prod(size)).reshape(size).to(self.alpha)

    def change_size(self, rows: int) -> tuple[int, ...]:
        """Shape of the change of ``rows`` examples, as the seed yields it."""
        return (rows, *self.example_shape)

    def change(self, h: Tensor, rows: tuple[int, tuple[int, ...]] | None = None) -> Tensor:
        """Change of the features ``h`` by the seed.

        Args:
            rows: number of blocks of rows of the pass, and those that ``h`` consists of; default: all.
        """
        assert self.seed is not None
        change: Tensor = self.seed(h)
        return change

    @property
    def contributes(self) -> bool:
        """Whether the seed changes the host's output."""
        return self.seed is not None and self.stage in AMPLIFIED and self.open

    @property
    def incubates(self) -> bool:
        """Whether the seed learns without changing the host's output."""
        return self.seed is not None and self.stage in IN_FORWARD and not self.open

    def learnable(self) -> list[nn.Parameter]:
        """Parameters of the seed and its gate network, save those that were frozen at birth."""
        modules = [module for module in (self.seed, self.gate) if module is not None]
        pinned = set(map(id, self.pinned))
        return [p for module in modules for p in module.parameters() if id(p) not in pinned]

    def _shadow(self, h: Tensor) -> Tensor:
        """Features with the seed at full amplitude; non-finite changes stay local to their seed."""
        mixed = self._mixed(FiniteGradient.apply(h), 1.0)
        return torch.where(mixed.isfinite(), mixed, h)

    def _forked(self, h: Tensor, fork: Fork) -> Tensor:
        if fork.complete:
            return torch.cat([h, self.blended(h)])
        off, on = rows_of(h, fork.blocks, fork.off), rows_of(h, fork.blocks, fork.on)
        return torch.cat([off, self._mixed(on, self.alpha, (fork.blocks, fork.on))]) if fork.on else off

    def _switched(self, h: Tensor, blocks: int, on: tuple[int, ...]) -> Tensor:
        if not on:
            return h
        passed = h.reshape(blocks, -1, *h.shape[1:]).clone()
        changed = self._mixed(rows_of(h, blocks, on), self.alpha, (blocks, on))
        passed[list(on)] = changed.reshape(len(on), *passed.shape[1:])
        return passed.flatten(0, 1)

    def _mixed(self, h: Tensor, alpha: Tensor | float, rows: tuple[int, tuple[int, ...]] | None = None) -> Tensor:
        if self.seed is None:
            raise RuntimeError("an empty slot has nothing to blend")
        change = self.change(h, rows)
        mixed = blend(self.operator, h, change, alpha, self.gate)
        if self.outgoing is not None:
            before = blend(self.outgoing, h, change, alpha, self.gate)
            mixed = before + self.operator_share * (mixed - before)
        return mixed.to(h.dtype)


def rows_of(h: Tensor, blocks: int, which: tuple[int, ...]) -> Tensor:
    """Rows of the selected ones among the equal ``blocks`` of ``h``."""
    return h.reshape(blocks, -1, *h.shape[1:])[list(which)].flatten(0, 1)
