"""Policy V2: shared slot encoder, feature network, LSTM, conditional heads, Q(s, op) critic.

Nothing in it depends on the number of slots: their encodings are pooled on the way in, and slots are
chosen by a pointer over them on the way out. Shapes: B episodes, T steps, S slots.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper_policies.distribution import ActionLogits
from esper_ray.leyline.actions import ARGUMENT_HEADS, OPS_OF_HEAD, Blueprint, LifecycleOp, head_sizes
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.context import CONTEXT_SIZE
from esper_ray.leyline.files.tensors import TensorSpec, dtype_name
from esper_ray.leyline.observation import BASE_CONTINUOUS, BASE_SIZE, SLOT_CONTINUOUS, SLOT_SIZE
from esper_ray.leyline.process.locks import GLOBAL_GENERATOR

BLUEPRINT_EMBEDDING = 4
SLOT_ENCODING = 64
HEAD_WIDTH = 128
POINTER_WIDTH = 64
CRITIC_WIDTH = 256
NORMALISED_BOUND = 10.0
OPERATIONS = len(LifecycleOp)

Memory = tuple[Tensor, Tensor]
"""Hidden and cell state of the LSTM, (1, B, memory) each."""


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """Output of the network for B x T states, flattened to N rows. The number N is B * T."""

    logits: ActionLogits
    q: Tensor
    """(N, 6) value of each operation, in normalised units."""
    memory: Memory
    state: Tensor
    """(N, memory) state after the step. It and the slots are all that the heads read."""
    slots: Tensor
    """(N, S, encoding) encodings of the slots."""


class FeatureNormaliser(nn.Module):
    """A standardisation of the continuous features; statistics are shared by all slots."""

    base_mean: Tensor
    base_deviation: Tensor
    slot_mean: Tensor
    slot_deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, size in (("base", BASE_SIZE), ("slot", SLOT_SIZE)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_deviation", torch.ones(size))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 23 + 31 S) to (..., 23) and (..., S, 31). Empty slots stay zero."""
        base, slots = features[..., :BASE_SIZE], features[..., BASE_SIZE:]
        slots = slots.reshape(*slots.shape[:-1], -1, SLOT_SIZE)
        occupied = slots[..., :1]
        base = (base - self.base_mean) / self.base_deviation
        slots = (slots - self.slot_mean) / self.slot_deviation * occupied
        return base.clamp(-NORMALISED_BOUND, NORMALISED_BOUND), slots.clamp(-NORMALISED_BOUND, NORMALISED_BOUND)

    def clipped_share(self, features: Tensor) -> float:
        """Share of the normalised (N, 23 + 31 S) ``features`` that are at their bound."""
        parts = torch.cat([part.flatten() for part in self(features)])
        return float((parts.abs() >= NORMALISED_BOUND).float().mean())

    def means(self) -> Tensor:
        """(54,) means of the features of host and slot."""
        return torch.cat([self.base_mean, self.slot_mean])

    def shift_since(self, means: Tensor) -> float:
        """Root mean square distance of the means from earlier ``means``, in present deviations."""
        deviations = torch.cat([self.base_deviation, self.slot_deviation])
        return float((((self.means() - means) / deviations) ** 2).mean().sqrt())

    def set_statistics(self, base: NDArray[np.float64], slot: NDArray[np.float64]) -> None:
        """Set (2, 23) and (2, 31) means and deviations. Features that are not continuous are not scaled."""
        for name, statistics, continuous in (("base", base, BASE_CONTINUOUS), ("slot", slot, SLOT_CONTINUOUS)):
            mean = np.where(continuous, statistics[0], 0.0)
            deviation = np.where(continuous, statistics[1], 1.0)
            self.get_buffer(f"{name}_mean").copy_(torch.from_numpy(mean))
            self.get_buffer(f"{name}_deviation").copy_(torch.from_numpy(deviation))


