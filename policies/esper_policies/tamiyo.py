"""Tamiyo, the learned policy: Policy V2 with its memory, its exploration and its own random numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esper_policies.distribution import ActionDistribution, MaskTensors
from esper_policies.network import Memory, PolicyNetwork, PolicyOutput, state_value
from esper_ray.leyline.actions import Action, LifecycleOp
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.policy import Decision, View


class LearnedPolicy:
    """Plays episodes with a :class:`PolicyNetwork`. Its weights mean nothing before :meth:`load`."""

    def __init__(self, config: PolicyConfig, device: str = "cpu") -> None:
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            self.network = PolicyNetwork(config, initialise=False).to(self.device).eval()
        self.epsilon = 0.0
        self.greedy = False
        self._memory: Memory | None = None
        self._generator = torch.Generator(device=self.device)

    def load(self, weights: dict[str, torch.Tensor], epsilon: float) -> None:
        """Adopt weights and the exploration share of this round."""
        self.network.load_state_dict(weights)
        self.epsilon = epsilon

    def begin_episode(self, seed: int) -> None:
        """Empty memory; draws of the episode come from ``seed``."""
        self._memory = None
        self._generator.manual_seed(seed)

    def save_state(self) -> dict[str, NDArray[Any]]:
        """Memory and random numbers; (1, 1, H) each of ``hidden`` and ``cell``, which are absent before a decision."""
        names = () if self._memory is None else zip(("hidden", "cell"), self._memory, strict=True)
        state = {name: tensor.cpu().numpy() for name, tensor in names}
        return state | {"generator": self._generator.get_state().numpy()}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on as the policy that was saved would have.

        Raises:
            ValueError: if ``state`` is of another kind of policy or device; this one is as it was then.
        """
        kept = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        if kept.keys() not in ({"generator"}, {"generator", "hidden", "cell"}):
            raise ValueError(f"a saved policy has generator, hidden and cell, got {sorted(kept)}")
        width = self.network.config.memory_size
        for name in kept.keys() - {"generator"}:
            if kept[name].shape[-1] != width:
                raise ValueError(
                    f"the saved {name} has shape {tuple(kept[name].shape)}, this policy's memory is {width}"
                )
        try:
            self._generator.set_state(kept["generator"])
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the saved generator is of another device than {self.device}: {error}") from error
        memory = [kept[name].to(self.device) for name in ("hidden", "cell") if name in kept]
        self._memory = (memory[0], memory[1]) if memory else None

    @torch.inference_mode()
    def decide(self, view: View) -> Decision:
        """One draw (the likeliest choice if ``greedy``), with its log-probabilities and values."""
        output, distribution = self._look(view)
        self._memory = output.memory
        choice = distribution.likeliest() if self.greedy else distribution.drawn(self._generator)
        actions = choice.actions
        scale = self.network.value_scale
        value, taken = state_value(distribution.op, output.q), output.q.gather(1, actions[:, :1]).squeeze(1)
        one = [choice.log_prob_op, choice.log_prob_arguments, value * scale, taken * scale]
        numbers = torch.cat([*one, distribution.op[0].exp(), output.q[0] * scale]).tolist()  # one wait for the device
        log_prob_op, log_prob_arguments, value_now, q_taken, *of_ops = numbers
        action = Action.from_indices(actions[0].tolist(), view.masks.slot_by_op.shape[1])
        return Decision(
            action,
            log_prob_op,
            log_prob_arguments,
            value_now,
            q_taken,
            op_probabilities=tuple(of_ops[: len(LifecycleOp)]),
            op_values=tuple(of_ops[len(LifecycleOp) :]),
        )

    def _look(self, view: View) -> tuple[PolicyOutput, ActionDistribution]:
        features = torch.from_numpy(view.features).to(self.device)[None, None]
        blueprints = torch.from_numpy(view.blueprints).to(self.device)[None, None]
        masks = torch.from_numpy(view.masks.vector()).to(self.device)[None]
        output = self.network(features, blueprints, self._memory)
        return output, ActionDistribution(
            output.logits, MaskTensors.from_vectors(masks, blueprints.shape[-1]), self.epsilon
        )
