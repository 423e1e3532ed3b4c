"""Tamiyo, the learned policy: Policy V2 with its memory, its exploration and its own random numbers."""

import torch

from esper_ray.leyline.actions import Action
from esper_ray.leyline.config import PolicyConfig
from esper_ray.leyline.policy import Decision, View
from policies.distribution import ActionDistribution, MaskTensors
from policies.network import Memory, PolicyNetwork, PolicyOutput, state_value


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

    @torch.inference_mode()
    def decide(self, view: View) -> Decision:
        """One draw (the likeliest choice if ``greedy``), with its log-probabilities and values."""
        output, distribution = self._look(view)
        self._memory = output.memory
        choice = distribution.likeliest() if self.greedy else distribution.drawn(self._generator)
        actions = choice.actions
        scale = self.network.value_scale
        value, taken = state_value(distribution.op, output.q), output.q.gather(1, actions[:, :1]).squeeze(1)
        numbers = torch.cat([choice.log_prob_op, choice.log_prob_arguments, value * scale, taken * scale]).tolist()
        action = Action.from_indices(actions[0].tolist(), view.masks.slot_by_op.shape[1])
        return Decision(action, *numbers)

    def _look(self, view: View) -> tuple[PolicyOutput, ActionDistribution]:
        features = torch.from_numpy(view.features).to(self.device)[None, None]
        blueprints = torch.from_numpy(view.blueprints).to(self.device)[None, None]
        masks = torch.from_numpy(view.masks.vector()).to(self.device)[None]
        output = self.network(features, blueprints, self._memory)
        return output, ActionDistribution(
            output.logits, MaskTensors.from_vectors(masks, blueprints.shape[-1]), self.epsilon
        )
