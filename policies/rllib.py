"""Policy V2 as an RLlib module of the new API stack. Only those who import this file need Ray.

RLlib hands one tensor from a module to its distribution. Here it is the whole answer of the network, packed: every
table of scores, the masks that belong to them, and Q(s, operation) in units of reward. So a distribution that is
built again from what was stored when the action was drawn is the one that it was drawn from, values included.

Shapes: B sequences, T steps, S slots, W numbers of a packed answer.
"""

from typing import Any, Self

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDistribution
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS, TargetNetworkAPI
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from esper_ray.leyline.actions import ARGUMENT_HEADS, HEADS, OPS_OF_HEAD, LifecycleOp, head_sizes
from esper_ray.leyline.config import PolicyConfig
from esper_ray.leyline.legality import mask_vector_size
from policies.distribution import ActionDistribution, ActionLogits, MaskTensors
from policies.network import PolicyNetwork, PolicyOutput, state_value

OPERATIONS = len(LifecycleOp)


def packed(output: PolicyOutput, masks: Tensor, unit: Tensor) -> Tensor:
    """(N, W) of one answer of the network.

    Args:
        masks: (N, L) as ``Masks.vector``.
        unit: of value.
    """
    logits = output.logits
    tables = [logits.op, logits.slot, *(logits.arguments[head] for head in ARGUMENT_HEADS)]
    return torch.cat([*(table.flatten(1) for table in tables), masks.to(logits.op.dtype), output.q * unit], dim=1)


def packed_width(slots: int) -> int:
    """W for ``slots`` slots."""
    return sum(size for size, _ in _tables(slots)) + mask_vector_size(slots) + OPERATIONS


def _tables(slots: int) -> list[tuple[int, tuple[int, ...]]]:
    """Number of entries and shape of each table of scores."""
    sizes = head_sizes(slots)
    shapes = [(OPERATIONS,), (OPERATIONS, slots)]
    shapes += [(len(OPS_OF_HEAD[head]), slots, sizes[head]) for head in ARGUMENT_HEADS]
    return [(int(np.prod(shape)), shape) for shape in shapes]


def _slots_of(width: int) -> int:
    """The number of slots whose answers have ``width`` numbers: it grows by the same for each slot."""
    per_slot = packed_width(2) - packed_width(1)
    slots, rest = divmod(width - packed_width(1) + per_slot, per_slot)
    if rest or slots < 1:
        raise ValueError(f"no answer of Policy V2 has {width} numbers; those of one slot have {packed_width(1)}")
    return slots


