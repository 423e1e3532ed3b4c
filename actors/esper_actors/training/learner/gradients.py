"""Gradients of policy and critic over a shared trunk, clipped apart."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from esper_policies.network import PolicyNetwork, PolicyOutput


class GradientNorms(NamedTuple):
    """Norms of gradients before clipping."""

    losses: Tensor
    """(3,) of policy, critic and trunk, as they are clipped."""
    heads: Mapping[str, Tensor]
    """() each, of the heads that choose."""


def backward_apart(
    network: PolicyNetwork, output: PolicyOutput, policy_loss: Tensor, value_loss: Tensor, limit: float
) -> GradientNorms:
    """Set the gradients of the network, those of the two losses clipped apart.

    The gradient of each loss is taken over its own heads and the outputs of the trunk, and clipped by the norm over
    both, before the two are added. One pass through the trunk carries the sum on, and the gradient of the trunk
    is clipped by its own norm. A loss of any size thus leaves the gradient of the other one's heads as it is.

    Args:
        output: of the forward pass behind both losses. Its graph is freed.
        policy_loss: () with the entropy bonus.
        value_loss: () with its coefficient.
        limit: largest norm of each of the three.
    """
    groups = network.parameter_groups()
    policy_norm, share, (state, slots) = _heads_backward(
        policy_loss, groups.policy, (output.state, output.slots), limit
    )
    heads = {
        head: get_total_norm([p.grad for p in parameters if p.grad is not None]) / share
        for head, parameters in network.head_parameters().items()
    }
    value_norm, _, (valued_state,) = _heads_backward(value_loss, groups.critic, (output.state,), limit)
    for parameter in groups.trunk:
        parameter.grad = None
    torch.autograd.backward([output.state, output.slots], [state + valued_state, slots])
    return GradientNorms(torch.stack([policy_norm, value_norm, clip_grad_norm_(groups.trunk, limit)]), heads)


def _heads_backward(
    loss: Tensor, parameters: Sequence[nn.Parameter], inputs: Sequence[Tensor], limit: float
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Set the clipped gradients of ``parameters``.

    Returns:
        The norm before, the factor of the clipping, and the clipped gradients of ``inputs``.
    """
    gradients = torch.autograd.grad(loss, [*parameters, *inputs])
    norm = get_total_norm(gradients)
    share = (limit / (norm + 1e-6)).clamp(max=1.0)
    clipped = [gradient * share for gradient in gradients]
    for parameter, gradient in zip(parameters, clipped, strict=False):
        parameter.grad = gradient
    return norm, share, clipped[len(parameters) :]
