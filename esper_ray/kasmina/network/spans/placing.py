"""Places of slots that are spans: their names, their regions, and conflicts with other slots."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from esper_ray.kasmina.network.spans.finding import Span, different_in_training, named_region, trace_of
from esper_ray.kasmina.network.spans.proving import disproved
from esper_ray.kasmina.network.spans.regions import ARROW, Region, SpanError
from esper_ray.kasmina.network.spans.tracing import Trace


def divided_places(slots: Mapping[str, str | Span]) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """The submodule of each slot, and producer and consumer of those on spans.

    Raises:
        SpanError: if the name of a span does not consist of two layers.
    """
    modules, spans = dict[str, str](), dict[str, tuple[str, str]]()
    for slot, place in slots.items():
        name = place.place if isinstance(place, Span) else place
        if not isinstance(name, str):
            raise ValueError(f"slot {slot}: a place is the name of a submodule or a span, got {name!r}")
        if ARROW.strip() not in name:
            modules[slot] = name
            continue
        layers = [part.strip() for part in name.split(ARROW.strip())]
        if len(layers) != 2 or not all(layers):
            raise SpanError(f"slot {slot}: a span is written 'producer{ARROW}consumer', got {name!r}")
        modules[slot], spans[slot] = layers[1], (layers[0], layers[1])
    return modules, spans


def found_regions(
    host: nn.Module,
    modules: Mapping[str, str],
    spans: Mapping[str, tuple[str, str]],
    run: Callable[[nn.Module], Any],
) -> dict[str, Region]:
    """The region of each span, proven.

    Args:
        modules: submodule of every slot, on a span or not.
        run: runs a host on an example, in evaluation mode and without gradient.

    Raises:
        SpanError: if there is no span between two layers, with the reason; if another slot sits inside one.
    """
    if not spans:
        return {}
    trace, found = trace_of(host, run), dict[str, Region]()
    for slot, (producer, consumer) in spans.items():
        try:
            found[slot] = named_region(host, trace, producer, consumer)
        except SpanError as error:
            raise SpanError(f"slot {slot}: {error}") from error
    _check_inside(trace, modules, found)
    regions = list(found.values())
    failures = different_in_training(host, regions, run) | disproved(host, regions, run)
    for slot, region in found.items():
        if region.producer.name in failures:
            raise SpanError(f"slot {slot}: {failures[region.producer.name]}")
    return found


def _check_inside(trace: Trace, modules: Mapping[str, str], found: Mapping[str, Region]) -> None:
    for slot, region in found.items():
        for other, module in modules.items():
            inside = {value.number for value in trace.outputs.get(module, [])} & region.values
            layers = (step.call.name for step in region.steps if step.call.module is not None)
            if (inside or any(module.startswith(f"{layer}.") for layer in layers)) and other not in found:
                raise SpanError(
                    f"slot {other} on {module!r} sits inside the span of slot {slot}, whose channels become more; "
                    "take one of the two"
                )
        for other, overlapping in found.items():
            if other != slot and overlapping.values & region.values:
                raise SpanError(f"the spans of slots {slot} and {other} overlap; take one of the two")