class ConditionalHead(nn.Module):
    """An argument head, with scores for every operation that reads it and every slot."""

    def __init__(self, memory: int, operations: int, choices: int) -> None:
        super().__init__()
        self.from_memory = nn.Linear(memory, HEAD_WIDTH)
        self.from_slot = nn.Linear(SLOT_ENCODING, HEAD_WIDTH, bias=False)
        self.from_operation = nn.Parameter(torch.zeros(operations, HEAD_WIDTH))
        self.out = nn.Linear(HEAD_WIDTH, choices)

    def forward(self, state: Tensor, slots: Tensor) -> Tensor:
        """(N, memory) and (N, S, encoding) to (N, K, S, choices)."""
        hidden = self.from_memory(state)[:, None, None] + self.from_slot(slots)[:, None]
        scores: Tensor = self.out(torch.relu(hidden + self.from_operation[:, None]))
        return scores


class SlotPointer(nn.Module):
    """The slot head: additive attention over slot encodings, for every operation."""

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.query = nn.Linear(memory, POINTER_WIDTH)
        self.key = nn.Linear(SLOT_ENCODING, POINTER_WIDTH, bias=False)
        self.from_operation = nn.Parameter(torch.zeros(OPERATIONS, POINTER_WIDTH))
        self.score = nn.Linear(POINTER_WIDTH, 1, bias=False)

    def forward(self, state: Tensor, slots: Tensor) -> Tensor:
        """(N, memory) and (N, S, encoding) to (N, 6, S)."""
        query = self.query(state)[:, None] + self.from_operation
        scores: Tensor = self.score(torch.tanh(query[:, :, None] + self.key(slots)[:, None]))
        return scores.squeeze(-1)


class ParameterGroups(NamedTuple):
    """The parameters of a policy network, by what they serve."""

    policy: list[nn.Parameter]
    """Of the heads that choose, head by head."""
    critic: list[nn.Parameter]
    trunk: list[nn.Parameter]
    """Of all that heads and critic share."""


class ArgumentScores(Mapping[str, Tensor]):
    """The scores of the argument heads, (N, K, S, choices) each, computed at first access."""

    def __init__(self, heads: nn.ModuleDict, state: Tensor, slots: Tensor) -> None:
        self._heads, self._state, self._slots = heads, state, slots
        self._scores: dict[str, Tensor] = {}

    def __getitem__(self, head: str) -> Tensor:
        if head not in self._scores:
            self._scores[head] = self._heads[head](self._state, self._slots)
        return self._scores[head]

    def __iter__(self) -> Iterator[str]:
        return iter(self._heads)

    def __len__(self) -> int:
        return len(self._heads)

    def __ror__(self, others: dict[str, Tensor]) -> dict[str, Tensor]:
        """``others | scores``, as if this were a dictionary."""
        return others | dict(self)


LARGEST_WEIGHT = 1e9
"""Greatest size of a weight. No training reaches it; products of larger ones may overflow single precision."""
DIVISORS = ("_deviation",)
"""Ends of the names of tensors that something is divided by."""


