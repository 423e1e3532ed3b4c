"""Search of the spans of a model that a user wants to widen."""

from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.modules import differentiable_checkpoints, preserved_randomness
from esper_ray.kasmina.network.attachment import call, check_unwrapped, evaluation_mode
from esper_ray.kasmina.network.places.inputs import batch_size, converted
from esper_ray.kasmina.network.places.names import check_host
from esper_ray.kasmina.network.spans.finding import Span, spans_in
from esper_ray.kasmina.network.spans.regions import Region, SpanError

SHOWN_REASONS = 3
"""Number of reasons in the message of a model without spans."""


def find_spans(model: nn.Module, example_input: Any) -> list[Span]:
    """All spans of ``model`` that can be widened, in forward order.

    Each has its shapes and the price of a channel. A span leads from a convolution or linear layer, the producer, to
    the one that reads its channels. Only elementwise activations, per-channel norms, depthwise convolutions, dropout,
    pools and flattening lie between. A trace of one pass shows it, and a copy of the model that is truly wider must
    compute what the model with seeds computes.

    Args:
        example_input: input that one evaluation pass can be run on: a tensor, a tuple of positional or a mapping of
            named arguments, batch first.

    Raises:
        SpanError: if there is none, with the reasons.
        ValueError: if the model is compiled, or has slots already.
    """
    check_unwrapped(model)
    check_host(model)
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device

    def run(host: nn.Module) -> Any:
        return call(host, converted(example_input, lambda value: value.clone() if isinstance(value, Tensor) else value))

    with torch.no_grad(), evaluation_mode(model), preserved_randomness(device), differentiable_checkpoints():
        found, reasons = spans_in(model, run)
    found = [region for region in found if _counts_examples(region, batch_size(example_input) or 1)]
    if not found:
        shown = "; ".join(reasons[:SHOWN_REASONS]) or "it calls neither a convolution nor a linear layer"
        raise SpanError(f"{type(model).__name__} has no span that can be widened: {shown}")
    return [Span.of(region) for region in found]


def _counts_examples(region: Region, rows: int) -> bool:
    """Whether the hidden features can be those of ``rows`` examples.

    A table, such as one of relative positions, does not depend on them.
    """
    shape = region.hidden.shape
    return shape[0] % rows == 0 or (len(shape) > 2 and shape[1] == rows)
