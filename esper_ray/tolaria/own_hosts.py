"""Hosts of other packages: a builder gives a module, and its slots are named or found."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.hosts import HostSpec
from esper_ray.kasmina.modules import preserved_randomness, seeded_initialisation
from esper_ray.kasmina.network.attachment import call, evaluation_mode
from esper_ray.kasmina.network.discovery import find_slots
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.host import OwnHostConfig
from esper_ray.leyline.errors import UserError, shortened
from esper_ray.leyline.plugins.entry_points import HOST_PLUGINS, Plugin, PluginError
from esper_ray.leyline.plugins.options import with_options
from esper_ray.tolaria.data import Dataset


def build_own_host(config: OwnHostConfig, data: Dataset[Any], most_slots: int) -> HostSpec:
    """The host of ``config`` for ``data``, its weights drawn from torch's global generator.

    Slots are those of the configuration, else those that the builder names, else found ones.

    Args:
        most_slots: greatest number of slots that are found.

    Raises:
        PluginError: if there is no such builder, it fails, it returns no module with parameters, or no place carries a
            slot.
        ConfigError: if its options are not valid.
    """
    plugin = HOST_PLUGINS.find(config.build)
    builder = with_options(plugin, config.options, "host.options")
    try:
        built: object = builder(data.example_shape, data.classes)
    except UserError:
        raise
    except ValueError as error:
        raise PluginError(f"{plugin.origin}: {error}") from error
    except Exception as error:  # the builder of another package can raise anything
        raise PluginError(f"{plugin.origin}: its builder failed with {type(error).__name__}: {error}") from error
    spec = built if isinstance(built, HostSpec) else None
    module = built if spec is None else spec.module
    if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
        kinds = "a module with parameters, or a HostSpec with one"
        raise PluginError(f"{plugin.origin}: its builder must return {kinds}; got {shortened(built)}")
    slots: Mapping[str, str] = config.slots or ({} if spec is None else spec.places)
    if not slots:
        slots = _found(plugin, module, data, most_slots)
    return HostSpec(module, slots, causal=True if spec is None else spec.causal)


def _found(plugin: Plugin, module: nn.Module, data: Dataset[Any], most: int) -> Mapping[str, str]:
    with preserved_randomness(torch.device("cpu")):
        try:
            return find_slots(module, _example(data), tuple(Topology), most)
        except (ValueError, RuntimeError) as error:
            raise PluginError(f"{plugin.origin}: no slot was found: {error}; name them in host.slots") from error


def check_own_host(config: OwnHostConfig, data: Dataset[Any], most_slots: int) -> None:
    """Check that builds from one seed are equal, and that the host yields logits.

    Raises:
        PluginError: if two builds differ, or the output for a batch of two is not (2, classes) or (2, T, classes).
        ConfigError: if its options are not valid.
    """
    origin = HOST_PLUGINS.find(config.build).origin
    hosts = []
    for _ in range(2):
        with seeded_initialisation(0):
            hosts.append(build_own_host(config, data, most_slots))
    first, second = (host.module.state_dict() for host in hosts)
    for name, tensor in first.items():
        if isinstance(tensor, Tensor) and (name not in second or not torch.equal(tensor, second[name])):
            raise PluginError(
                f"{origin}: {name} differs between two builds from one seed; draw weights from torch's global "
                "generator alone"
            )
    _check_logits(origin, hosts[0].module.cpu(), data)


def _check_logits(origin: str, module: nn.Module, data: Dataset[Any]) -> None:
    try:
        with torch.no_grad(), evaluation_mode(module), preserved_randomness(torch.device("cpu")):
            output: object = call(module, _example(data))
    except Exception as error:  # the module of another package can raise anything
        size = "x".join(map(str, data.example_shape))
        raise PluginError(
            f"{origin}: it cannot work on examples of shape {size}: {type(error).__name__}: {error}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if len(shape) not in (2, 3) or (shape[0], shape[-1]) != (2, data.classes):
        got = shape or type(output).__name__
        raise PluginError(
            f"{origin}: for two examples it must yield logits (2, {data.classes}) or (2, T, {data.classes}), got {got}"
        )


def _example(data: Dataset[Any]) -> Any:
    return data.prepared(data.train, 0, 2)[0]