class PolicyNetwork(nn.Module):
    """The policy network. Initial weights come from torch's global generator."""

    value_mean: Tensor
    """() mean of the returns so far, in units of reward."""
    value_scale: Tensor
    """() spread of the returns so far, in units of reward. 0: unknown, and every prediction is the mean."""

    def __init__(self, config: PolicyConfig, *, initialise: bool = True) -> None:
        """
        Args:
            initialise: draw the initial weights; ``False`` if trained weights are loaded next.
        """
        super().__init__()
        self.config = config
        with GLOBAL_GENERATOR:  # layers draw from it when they are made
            self._build(config, initialise=initialise)

    def _build(self, config: PolicyConfig, *, initialise: bool) -> None:
        features, memory = config.feature_size, config.memory_size
        self.normaliser = FeatureNormaliser()
        self.blueprints = nn.Embedding(len(Blueprint) + 1, BLUEPRINT_EMBEDDING)
        self.slot_encoder = nn.Sequential(
            nn.Linear(SLOT_SIZE + BLUEPRINT_EMBEDDING + CONTEXT_SIZE, SLOT_ENCODING),
            nn.ReLU(),
            nn.Linear(SLOT_ENCODING, SLOT_ENCODING),
        )
        self.features = nn.Sequential(
            nn.Linear(BASE_SIZE + 2 * SLOT_ENCODING, features), nn.LayerNorm(features), nn.ReLU()
        )
        self.into_memory = nn.Identity() if features == memory else nn.Linear(features, memory)
        self.lstm = nn.LSTM(memory, memory, batch_first=True)
        self.memory_norm = nn.LayerNorm(memory)
        self.op_head = nn.Sequential(nn.Linear(memory, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, OPERATIONS))
        self.slot_head = SlotPointer(memory)
        sizes = head_sizes(1)
        self.argument_heads = nn.ModuleDict(
            {head: ConditionalHead(memory, len(OPS_OF_HEAD[head]), sizes[head]) for head in ARGUMENT_HEADS}
        )
        self.critic = nn.Sequential(
            nn.Linear(memory, CRITIC_WIDTH),
            nn.LayerNorm(CRITIC_WIDTH),
            nn.ReLU(),
            nn.Linear(CRITIC_WIDTH, OPERATIONS if config.critic == "q_op" else 1),
        )
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_scale", torch.ones(()))
        if initialise:
            self._initialise()

    def forward(
        self, features: Tensor, blueprints: Tensor, context: Tensor, memory: Memory | None = None
    ) -> PolicyOutput:
        """
        Args:
            features: (B, T, 23 + 31 S) Obs V3.
            blueprints: (B, T, S) blueprint index, -1 for an empty slot.
            context: (B, T, S, K) numbers of each slot, empty or not.
            memory: state before the first step; zeros if ``None``.

        Raises:
            ValueError: if a feature is not finite.
        """
        if not bool(torch.isfinite(features).all() and torch.isfinite(context).all()):
            raise ValueError("observation features are not finite")
        base, slots = self.normaliser(features)
        encoded = self.slot_encoder(torch.cat([slots, self.blueprints(blueprints + 1), context], dim=-1))
        pooled = torch.cat([base, encoded.mean(dim=-2), encoded.amax(dim=-2)], dim=-1)
        x = self.into_memory(self.features(pooled))
        remembered, memory = self._remember(x, memory)
        state = (self.memory_norm(remembered) + x).flatten(0, 1)
        encoded = encoded.flatten(0, 1)
        arguments = ArgumentScores(self.argument_heads, state, encoded)
        logits = ActionLogits(self.op_head(state), self.slot_head(state, encoded), arguments)
        q = self.critic(state)
        return PolicyOutput(logits, q.expand(-1, OPERATIONS), memory, state, encoded)

    def _remember(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Output (B, T, memory) and state of the LSTM. A single step skips the costly sequence kernel."""
        if x.shape[1] > 1 or memory is None:
            output, after = self.lstm(x, memory)
            return output, after
        hidden, cell = torch.lstm_cell(x[:, 0], [memory[0][0], memory[1][0]], *self.lstm.all_weights[0])
        return hidden[:, None], (hidden[None], cell[None])

    def values(self, q: Tensor) -> Tensor:
        """Predictions in units of reward, from outputs of the critic in normalised units; any shape."""
        return self.value_mean + self.value_scale * q

    def normalised_values(self, values: Tensor) -> Tensor:
        """Targets of the critic in normalised units, from returns in units of reward; any shape.

        They are 0 while the scale is 0.
        """
        scale = self.value_scale.clamp_min(torch.finfo(torch.float32).tiny)
        return torch.where(self.value_scale > 0, (values - self.value_mean) / scale, torch.zeros_like(values))

    def forget_values(self) -> None:
        """Make mean and scale of the returns unknown, so the first ones preserve no predictions."""
        self.value_mean.zero_()
        self.value_scale.zero_()

    def renormalise_values(self, mean: float, scale: float) -> None:
        """Set mean and scale of the returns; predictions in units of reward stay unchanged.

        There is nothing to preserve where one of the scales is 0: the outputs of an untrained critic have no unit.

        Source: van Hasselt et al., Learning values across many orders of magnitude (2016).
        """
        last = self.critic[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            if scale > 0 and bool(self.value_scale > 0):
                last.weight.mul_(self.value_scale / scale)
                last.bias.copy_((self.values(last.bias) - mean) / scale)
            self.value_mean.fill_(mean)
            self.value_scale.fill_(scale)

    def head_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of each head that chooses."""
        modules = {"op": self.op_head, "slot": self.slot_head, **self.argument_heads}
        return {head: list(module.parameters()) for head, module in modules.items()}

    def parameter_groups(self) -> ParameterGroups:
        """All parameters, each in one group."""
        policy = [parameter for head in self.head_parameters().values() for parameter in head]
        critic = list(self.critic.parameters())
        heads = {id(parameter) for parameter in (*policy, *critic)}
        return ParameterGroups(policy, critic, [p for p in self.parameters() if id(p) not in heads])

    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=2**0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.blueprints.weight, std=0.02)
        for name, parameter in self.lstm.named_parameters():
            if "weight" in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
        size = self.config.memory_size
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[size : 2 * size] = 1.0  # remember by default
            for layer, gain in self._final_layers():
                layer.weight.mul_(gain / 2**0.5)
            bias = self.op_head[-1].bias
            assert isinstance(bias, Tensor)
            bias[LifecycleOp.WAIT], bias[LifecycleOp.PRUNE] = self.config.wait_logit, self.config.prune_logit

    def _final_layers(self) -> list[tuple[nn.Linear, float]]:
        """Last layers and gains for nearly uniform choices and values near zero."""
        heads = [head.out for head in self.argument_heads.values() if isinstance(head, ConditionalHead)]
        choosing = [self.op_head[-1], self.slot_head.score, *heads]
        layers = [(layer, 0.01) for layer in choosing] + [(self.critic[-1], 0.1)]
        return [(layer, gain) for layer, gain in layers if isinstance(layer, nn.Linear)]


