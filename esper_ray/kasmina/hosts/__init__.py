"""Built-in hosts. Slots attach to them from outside, as to any module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from types import MappingProxyType

from torch import nn

from esper_ray.kasmina.hosts.cnn import CNNHost
from esper_ray.kasmina.hosts.mlp import MLPHost
from esper_ray.kasmina.hosts.transformer import TransformerHost
from esper_ray.leyline.config.host import BuiltInHostConfig, CNNHostConfig, MLPHostConfig, TransformerHostConfig

CNN_VARIANTS: Mapping[str, CNNHostConfig] = MappingProxyType(
    {
        "cifar_baseline": CNNHostConfig(base_channels=8, blocks=3, pools=3, kernel_size=3),
        "cifar_multichannel": CNNHostConfig(base_channels=8, blocks=3, pools=3, kernel_size=3),
        "cifar_scale": CNNHostConfig(base_channels=8, blocks=5, pools=5, kernel_size=3),
        "cifar_deep_multichannel": CNNHostConfig(base_channels=8, blocks=5, pools=5, kernel_size=3),
        "cifar_impaired": CNNHostConfig(base_channels=1, blocks=3, pools=3, kernel_size=1),
        "cifar_minimal": CNNHostConfig(base_channels=2, blocks=3, pools=0, kernel_size=1),
        "cifar_postpool": CNNHostConfig(base_channels=16, blocks=3, pools=3, kernel_size=3),
        "cifar_highres": CNNHostConfig(base_channels=16, blocks=3, pools=3, kernel_size=3),
        "cifar_deep_impaired": CNNHostConfig(base_channels=2, blocks=5, pools=5, kernel_size=1),
    }
)
"""Hosts of the CIFAR tasks."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A host module with the places of its slots."""

    module: nn.Module
    slot_modules: Mapping[str, str]
    """Slot id to the name of the submodule that carries it, or to a span: ``producer -> consumer``."""
    causal: bool = True
    """Whether tokens of sequences may see earlier tokens only."""
    spans: Mapping[str, str] = field(default_factory=dict)
    """More slots, on spans that seeds can widen: slot id to ``producer -> consumer``."""

    @property
    def places(self) -> dict[str, str]:
        """Places of all slots."""
        return {**self.slot_modules, **self.spans}


def build_host(config: BuiltInHostConfig, input_shape: tuple[int, ...], classes: int) -> HostSpec:
    """The host of ``config``, with a submodule for each of its ``available_slots()``.

    Initial weights come from torch's global generator; wrap the call in ``seeded_initialisation``.

    Args:
        input_shape: of one example: (C, H, W) for a CNN, (T,) tokens for a transformer, any for an MLP.
        classes: size of the output; the vocabulary of a transformer.

    Raises:
        ValueError: if the family cannot work on such input.
    """
    match config:
        case CNNHostConfig():
            if len(input_shape) != 3:
                raise ValueError(f"a cnn host needs images (C, H, W), got examples of shape {input_shape}")
            smallest = min(input_shape[1:]) >> config.pools
            if smallest < 1:
                raise ValueError(f"{config.pools} pools leave nothing of {input_shape[1]}x{input_shape[2]} images")
            places = {f"r0c{i}": f"blocks.{i}" for i in range(config.blocks)}
            places |= {f"r1c{i}": f"pools.{i}" for i in range(config.pools)}
            layers = [*(f"blocks.{i}.0" for i in range(config.blocks)), "head"]
            spans = {f"r2c{i}": f"{a} -> {b}" for i, (a, b) in enumerate(pairwise(layers))}
            return HostSpec(CNNHost(config, input_shape[0], classes), places, spans=spans)
        case TransformerHostConfig():
            if len(input_shape) != 1:
                raise ValueError(f"a transformer host needs token sequences (T,), got examples of shape {input_shape}")
            if input_shape[0] > config.context:
                raise ValueError(f"sequences of {input_shape[0]} tokens exceed the host's context of {config.context}")
            span = config.layers // config.segments
            places = {f"r0c{i}": f"blocks.{(i + 1) * span - 1}" for i in range(config.segments)}
            spans = {f"r2c{i}": f"blocks.{i}.mlp.0 -> blocks.{i}.mlp.2" for i in range(config.layers)}
            return HostSpec(TransformerHost(config, classes), places, spans=spans)
        case MLPHostConfig():
            places = {f"r0c{i}": f"blocks.{i}" for i in range(config.blocks)}
            spans = {f"r2c{i}": f"blocks.{i}.branch.1 -> blocks.{i}.branch.3" for i in range(config.blocks)}
            return HostSpec(MLPHost(config, prod(input_shape), classes), places, spans=spans)
