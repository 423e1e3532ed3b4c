"""Section ``host``: the initial network of every episode, one model per family."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from esper_ray.leyline.config.base import Integer, Number, PartOptions, Section, StrictChoice
from esper_ray.leyline.plugins.entry_points import PART_PATTERN, checked_part
from esper_ray.leyline.slots import ordered_slot_ids

Dropout = Annotated[Number, Field(ge=0, lt=1)]
KernelSize = Annotated[Literal[1, 3, 5, 7], StrictChoice]


class CNNHostConfig(Section):
    """Convolutional network for images."""

    family: Literal["cnn"] = Field("cnn", description="selects this section")
    base_channels: Integer = Field(2, ge=1, le=4096, description="channels of the first block; each block doubles them")
    blocks: Integer = Field(3, ge=2, le=16, description="convolution blocks")
    pools: Integer = Field(2, ge=0, le=16, description="blocks followed by a 2x2 max-pool, from the first")
    kernel_size: KernelSize = Field(1, description="edge of the convolution kernels, in pixels")
    memory_format: Literal["contiguous", "channels_last"] = Field(
        "contiguous", description="memory layout of the features"
    )

    @model_validator(mode="after")
    def _pools_fit(self) -> Self:
        if self.pools > self.blocks:
            raise ValueError(f"pools ({self.pools}) must not exceed blocks ({self.blocks})")
        return self

    def available_slots(self) -> tuple[str, ...]:
        """Slots that this host offers: row 0 after each block, row 1 after each pool."""
        return tuple(f"r0c{i}" for i in range(self.blocks)) + tuple(f"r1c{i}" for i in range(self.pools))

    def available_spans(self) -> tuple[str, ...]:
        """Slots on spans: row 2, from each block to the next or to the head."""
        return tuple(f"r2c{i}" for i in range(self.blocks))


class TransformerHostConfig(Section):
    """Decoder for token sequences like GPT-2. The task defines the vocabulary."""

    family: Literal["transformer"] = Field("transformer", description="selects this section")
    embedding: Integer = Field(384, ge=1, le=16_384, description="width of the residual stream")
    heads: Integer = Field(6, ge=1, le=256, description="attention heads; they divide the embedding")
    layers: Integer = Field(6, ge=1, le=256, description="blocks of attention and MLP")
    context: Integer = Field(256, ge=1, le=65_536, description="longest sequence, in tokens")
    dropout: Dropout = Field(0.1, description="dropout of embeddings, attention weights and residual branches")
    segments: Integer = Field(
        3, ge=1, le=256, description="equal runs of layers, each with a slot at its end; they divide the layers"
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.embedding % self.heads:
            raise ValueError(f"embedding ({self.embedding}) must be divisible by heads ({self.heads})")
        if self.layers % self.segments:
            raise ValueError(f"layers ({self.layers}) must be divisible by segments ({self.segments})")
        return self

    def available_slots(self) -> tuple[str, ...]:
        """Slots that this host offers: row 0 after each segment."""
        return tuple(f"r0c{i}" for i in range(self.segments))

    def available_spans(self) -> tuple[str, ...]:
        """Slots on spans: row 2, inside the MLP of each layer."""
        return tuple(f"r2c{i}" for i in range(self.layers))


class MLPHostConfig(Section):
    """Residual multi-layer perceptron for inputs of any shape, which it flattens."""

    family: Literal["mlp"] = Field("mlp", description="selects this section")
    width: Integer = Field(16, ge=1, le=65_536, description="features of the residual stream")
    blocks: Integer = Field(3, ge=1, le=256, description="residual blocks")
    expansion: Integer = Field(
        2, ge=1, le=64, description="hidden units of a block for each feature of the residual stream"
    )
    dropout: Dropout = Field(0.0, description="dropout of residual branches")

    def available_slots(self) -> tuple[str, ...]:
        """Slots that this host offers: row 0 after each residual block."""
        return tuple(f"r0c{i}" for i in range(self.blocks))

    def available_spans(self) -> tuple[str, ...]:
        """Slots on spans: row 2, inside each residual block."""
        return tuple(f"r2c{i}" for i in range(self.blocks))


PartName = Annotated[str, AfterValidator(checked_part), Field(json_schema_extra={"pattern": f"^({PART_PATTERN})$"})]
"""Name of an entry point, or a place ``module:attribute``."""


class OwnHostConfig(Section):
    """Host of another package, for any task."""

    family: Literal["own"] = Field("own", description="selects this section")
    build: PartName = Field(
        description="builder: an entry point of the group esper_ray.hosts, or a place MODULE:FUNCTION"
    )
    options: PartOptions = Field({}, description="options of the builder, which checks them")
    slots: dict[str, str] = Field(
        {}, description="slot to the name of a submodule; empty: those that the builder names, else found ones"
    )

    @field_validator("slots")
    @classmethod
    def _slot_ids(cls, slots: dict[str, str]) -> dict[str, str]:
        return {slot: slots[slot] for slot in ordered_slot_ids(slots)} if slots else slots

    def available_slots(self) -> tuple[str, ...] | None:
        """The slots that are named here; ``None``: only the builder knows them."""
        return tuple(self.slots) or None

    def available_spans(self) -> tuple[str, ...]:
        """None: slots on spans are named like the others."""
        return ()


AnyHostConfig = CNNHostConfig | TransformerHostConfig | MLPHostConfig | OwnHostConfig
BuiltInHostConfig = CNNHostConfig | TransformerHostConfig | MLPHostConfig

HOST_FAMILIES: tuple[str, ...] = tuple(model.model_fields["family"].default for model in get_args(AnyHostConfig))


def _default_to_cnn(value: Any) -> Any:
    return {"family": "cnn", **value} if isinstance(value, dict) else value


HostConfig = Annotated[AnyHostConfig, Field(discriminator="family"), BeforeValidator(_default_to_cnn)]
"""Section of the family in the key ``family``; a mapping without that key is a CNN."""


def host_name(host: AnyHostConfig) -> str:
    """Family of a built-in host; builder of an own one."""
    return host.build if isinstance(host, OwnHostConfig) else host.family
