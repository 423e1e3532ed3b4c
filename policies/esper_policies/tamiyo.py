"""Tamiyo, the learned policy: Policy V2 with memory, exploration and random generator."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import Memory, PolicyNetwork, PolicyOutput, state_value
from esper_ray.leyline.actions import Action, LifecycleOp
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.files.tensors import TensorSpec, listed, tensor_problems
from esper_ray.leyline.policy import Decision, HeadChoice, View


class LearnedPolicy:
    """A policy with a :class:`PolicyNetwork`, whose weights are undefined before :meth:`load`."""

    def __init__(self, config: PolicyConfig, device: str = "cpu") -> None:
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            self.network = PolicyNetwork(config, initialise=False).to(self.device).eval()
        self.epsilon = 0.0
        self.greedy = False
        self._memory: Memory | None = None
        self._generator = torch.Generator(device=self.device)

    def load(self, weights: dict[str, torch.Tensor], epsilon: float) -> None:
        """Set the weights, and the exploration share of the round."""
        self.network.load_state_dict(weights)
        self.epsilon = epsilon

    def begin_episode(self, seed: int) -> None:
        """Reset the memory, and seed the generator of the episode."""
        self._memory = None
        self._generator.manual_seed(seed)

    def save_state(self) -> dict[str, NDArray[Any]]:
        """State of the memory and of the random generator.

        ``hidden`` and ``cell`` have shape (1, 1, H) and are absent before a decision.
        """
        names = () if self._memory is None else zip(("hidden", "cell"), self._memory, strict=True)
        state = {name: tensor.cpu().numpy() for name, tensor in names}
        return state | {"generator": self._generator.get_state().numpy()}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore memory and generator from ``state``.

        Raises:
            ValueError: if ``state`` is of another kind of policy or device; this policy is unchanged then.
        """
        if state.keys() not in ({"generator"}, {"generator", "hidden", "cell"}):
            raise ValueError(f"a saved policy has generator, hidden and cell, got {sorted(state)}")
        width, present = self.network.config.memory_size, self._generator.get_state()
        specs = {"generator": TensorSpec("uint8", tuple(present.shape))}
        specs |= {name: TensorSpec("float32", (1, 1, width)) for name in state.keys() - {"generator"}}
        problems = tensor_problems(state, specs)
        if problems:
            raise ValueError(f"the saved policy does not fit a memory of {width} on {self.device}: {listed(problems)}")
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        generator = torch.Generator(device=self.device)
        try:
            generator.set_state(tensors["generator"])
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the saved generator is not one of {self.device}: {error}") from error
        memory = [tensors[name].to(self.device) for name in ("hidden", "cell") if name in tensors]
        self._generator, self._memory = generator, (memory[0], memory[1]) if memory else None

    @torch.inference_mode()
    def decide(self, view: View) -> Decision:
        """A sample (the mode if ``greedy``), with its log-probabilities and values."""
        output, distribution = self._evaluate(view)
        self._memory = output.memory
        choice = distribution.mode() if self.greedy else distribution.sample(self._generator)
        actions = choice.actions
        q = self.network.values(output.q)
        value, q_of_op = state_value(distribution.op, q), q.gather(1, actions[:, :1]).squeeze(1)
        outputs = [choice.log_prob_op, choice.log_prob_arguments, value, q_of_op]
        numbers = torch.cat([*outputs, distribution.op[0].exp(), q[0]]).tolist()  # one device synchronisation
        log_prob_op, log_prob_arguments, value_now, q_taken, *op_numbers = numbers
        action = Action.from_indices(actions[0].tolist(), view.masks.slot_by_op.shape[1])
        return Decision(
            action,
            log_prob_op,
            log_prob_arguments,
            value_now,
            q_taken,
            op_probabilities=tuple(op_numbers[: len(LifecycleOp)]),
            op_values=tuple(op_numbers[len(LifecycleOp) :]),
            heads=partial(_head_choices, distribution, actions),
        )

    def _evaluate(self, view: View) -> tuple[PolicyOutput, ActionDistribution]:
        features = torch.from_numpy(view.features).to(self.device)[None, None]
        blueprints = torch.from_numpy(view.blueprints).to(self.device)[None, None]
        context = torch.from_numpy(view.context).to(self.device)[None, None]
        masks = torch.from_numpy(view.masks.vector()).to(self.device)[None]
        output = self.network(features, blueprints, context, self._memory)
        return output, ActionDistribution(
            output.logits, MaskTensors.from_vectors(masks, blueprints.shape[-1]), self.epsilon
        )


@torch.inference_mode()
def _head_choices(distribution: ActionDistribution, actions: Tensor) -> dict[str, HeadChoice]:
    numbers = {
        head: torch.stack(parts).squeeze(-1).tolist() for head, parts in distribution.used_heads(actions).items()
    }
    return {head: HeadChoice(int(c), min(p, 1.0), max(h, 0.0), int(n)) for head, (c, p, h, n) in numbers.items()}
