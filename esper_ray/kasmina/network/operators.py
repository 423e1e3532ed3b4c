"""Blend operators of a seed's change d and the host's features h at amplitude a.

ADD is ``h + a d``, MULTIPLY ``h (1 + a tanh d)``, GATE ``h + a g(h) d``. All are h, bit by bit, where
d or a is 0, and continuous in a. The path from h to the output keeps its gradient, whatever a is.
"""

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import SlotShape
from esper_ray.leyline.actions import BlendOperator
from esper_ray.leyline.blueprints import Topology, gate_width

OPEN_BIAS = 3.0
"""Logit of a newborn gate, which passes 95 %."""


class GateNetwork(nn.Module):
    """Gate in (0, 1) for a change, one number per example or per causal token.

    Shapes: (B, C, H, W) to (B, 1, 1, 1); (B, T, D) to (B, 1, 1) or, causal, (B, T, 1); (B, D) to (B, 1).
    """

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.topology, self.causal = shape.topology, shape.causal
        self.hidden = nn.Linear(shape.channels, gate_width(shape.channels))
        self.output = nn.Linear(gate_width(shape.channels), 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, OPEN_BIAS)

    def forward(self, h: Tensor) -> Tensor:
        if self.topology is Topology.IMAGES:
            h = h.mean(dim=(2, 3))
        elif self.topology is Topology.SEQUENCES and not self.causal:
            h = h.mean(dim=1, keepdim=True)
        share: Tensor = self.output(self.hidden(h).relu()).sigmoid()
        return share[:, :, None, None] if self.topology is Topology.IMAGES else share


def blend(
    operator: BlendOperator, features: Tensor, change: Tensor, alpha: Tensor | float, gate: nn.Module | None
) -> Tensor:
    """Features with the change joined at amplitude ``alpha``, in the wider type of the two.

    Args:
        gate: the gate network; needed by GATE and read by nothing else.

    Raises:
        RuntimeError: if GATE has no gate network.
    """
    if operator is BlendOperator.ADD:
        if isinstance(alpha, Tensor) and change.dtype == features.dtype == alpha.dtype:
            return torch.addcmul(features, change, alpha)  # one pass over the features instead of two
        return features + alpha * change
    if operator is BlendOperator.MULTIPLY:
        return features * (1.0 + alpha * torch.tanh(change))
    if gate is None:
        raise RuntimeError("operator GATE needs a gate network")
    share: Tensor = alpha * gate(features)
    return features + share * change
