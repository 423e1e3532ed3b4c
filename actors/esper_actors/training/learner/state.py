"""State of the learner: tensors by name and plain numbers, with the checks before it is used."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from esper_actors.training.learner.batches import LARGEST_AMOUNT
from esper_policies.network import FeatureNormaliser, network_specs, unallocated_network
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.files.tensors import TensorSpec, dtype_name, listed, tensor_problems
from esper_ray.leyline.files.validation import SavedRecord, Whole, validated
from esper_ray.leyline.observation import BASE_SIZE, BOUND, SLOT_SIZE
from esper_ray.simic.normalisation import ReturnStatistics
from esper_ray.simic.running_moments import Moments

NETWORK, ADAM = "network.", "adam."
"""Prefixes of the tensors of the policy network and of the optimizer."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""Moments of Adam for one parameter, besides its number of steps."""

LARGEST_RETURN = 1e18
"""Size of a return that no episode exceeds, in units of reward. Its square is finite in single precision."""
ROUNDING = 1e-6
"""Relative difference of equal numbers in single precision."""
MOST_MOMENTUM, SMALLEST_MOMENTUM = 8.0, 1e-15
"""Largest mean gradient of Adam over the root of its mean square, and the mean at which that square underflows.

By the inequality of Cauchy and Schwarz the quotient is at most 7.3 for betas of 0.9 and 0.999.
"""
LARGEST_GRADIENT = 1e9 * (1 + ROUNDING)
"""Size of a gradient that no clipping leaves: the largest ``ppo.grad_clip``. A population may change that value."""
MOST_STEPS = 1 << 24
"""Number of steps at which Adam's count in single precision stops."""

NonNegative = Annotated[float, Field(ge=0)]
OfBase, OfSlot, OfReturn = (Field(min_length=size, max_length=size) for size in (BASE_SIZE, SLOT_SIZE, 1))


class LearnerStateError(ValueError):
    """State that does not belong to this learner."""


