"""Record of one pass of a host: features at the slots, and the layers next to them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from esper_ray.kasmina.network.places.outputs import features_of, with_features

CHANNELS_SECOND = (
    *(_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm),
    *(_AvgPoolNd, _MaxPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)
CHANNELS_LAST = (nn.Linear, nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention)


@dataclass(slots=True)
class HostPass:
    """What one pass of a host showed."""

    output: Any = None
    outputs: list[tuple[str, Any]] = field(default_factory=list)
    """Slot and output of its submodule, for each call."""
    calls: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    """Slot, positional and named arguments of its submodule, for each call."""
    neighbours: dict[str, set[int]] = field(default_factory=dict)
    """By slot: dimensions that layers next to it read as channels."""
    error: Exception | None = None
    """Error that ended the pass."""

    @property
    def features(self) -> dict[str, Tensor]:
        """Features by slot, of the first call of its submodule."""
        found: dict[str, Tensor] = {}
        for slot, output in self.outputs:
            features = features_of(output)
            if features is not None:
                found.setdefault(slot, features)
        return found


def recorded(
    run: Callable[[Any], Any], inputs: Any, modules: Mapping[str, nn.Module], layers: Iterable[nn.Module] = ()
) -> HostPass:
    """Record of one pass. An error ends it and is recorded too.

    Args:
        run: runs the host on inputs, in evaluation mode and without gradient.
        modules: submodule of each slot.
        layers: layers that may be next to a slot.
    """
    recording = HostPass()
    originals: dict[str, Any] = {}
    handles = []

    def watch(slot: str) -> Any:
        def note(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            features = features_of(output)
            copied = output if features is None else _detached(output, features)
            recording.outputs.append((slot, copied))
            recording.calls.append((slot, args, kwargs))
            originals[slot] = features

        return note

    def note_consumer(layer: nn.Module, args: Any) -> None:
        for slot, features in originals.items():
            if any(value is features for value in args if isinstance(value, Tensor)):
                _note(recording, slot, channel_dimension(layer, features))

    inner = _LastLayers(modules)
    for slot, module in modules.items():
        handles.append(module.register_forward_hook(watch(slot), with_kwargs=True))
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(note_consumer))
        handles.append(layer.register_forward_hook(inner.note))
    try:
        recording.output = run(inputs)
    except Exception as error:  # a host can raise anything on values that it does not expect
        recording.error = error
    finally:
        for handle in handles:
            handle.remove()
    for slot, features in recording.features.items():
        if not recording.neighbours.get(slot):
            _note(recording, slot, inner.channel_dimension(slot, features))
    return recording


def layers_of(host: nn.Module) -> list[nn.Module]:
    """The submodules of ``host`` without children."""
    return [module for module in host.modules() if not any(True for _ in module.children())]


def channel_dimension(layer: nn.Module, features: Tensor) -> int | None:
    """Dimension of ``features`` that ``layer`` reads as channels; ``None`` if it does not show."""
    last = features.dim() - 1
    if last < 2:
        return last
    if isinstance(layer, CHANNELS_SECOND):
        return 1
    if isinstance(layer, CHANNELS_LAST):
        return last
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if weight.dim() == 1:  # a normalisation or a scale
        fitting = [dim for dim in (1, last) if features.shape[dim] == weight.shape[0]]
        return fitting[0] if len(fitting) == 1 else (last if type(layer) in (nn.LayerNorm, nn.RMSNorm) else None)
    return last if weight.dim() == 2 and features.shape[last] in weight.shape else None


class _LastLayers:
    """The last layer within each slot's submodule that yields features of a shape."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._slots: dict[nn.Module, list[str]] = {}
        for slot, module in modules.items():
            for part in module.modules():
                self._slots.setdefault(part, []).append(slot)
        self._yields: dict[str, list[tuple[nn.Module, Tensor]]] = {}

    def note(self, layer: nn.Module, _args: Any, output: Any) -> None:
        features = features_of(output)
        if features is not None:
            for slot in self._slots.get(layer, ()):
                self._yields.setdefault(slot, []).append((layer, features))

    def channel_dimension(self, slot: str, features: Tensor) -> int | None:
        for layer, output in reversed(self._yields.get(slot, [])):
            dimension = channel_dimension(layer, output) if output.shape == features.shape else None
            if dimension is not None:
                return dimension
        return None


def _note(recording: HostPass, slot: str, dimension: int | None) -> None:
    if dimension is not None:
        recording.neighbours.setdefault(slot, set()).add(dimension)


def _detached(output: Any, features: Tensor) -> Any:
    """``output`` with a copy of its ``features``, which the host may change in place later."""
    return with_features(output, features.detach().clone())
