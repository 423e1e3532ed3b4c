"""Regions of a trace: what lies between a producer and the layer that consumes its channels."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm, prod

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from esper_ray.kasmina.network.spans.checkpointing import crossing_problem
from esper_ray.kasmina.network.spans.resizing import is_per_channel
from esper_ray.kasmina.network.spans.steps import ChannelAxis, NoStepError, SpanStep, inspects, step_of
from esper_ray.kasmina.network.spans.tracing import Call, Trace, Value
from esper_ray.leyline.errors import UserError

ARROW = " -> "
NEITHER = "is neither a convolution nor a linear layer of torch"


class SpanError(UserError, ValueError):
    """Two layers between which no span can be widened. The message is the reason."""

    remedy = "Take one of the spans that `esper_ray.kasmina.find_spans` lists, or change the model."


@dataclass(frozen=True, slots=True)
class Region:
    """A producer, the steps after it, and the consumer of its channels."""

    producer: Call
    consumer: Call
    steps: tuple[SpanStep, ...]
    axis: ChannelAxis
    """Channels of what the consumer reads."""

    @property
    def hidden(self) -> Value:
        """Output of the producer."""
        assert self.producer.output is not None
        return self.producer.output

    @property
    def channels(self) -> int:
        """Number of channels of the producer."""
        assert self.producer.module is not None
        return width_of(self.producer.module)

    @property
    def blocks(self) -> int:
        """Number of equal blocks of channels.

        Groups of producer and consumer do not divide them further.
        """
        return lcm(*(groups_of(call.module) for call in (self.producer, self.consumer)))

    @property
    def values(self) -> set[int]:
        """Numbers of the values that carry the channels."""
        return {self.hidden.number, *(step.output.number for step in self.steps)}


def as_layer(module: nn.Module | None) -> nn.Linear | _ConvNd | None:
    """``module`` if it is a linear layer or a convolution that computes what torch's does."""
    if not isinstance(module, nn.Linear | _ConvNd) or isinstance(module, _ConvTransposeNd):
        return None
    kind = next(kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, kind))
    same = all(
        getattr(type(module), method, None) is getattr(kind, method, None) for method in ("forward", "_conv_forward")
    )
    own = "forward" in vars(module) or hasattr(module, "parametrizations") or "weight" not in module._parameters
    return module if same and not own else None