class LearnerNumbers(SavedRecord):
    """Plain numbers of the learner's state."""

    updates: Whole
    reward_offset: Annotated[float, Field(ge=-LARGEST_AMOUNT, le=LARGEST_AMOUNT)] | None
    """Mean reward of the first round, which is subtracted from all rewards."""
    base_moments: tuple[NonNegative, Annotated[list[float], OfBase], Annotated[list[NonNegative], OfBase]]
    """Count, mean and sum of squared deviations of the observed features of the host."""
    slot_moments: tuple[NonNegative, Annotated[list[float], OfSlot], Annotated[list[NonNegative], OfSlot]]
    """The same of the features of one slot."""
    return_moments: tuple[NonNegative, Annotated[list[float], OfReturn], Annotated[list[NonNegative], OfReturn]]
    """The same of the returns."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """
        Raises:
            ValueError: if moments are not those of possible data, or two numbers of the same data disagree.
        """
        sizes = {"base_moments": BOUND, "slot_moments": BOUND, "return_moments": LARGEST_RETURN}
        for name, largest in sizes.items():
            count, mean, squares = getattr(self, name)
            problem = _moments_problem(count, mean, squares, largest)
            if problem is not None:
                raise ValueError(f"{name}: {problem}")
        if (self.reward_offset is None) != (self.return_moments[0] == 0):
            raise ValueError(f"reward_offset is {self.reward_offset}, return_moments counts {self.return_moments[0]:g}")
        if self.base_moments[0] != self.return_moments[0]:
            counts = f"base_moments counts {self.base_moments[0]:g}, return_moments {self.return_moments[0]:g}"
            raise ValueError(f"{counts}: both count the steps of all episodes")
        return self


def _moments_problem(count: float, mean: Sequence[float], squares: Sequence[float], largest: float) -> str | None:
    """Why no data up to the size ``largest`` have these moments; ``None`` if some have."""
    if not count.is_integer() or count >= 2**53:
        return f"the count is {count:g}, it must be a whole number below 2**53"
    most_mean, most_square = largest * (1 + ROUNDING), 4 * largest**2 * count
    for index, (center, square) in enumerate(zip(mean, squares, strict=True)):
        if abs(center) > most_mean or (count == 0 and center != 0):
            return f"mean {index} is {center:g}, of {count:g} numbers up to {largest:g} in size"
        if square > most_square:
            return f"the sum of squares {index} is {square:g}, at most {most_square:g} is possible"
    return None


@dataclass(slots=True)
class LearnerState:
    """Everything that learns or counts, as tensors by name and plain numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """Tensors of the policy network: weights, normalizer, mean and scale of values."""
        return {name.removeprefix(NETWORK): t for name, t in self.tensors.items() if name.startswith(NETWORK)}

    def check(self, policy: PolicyConfig) -> None:
        """Check names, shapes, types and numbers against a learner of ``policy``.

        Raises:
            LearnerStateError: naming every difference.
        """
        problems = tensor_problems(self.tensors, learner_specs(policy))
        if problems:
            raise LearnerStateError(listed(problems))
        validated(LearnerNumbers, self.numbers, "numbers", LearnerStateError)
        problems = [*self._disagreements(), *self._step_problems(), *self._momentum_problems()]
        if problems:
            raise LearnerStateError(listed(problems))

    def moments(self, name: str) -> Moments:
        """The moments ``name`` of the numbers: of ``base``, ``slot`` or ``return``."""
        count, mean, squares = self.numbers[f"{name}_moments"]
        return Moments(float(count), np.asarray(mean, np.float64), np.asarray(squares, np.float64))

    def returns(self) -> ReturnStatistics:
        """Statistics of the returns."""
        return ReturnStatistics(self.numbers["reward_offset"], self.moments("return"))

    def _disagreements(self) -> Iterator[str]:
        """Tensors of the network that do not follow from the moments, as they must."""
        normaliser, returns = FeatureNormaliser(), self.returns()
        statistics = {name: self.moments(name) for name in ("base", "slot")}
        normaliser.set_statistics(*(np.stack([m.mean, m.deviation]) for m in statistics.values()))
        expected = {f"normaliser.{name}": tensor for name, tensor in normaliser.state_dict().items()}
        expected |= {"value_mean": torch.tensor(returns.mean), "value_scale": torch.tensor(returns.spread)}
        for name, tensor in expected.items():
            present = self.tensors[NETWORK + name]
            differences = ~torch.isclose(present.double(), tensor.double(), rtol=ROUNDING, atol=0.0)
            if bool(differences.any()):
                place = int(differences.flatten().nonzero()[0])
                one, other = present.flatten()[place], tensor.flatten()[place]
                yield f"tensor {NETWORK}{name} has {one:g}, the moments in the numbers give {other:g}"

    def _step_problems(self) -> Iterator[str]:
        """Counts of steps that differ, and moments or steps without an update. Adam steps all parameters together."""
        steps = {name: float(tensor) for name, tensor in self.tensors.items() if _is_adam(name, "step")}
        first, count = next(iter(steps.items()))
        if self.numbers["updates"] == 0 and count > 0:
            yield f"tensor {first} has {count:g}, it must be 0 before the first update"
        for name, other in steps.items():
            if other != count:
                yield f"tensor {name} has {other:g}, {first} has {count:g}: all parameters are stepped together"
        for name, tensor in self.tensors.items():
            if count == 0 and any(_is_adam(name, key) for key in MOMENTS) and bool(tensor.any()):
                yield f"tensor {name} has {tensor.abs().max():g}, it must be 0 before the first step"

    def _momentum_problems(self) -> Iterator[str]:
        """Mean gradients that no gradients with their mean square have. The next step would be of any size."""
        for name, mean in self.tensors.items():
            if _is_adam(name, "exp_avg"):
                square = self.tensors[f"{name}_sq"].double()
                excess = mean.double().abs() - MOST_MOMENTUM * square.sqrt() - SMALLEST_MOMENTUM
                if bool((excess > 0).any()):
                    place = int(excess.flatten().argmax())
                    one, other = mean.flatten()[place], square.flatten()[place]
                    yield f"tensor {name} has {one:g}, its mean square is {other:g}"


def _is_adam(name: str, key: str) -> bool:
    """Whether the tensor ``name`` is the part ``key`` of Adam's state of a parameter."""
    return name.startswith(ADAM) and name.endswith(f".{key}")


@lru_cache(maxsize=8)
def learner_specs(policy: PolicyConfig) -> Mapping[str, TensorSpec]:
    """Specifications of all tensors of a learner's state, by name."""
    specs = {NETWORK + name: spec for name, spec in network_specs(policy).items()}
    for name, parameter in unallocated_network(policy).named_parameters():
        dtype, shape = dtype_name(parameter), tuple(parameter.shape)
        specs[f"{ADAM}{name}.step"] = TensorSpec("float32", (), least=0.0, most=MOST_STEPS, whole=True)
        specs[f"{ADAM}{name}.exp_avg"] = TensorSpec(dtype, shape, most=LARGEST_GRADIENT)
        specs[f"{ADAM}{name}.exp_avg_sq"] = TensorSpec(dtype, shape, least=0.0, most=LARGEST_GRADIENT**2)
    return MappingProxyType(specs)


def moments_of(parameter: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of Adam's state of one parameter on the CPU. Before the first step it has zeros, as Adam starts with."""
    if state:
        return {key: state[key].detach().cpu().clone() for key in ("step", *MOMENTS)}
    return {"step": torch.tensor(0.0)} | {key: torch.zeros_like(parameter, device="cpu").detach() for key in MOMENTS}