def parameter_count(config: PolicyConfig) -> int:
    """Number of trainable parameters of a network with ``config``, without allocating it."""
    with torch.device("meta"):
        return PolicyNetwork(config, initialise=False).parameter_count()


def state_value(op_log_probs: Tensor, q: Tensor) -> Tensor:
    """(N,) V(s) = sum over operations of pi(op | s) Q(s, op)."""
    return (op_log_probs.exp() * q).sum(dim=-1)


@lru_cache(maxsize=8)
def network_specs(config: PolicyConfig) -> Mapping[str, TensorSpec]:
    """Specifications of the tensors of a policy network, by name. Nothing of that size is allocated."""
    network = unallocated_network(config)
    weights = {name for name, _ in network.named_parameters()}
    tensors = network.state_dict()
    return MappingProxyType({name: _spec(name, tensor, name in weights) for name, tensor in tensors.items()})


def _spec(name: str, tensor: Tensor, is_weight: bool) -> TensorSpec:
    least, above = (0.0 if name == "value_scale" else None), (0.0 if name.endswith(DIVISORS) else None)
    most = LARGEST_WEIGHT if is_weight else None
    return TensorSpec(dtype_name(tensor), tuple(tensor.shape), least=least, above=above, most=most)


def unallocated_network(config: PolicyConfig) -> PolicyNetwork:
    """A policy network without memory for its weights."""
    with torch.device("meta"):
        return PolicyNetwork(config, initialise=False)