def width_of(layer: nn.Module) -> int:
    """Number of channels that a linear layer or convolution yields."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]


def groups_of(layer: nn.Module | None) -> int:
    """Groups of a convolution; 1 for a linear layer."""
    return layer.groups if isinstance(layer, _ConvNd) else 1


def regions(trace: Trace, host: nn.Module) -> Iterator[Region | SpanError]:
    """For each linear layer and convolution in their order: the region behind it, or the reason why there is none."""
    for call in trace.calls:
        if as_layer(call.module) is not None:
            try:
                yield region_behind(call, trace, host)
            except SpanError as error:
                yield error


def region_behind(producer: Call, trace: Trace, host: nn.Module) -> Region:
    """The region behind the layer ``producer``.

    Raises:
        SpanError: if its channels do not end in one consumer, or something between may mix them.
    """
    kind = type(producer.module).__name__
    name = producer.name or kind
    layer, hidden = as_layer(producer.module), producer.output
    if layer is None or hidden is None:
        raise SpanError(f"{name} ({kind}) {NEITHER}")
    axes = {hidden.number: ChannelAxis(len(hidden.shape) - 1 if isinstance(layer, nn.Linear) else 1)}
    if axes[hidden.number].dim == 0 or len(hidden.shape) != _dimensions(layer, hidden):
        raise SpanError(f"{name} yields {hidden.shape}, where no dimension counts the examples")
    steps, consumers = list[SpanStep](), list[Call]()
    later = next(index for index, call in enumerate(trace.calls, 1) if call is producer)
    for call in trace.calls[later:]:
        read = [value.number for value in call.reads if value.number in axes]
        if not read or inspects(call):
            continue
        if consumers:
            raise SpanError(f"the channels of {name} are read by {consumers[0].name} and by {call.name} too")
        if call.module is not None and as_layer(call.module) is not None and not _is_depthwise(call, axes):
            consumers.append(call)
            continue
        try:
            step = step_of(call, axes, width_of(layer))
        except NoStepError as error:
            raise SpanError(f"behind {name}, {error}") from error
        axes[step.output.number] = step.axis
        steps.append(step)
    _check_end(name, trace, axes, steps, consumers)
    region = Region(producer, consumers[0], tuple(steps), axes[consumers[0].reads[0].number])
    _check_consumer(region)
    _check_owned(region, trace, host)
    problem = crossing_problem(producer.segments, region.consumer.segments)
    if problem is not None:
        raise SpanError(f"between {name} and {region.consumer.name}, {problem}")
    return region


def _dimensions(layer: nn.Linear | _ConvNd, hidden: Value) -> int:
    """Number of dimensions of a batch of what ``layer`` yields."""
    return max(2, len(hidden.shape)) if isinstance(layer, nn.Linear) else layer.weight.dim()


def _is_depthwise(call: Call, axes: dict[int, ChannelAxis]) -> bool:
    module = call.module
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels == module.out_channels


def _check_end(
    name: str, trace: Trace, axes: dict[int, ChannelAxis], steps: list[SpanStep], consumers: list[Call]
) -> None:
    if any(value.number in axes for value in trace.output):
        raise SpanError(f"the channels of {name} are output of the model")
    if not consumers:
        raise SpanError(f"the channels of {name} reach no convolution or linear layer")
    (sink,) = consumers[0].reads if len(consumers[0].reads) == 1 else (None,)
    if sink is None:
        raise SpanError(f"{consumers[0].name} reads several values")
    if steps and sink.number != steps[-1].output.number:
        raise SpanError(f"between {name} and {consumers[0].name}, {steps[-1].call.name} leads elsewhere")


def _check_consumer(region: Region) -> None:
    consumer, axis = region.consumer, region.axis
    layer, (value,) = as_layer(consumer.module), consumer.reads
    assert layer is not None
    name = f"{consumer.name} ({type(layer).__name__})"
    dimension = len(value.shape) - 1 if isinstance(layer, nn.Linear) else 1
    if dimension != axis.dim or consumer.output is None:
        raise SpanError(f"{name} reads another dimension as channels than {region.producer.name} yields")
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    if width != region.channels * axis.repeat:
        raise SpanError(f"{name} reads {width} channels, not {region.channels * axis.repeat}")
    if groups_of(layer) == layer_inputs(layer) > 1:
        raise SpanError(f"{name} works on each channel by itself, so that its output would be wider too")
    if region.channels % region.blocks:
        raise SpanError(
            f"groups of {region.producer.name} and {consumer.name} divide {region.channels} channels into "
            f"{region.blocks} unequal blocks"
        )


def layer_inputs(layer: nn.Module) -> int:
    """Number of channels that a linear layer or convolution reads."""
    return layer.in_features if isinstance(layer, nn.Linear) else int(layer.in_channels)  # type: ignore[arg-type]


def _check_owned(region: Region, trace: Trace, host: nn.Module) -> None:
    """Check that the layers that change are called once, train, and share nothing."""
    changed = [region.producer, region.consumer]
    changed += [step.call for step in region.steps if step.call.module is not None and is_per_channel(step.call.module)]
    owners = Counter(id(tensor) for _, tensor in _tensors(host))
    for call in changed:
        assert call.module is not None
        if len(trace.calls_of(call.name)) > 1:
            raise SpanError(f"{call.name} is called {len(trace.calls_of(call.name))} times in a forward pass")
        for name, parameter in call.module.named_parameters(recurse=False):
            if owners[id(parameter)] > 1:
                raise SpanError(f"{call.name}.{name} is shared with another layer")
            if not parameter.requires_grad:
                raise SpanError(f"{call.name}.{name} is frozen (requires_grad=False)")
            if not parameter.is_floating_point():
                raise SpanError(f"{call.name}.{name} has type {parameter.dtype}")


def _tensors(host: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in host.named_modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                yield f"{prefix}.{name}", tensor


def parameters_per_channel(region: Region) -> int:
    """Parameters of one new channel, in producer, steps and consumer."""
    producer, consumer = as_layer(region.producer.module), as_layer(region.consumer.module)
    assert producer is not None
    assert consumer is not None
    count = prod(producer.weight.shape[1:]) + (producer.bias is not None)
    for step in region.steps:
        module = step.call.module
        if module is not None:
            count += sum(parameter.numel() for parameter in module.parameters()) // region.channels
    return count + consumer.weight.numel() // region.channels


def flops_per_channel(region: Region) -> int:
    """Floating-point operations of one new channel in a forward pass of one example.

    A multiply-add counts as two. They are those of producer, depthwise convolutions between, and consumer.
    """
    total = 0
    for call in (region.producer, *(step.call for step in region.steps), region.consumer):
        layer = call.module
        if isinstance(layer, nn.Linear | _ConvNd):
            assert call.output is not None
            dimension = len(call.output.shape) - 1 if isinstance(layer, nn.Linear) else 1
            positions = prod(call.output.shape[1:]) // call.output.shape[dimension]
            total += 2 * positions * (layer.weight.numel() // region.channels)
    return total


def described(call: Call) -> str:
    """Name of a step with the class of its layer."""
    return f"{call.name} ({type(call.module).__name__})" if call.module is not None else call.name.rpartition(".")[2]
