"""Registry of seed blueprints: a body with one zero-initialised output scale per channel.

``d = scale * body(h)``: the change is exactly zero at birth, the scale gets gradient in the first
step and everything before it in the second. Or the scale is one and the body's last layer zero, see
:meth:`~esper_ray.kasmina.blueprints.delta.Delta.start_at_output`. Nothing before a normalisation is ever zeroed.

The thirteen built-in names are fixed, because they are action indices of policies. Own bodies join
the registry under other names, by a call or from an installed package that offers them by an entry point of
the group ``esper_ray.blueprints``. They are grown by hand, or by a policy in the place of a built-in one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from esper_ray.kasmina.blueprints import features, images, sequences
from esper_ray.kasmina.blueprints.delta import Delta, Noop
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.plugins.entry_points import BLUEPRINT_PLUGINS, PluginError, is_place


@dataclass(frozen=True, slots=True)
class SlotShape:
    """Shape of the features at a slot; seeds accept any spatial size or length."""

    topology: Topology
    channels: int
    """C of images, D of sequences and features."""
    causal: bool = True
    """Whether a token may see earlier tokens only (sequences)."""


BodyBuilder = Callable[[SlotShape], nn.Module]
"""Builder of a body: a module from features to features of the same shape."""

_REGISTRY: dict[tuple[Topology, str], BodyBuilder] = {}


_BUILT_IN = frozenset(blueprint.id for blueprint in Blueprint)


def is_built_in(name: str) -> bool:
    """Whether ``name`` is one of the thirteen built-in blueprints."""
    return name in _BUILT_IN


def register_blueprint(name: str, topology: Topology, build: BodyBuilder) -> None:
    """Make ``build`` available under ``name`` for slots of ``topology``.

    The body need not be the identity at birth; the output scale takes care of that.

    Raises:
        ValueError: if the name is taken for that topology, or is one of the built-in names.
    """
    if is_built_in(name):
        raise ValueError(f"blueprint name {name!r} is built in; policies rely on its meaning")
    if (topology, name) in _REGISTRY:
        raise ValueError(f"blueprint {name!r} is already registered for {topology.value}")
    _REGISTRY[topology, name] = build


def unregister_blueprint(name: str, topology: Topology) -> None:
    """Remove a registered blueprint; an unknown name has no effect.

    Raises:
        ValueError: if it is a built-in one.
    """
    if is_built_in(name):
        raise ValueError(f"blueprint {name!r} is built in and cannot be removed")
    _REGISTRY.pop((topology, name), None)


def blueprint_names(topology: Topology) -> list[str]:
    """Blueprint names for slots of ``topology``, built-in ones in order of action index."""
    return [name for owner, name in _REGISTRY if owner is topology]


def build_seed(name: str, shape: SlotShape) -> nn.Module:
    """A newborn seed for a slot, its weights drawn from torch's global generator.

    Args:
        name: registered, or that of an installed package, or a place ``module:attribute``.

    Raises:
        ValueError: if there is no such blueprint for the slot's topology.
        PluginError: if the package that offers it cannot be imported, or its builder fails.
    """
    build = _REGISTRY.get((shape.topology, name))
    topologies = [topology.value for topology, registered_name in _REGISTRY if registered_name == name]
    if build is None and not topologies and (is_place(name) or name in BLUEPRINT_PLUGINS.offered(_BUILT_IN)):
        build = _installed(name)
    if build is None:
        if topologies:
            choices = ", ".join(blueprint_names(shape.topology))
            raise ValueError(
                f"blueprint {name!r} is built for {' and '.join(topologies)}, not for {shape.topology.value}; "
                f"choices for {shape.topology.value}: {choices}"
            )
        known = [*blueprint_names(shape.topology), *BLUEPRINT_PLUGINS.offered(_BUILT_IN)]
        raise ValueError(unknown_name_message("blueprint", name, known))
    body = build(shape)
    return body if isinstance(body, Noop) else Delta(body, shape.channels, images=shape.topology is Topology.IMAGES)


@lru_cache(maxsize=64)
def _installed(name: str) -> BodyBuilder:
    """Builder of an installed package."""
    plugin = BLUEPRINT_PLUGINS.find(name, _BUILT_IN)

    def build(shape: SlotShape) -> nn.Module:
        try:
            body: object = plugin.part(shape)
        except ValueError as error:
            raise ValueError(f"{plugin.origin}: {error}") from error
        except Exception as error:  # the builder of another package can raise anything
            raise PluginError(f"{plugin.origin}: its builder failed with {type(error).__name__}: {error}") from error
        if not isinstance(body, nn.Module):
            raise PluginError(f"{plugin.origin}: its builder must return a module, got {type(body).__name__}")
        return body

    return build


_BODIES: dict[Topology, dict[Blueprint, BodyBuilder]] = {
    Topology.IMAGES: {
        Blueprint.NOOP: lambda slot: Noop(),
        Blueprint.CONV_LIGHT: lambda slot: images.conv_light(slot.channels),
        Blueprint.ATTENTION: lambda slot: images.ChannelAttention(slot.channels),
        Blueprint.NORM: lambda slot: images.NormChange(slot.channels),
        Blueprint.DEPTHWISE: lambda slot: images.depthwise(slot.channels),
        Blueprint.BOTTLENECK: lambda slot: images.bottleneck(slot.channels),
        Blueprint.CONV_SMALL: lambda slot: images.conv_small(slot.channels),
        Blueprint.CONV_HEAVY: lambda slot: images.conv_heavy(slot.channels),
    },
    Topology.SEQUENCES: {
        Blueprint.NOOP: lambda slot: Noop(),
        Blueprint.ATTENTION: lambda slot: sequences.SelfAttention(slot.channels, causal=slot.causal),
        Blueprint.NORM: lambda slot: features.FeatureNormChange(slot.channels),
        Blueprint.LORA: lambda slot: features.lora(slot.channels),
        Blueprint.LORA_LARGE: lambda slot: features.lora_large(slot.channels),
        Blueprint.MLP_SMALL: lambda slot: features.mlp_small(slot.channels),
        Blueprint.MLP: lambda slot: features.mlp(slot.channels),
        Blueprint.FLEX_ATTENTION: lambda slot: sequences.WindowAttention(slot.channels, causal=slot.causal),
    },
    Topology.FEATURES: {
        Blueprint.NOOP: lambda slot: Noop(),
        Blueprint.ATTENTION: lambda slot: features.FeatureAttention(slot.channels),
        Blueprint.NORM: lambda slot: features.FeatureNormChange(slot.channels),
        Blueprint.LORA: lambda slot: features.lora(slot.channels),
        Blueprint.LORA_LARGE: lambda slot: features.lora_large(slot.channels),
        Blueprint.MLP_SMALL: lambda slot: features.mlp_small(slot.channels),
        Blueprint.MLP: lambda slot: features.mlp(slot.channels),
    },
}
for _topology, _bodies in _BODIES.items():
    for _blueprint, _build in _bodies.items():
        _REGISTRY[_topology, _blueprint.id] = _build
