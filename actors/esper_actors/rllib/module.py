"""The RLModule of Policy V2: a recurrent module with masks and values, and its distribution.

RLlib stores the output of a module for a state as one flat row of numbers, from which the learner rebuilds the
distribution. A row therefore holds every table of scores and then the masks: nothing is sampled again, and the batch is
never changed in place.

Shapes: B episodes, T steps, S slots, M memory, W numbers in a row.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.distribution import Distribution
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn

from esper_policies.distribution import ActionDistribution, ActionLogits, MaskTensors
from esper_policies.network import Memory, PolicyNetwork, PolicyOutput, state_value
from esper_ray.leyline.actions import ARGUMENT_HEADS, OPS_OF_HEAD, LifecycleOp, head_sizes
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.legality import mask_vector_size
from esper_ray.leyline.process.locks import GLOBAL_GENERATOR

OPERATIONS = len(LifecycleOp)
Q_VALUES = "q_values"
"""Column of Q(s, op), (B, T, 6) in units of the critic."""
NETWORK_OUTPUT = "network_output"
"""Key of the network's own output in a forward pass of training."""


def table_sizes(slots: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the score tables for ``slots`` slots, in packing order."""
    sizes = head_sizes(slots)
    tables: dict[str, tuple[int, ...]] = {"op": (OPERATIONS,), "slot": (OPERATIONS, slots)}
    return tables | {head: (len(OPS_OF_HEAD[head]), slots, sizes[head]) for head in ARGUMENT_HEADS}


def packed_size(slots: int) -> int:
    """Length of a packed row for ``slots`` slots."""
    return sum(int(np.prod(shape)) for shape in table_sizes(slots).values()) + mask_vector_size(slots)


def packed(logits: ActionLogits, masks: MaskTensors) -> Tensor:
    """(N, W) scores and masks of N states, one flat row each."""
    tables = [logits.op, logits.slot, *(logits.arguments[head] for head in ARGUMENT_HEADS)]
    return torch.cat([table.flatten(1) for table in tables] + [masks.flat.to(logits.op.dtype)], dim=1)


def unpacked(rows: Tensor) -> tuple[ActionLogits, MaskTensors]:
    """Scores and masks of rows from :func:`packed`.

    Raises:
        ValueError: if no number of slots has rows of this length.
    """
    fixed = packed_size(0)
    slots, rest = divmod(rows.shape[1] - fixed, packed_size(1) - fixed)
    if slots < 1 or rest:
        raise ValueError(f"no number of slots has packed rows of {rows.shape[1]} numbers")
    shapes = table_sizes(slots)
    parts = torch.split(rows, [*(int(np.prod(shape)) for shape in shapes.values()), mask_vector_size(slots)], dim=1)
    tables = {n: part.reshape(-1, *shape) for (n, shape), part in zip(shapes.items(), parts[:-1], strict=True)}
    logits = ActionLogits(tables.pop("op"), tables.pop("slot"), tables)
    return logits, legal_masks(parts[-1] > 0.5, slots)


class FactoredDistribution(Distribution):
    """:class:`ActionDistribution` behind RLlib's interface: any leading dimensions, (..., 8) actions."""

    def __init__(self, rows: Tensor, *, greedy: bool = False) -> None:
        """
        Args:
            rows: (..., W) packed rows.
            greedy: sampling returns the mode.
        """
        self._rows, self._greedy = rows, greedy
        self.factored = ActionDistribution(*unpacked(rows.flatten(0, -2)))

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: Any) -> "FactoredDistribution":
        """The distributions of (..., W) packed rows."""
        return cls(logits)

    def sample(self, *, sample_shape: tuple[int, ...] | None = None, return_logp: bool = False, **kwargs: Any) -> Any:
        """(..., 8) actions, one draw each; with their (...) log-probabilities on request.

        Raises:
            ValueError: if more than one draw is requested.
        """
        if sample_shape:
            raise ValueError(f"one action is drawn for each state, got sample_shape {sample_shape}")
        choice = self.factored.mode() if self._greedy else self.factored.sample()
        actions = self._shaped(choice.actions)
        return (actions, self._shaped(choice.log_prob_op + choice.log_prob_arguments)) if return_logp else actions

    def rsample(self, **kwargs: Any) -> Any:
        """Never possible.

        Raises:
            NotImplementedError: actions are integers, nothing can be differentiated through their draw.
        """
        raise NotImplementedError("factored actions are integers and have no reparameterised draw")

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """(...) log-probability of (..., 8) actions; heads that an operation does not read add nothing."""
        operation, arguments = self.split_logp(value)
        return operation + arguments

    def split_logp(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of the operation, and of slot and arguments given it; (...) each."""
        operation, arguments = self.factored.log_probs(value.flatten(0, -2).long())
        return self._shaped(operation), self._shaped(arguments)

    def entropy(self, **kwargs: Any) -> Tensor:
        """(...) exact entropy in nats."""
        return self._shaped(self.factored.entropy())

    def evenness(self) -> Tensor:
        """(...) see :meth:`ActionDistribution.evenness`."""
        return self._shaped(self.factored.evenness())

    def kl(self, other: "FactoredDistribution", **kwargs: Any) -> Tensor:
        """(...) exact KL(self || other) in nats."""
        return self._shaped(self.factored.kl(other.factored))

    def choices(self) -> Tensor:
        """(...) number of legal operations."""
        return self._shaped(self.factored.masks.op.sum(dim=-1))

    def to_deterministic(self) -> "FactoredDistribution":
        """The same distributions, whose samples are their modes."""
        return FactoredDistribution(self._rows, greedy=True)

    @staticmethod
    def required_input_dim(space: gymnasium.Space[Any], **kwargs: Any) -> int:
        """Length of a packed row for the environment's action space."""
        return packed_size(int(space.nvec[1]))  # type: ignore[attr-defined]

    def _shaped(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(*self._rows.shape[:-1], *numbers.shape[1:])


class PolicyV2Module(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI, InferenceOnlyAPI):
    """Policy V2 for RLlib's new API stack.

    ``model_config`` holds ``policy`` (the fields of ``PolicyConfig``), ``max_seq_len`` (RLlib's; at least the length
    of an episode and one more) and optionally ``weights_seed`` of the initial weights.

    There is no share of uniform choices: algorithms explore by their entropy bonus.
    """

    def setup(self) -> None:
        with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[], enabled="weights_seed" in self.model_config):
            if "weights_seed" in self.model_config:
                torch.default_generator.manual_seed(self.model_config["weights_seed"])
            self.network = PolicyNetwork(PolicyConfig(**self.model_config["policy"]))
        self.action_dist_cls = FactoredDistribution

    def get_initial_state(self) -> dict[str, Any]:
        size = self.network.config.memory_size
        return {name: np.zeros(size, np.float32) for name in ("hidden", "cell")}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: if weights are missing; RLlib would keep the present ones silently.
        """
        missing = [name for name in self.network.state_dict(prefix="network.") if name not in state]
        if missing:
            raise ValueError(f"the state of a module lacks {', '.join(missing)}")
        super().set_state(state)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """(B, T) V(s) in units of reward, without gradient for the choice of operations.

        ``V(s) = sum_o pi(o | s) Q(s, o)``, and the policy is held fixed in it: else a value loss would be lowered by
        choosing what is predicted best.
        """
        if embeddings is not None:
            return torch.as_tensor(embeddings)
        output, masks = self._evaluate(self.network, batch)
        return by_step(self._values(output, masks), batch)

    def make_target_networks(self) -> None:
        """A copy of the network for APPO, which measures its updates against it. Exists in learners only."""
        self.target: nn.Module = make_target_network(self.network)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.network, self.target)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            output, masks = self._evaluate(self.target, batch)
            rows = packed(output.logits, masks)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: by_step(rows, batch)}

    def get_non_inference_attributes(self) -> list[str]:
        return ["target"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output, masks = self._evaluate(self.network, batch)
        return self._columns(output, masks, batch)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        output, masks = self._evaluate(self.network, batch)
        return self._columns(output, masks, batch) | {
            Columns.EMBEDDINGS: by_step(self._values(output, masks), batch),
            Q_VALUES: by_step(output.q, batch),
            NETWORK_OUTPUT: output,
        }

    def _evaluate(self, network: nn.Module, batch: dict[str, Any]) -> tuple[PolicyOutput, MaskTensors]:
        """Output and masks of ``network`` for every step of ``batch``."""
        seen, state = batch[Columns.OBS], batch[Columns.STATE_IN]
        memory: Memory = (state["hidden"][None].contiguous(), state["cell"][None].contiguous())
        output: PolicyOutput = network(seen["features"], seen["blueprints"].long(), seen["context"], memory)
        return output, legal_masks(seen["masks"].flatten(0, 1), seen["blueprints"].shape[-1])

    def _columns(self, output: PolicyOutput, masks: MaskTensors, batch: dict[str, Any]) -> dict[str, Any]:
        hidden, cell = output.memory
        return {
            Columns.ACTION_DIST_INPUTS: by_step(packed(output.logits, masks), batch),
            Columns.STATE_OUT: {"hidden": hidden[0], "cell": cell[0]},
        }

    def _values(self, output: PolicyOutput, masks: MaskTensors) -> Tensor:
        with torch.no_grad():
            operations = ActionDistribution(output.logits, masks).op
        return state_value(operations, self.network.values(output.q))


def by_step(rows: Tensor, batch: dict[str, Any]) -> Tensor:
    """(B * T, ...) to (B, T, ...), as ``batch`` has it."""
    episodes, steps = batch[Columns.OBS]["features"].shape[:2]
    return rows.reshape(episodes, steps, *rows.shape[1:])


def legal_masks(vectors: Tensor, slots: int) -> MaskTensors:
    """Masks of (N, L) observed vectors. Rows of zeros are RLlib's padding; waiting is made legal in them.

    Padding has no weight in any loss, but every distribution needs something to choose.
    """
    padding = ~vectors.bool().any(dim=-1, keepdim=True)
    waiting = torch.arange(vectors.shape[-1], device=vectors.device) < slots
    return MaskTensors.from_vectors(vectors.bool() | (padding & waiting), slots)