class PackedDistribution(TorchDistribution):  # type: ignore[misc]
    """Distributions over actions from packed answers (..., W). Shapes of results lack the last dimension."""

    def __init__(self, logits: Tensor, greedy: bool = False) -> None:
        self._shape, self._packed, self._greedy = logits.shape[:-1], logits, greedy
        rows = logits.reshape(-1, logits.shape[-1])
        slots = _slots_of(rows.shape[-1])
        tables = _tables(slots)
        sizes = [*(size for size, _ in tables), mask_vector_size(slots), OPERATIONS]
        *scores, masks, self._q = torch.split(rows, sizes, dim=1)
        op, slot, *arguments = (part.reshape(-1, *shape) for part, (_, shape) in zip(scores, tables, strict=True))
        made = ActionLogits(op, slot, dict(zip(ARGUMENT_HEADS, arguments, strict=True)))
        self.choices = ActionDistribution(made, MaskTensors.from_vectors(masks > 0.5, slots))
        super().__init__()

    def _get_torch_distribution(self) -> None:
        return None

    @staticmethod
    def required_input_dim(space: Any, **_: Any) -> int:
        """W for an action space of the environment."""
        return packed_width(int(space.nvec[HEADS.index("slot")]))

    @property
    def values(self) -> Tensor:
        """V(s) in units of reward."""
        return state_value(self.choices.op, self._q).reshape(self._shape)

    def q_of(self, actions: Tensor) -> Tensor:
        """Q(s, operation taken) in units of reward, of (..., 8) ``actions``."""
        return self._q.gather(1, self._rows(actions)[:, :1]).reshape(self._shape)

    def log_probs(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the operation, and of slot and arguments given it."""
        op, arguments = self.choices.log_probs(self._rows(actions))
        return op.reshape(self._shape), arguments.reshape(self._shape)

    def logp(self, value: Tensor, **_: Any) -> Tensor:
        """Log-probability of (..., 8) actions."""
        op, arguments = self.log_probs(value)
        return op + arguments

    def entropy(self) -> Tensor:
        """Exact, in nats."""
        return self.choices.entropy().reshape(self._shape)

    def kl(self, other: "PackedDistribution") -> Tensor:
        """Exact KL(self || other) in nats."""
        return self.choices.kl(other.choices).reshape(self._shape)

    def sample(self, *, sample_shape: Any = None) -> Tensor:
        """(..., 8) actions: draws, or the likeliest ones of a deterministic distribution."""
        actions = self.choices.mode() if self._greedy else self.choices.sample()
        return actions.reshape(*self._shape, len(HEADS))

    def to_deterministic(self) -> Self:
        """The same, choosing what is likeliest."""
        return type(self)(self._packed, greedy=True)

    def _rows(self, actions: Tensor) -> Tensor:
        return actions.reshape(-1, len(HEADS)).long()


class TamiyoModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Policy V2: observations of ``MorphogenesisEnv`` in, packed answers out; recurrent.

    ``model_config`` holds ``policy``, a dictionary of :class:`~esper_ray.leyline.config.PolicyConfig`, and
    ``max_seq_len``, the length of an episode.
    """

    def setup(self) -> None:
        """Make the network. RLlib calls it."""
        self.action_dist_cls = PackedDistribution
        self.network = PolicyNetwork(PolicyConfig(**self.model_config["policy"]))

    def get_initial_state(self) -> dict[str, Any]:
        """An empty memory."""
        size = self.network.config.memory_size
        return {name: np.zeros((size,), np.float32) for name in ("h", "c")}

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self._answers(self.network, batch, padded=False)

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        answers = self._answers(self.network, batch, padded=True)
        return answers | {Columns.EMBEDDINGS: answers[Columns.ACTION_DIST_INPUTS]}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """(B, T) V(s) in units of reward."""
        if embeddings is None:
            embeddings = self._answers(self.network, batch, padded=True)[Columns.ACTION_DIST_INPUTS]
        return PackedDistribution(embeddings).values

    @staticmethod
    def _answers(network: PolicyNetwork, batch: dict[str, Any], *, padded: bool) -> dict[str, Any]:
        """
        Args:
            padded: there may be steps that nobody played, all zeros; in them WAIT is legal.
        """
        observation, state = batch[Columns.OBS], batch[Columns.STATE_IN]
        masks, blueprints = observation["masks"], observation["blueprints"].long()
        if padded:
            masks = masks.clone()
            masks[..., : blueprints.shape[-1]] |= ~masks.bool().any(dim=-1, keepdim=True)
        output = network(observation["features"], blueprints, (state["h"][None], state["c"][None]))
        hidden, cell = output.memory
        answers = packed(output, masks.flatten(0, 1), network.value_scale)
        return {
            Columns.ACTION_DIST_INPUTS: answers.reshape(*masks.shape[:2], -1),
            Columns.STATE_OUT: {"h": hidden[0], "c": cell[0]},
        }


class TamiyoTargetModule(TamiyoModule, TargetNetworkAPI):  # type: ignore[misc]
    """The same with a target network, as APPO needs it."""

    def make_target_networks(self) -> None:
        """Make it. RLlib calls it."""
        self.target = make_target_network(self.network)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """The network, and the one that follows it."""
        return [(self.network, self.target)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The answers of the target network."""
        answers = self._answers(self.target, batch, padded=True)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: answers[Columns.ACTION_DIST_INPUTS]}
