"""Section ``growth``: slots, seeds, and the gates between their stages."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.config.base import (
    Duration,
    Fraction,
    Integer,
    Points,
    PositiveWeight,
    Section,
    Share,
    Switch,
    Weight,
    check_names,
)
from esper_ray.leyline.config.blueprint_names import (
    BlueprintName,
    checked_blueprints,
    placed_blueprints,
    split_blueprint,
)
from esper_ray.leyline.slots import ordered_slot_ids

StyleName = Annotated[str, Field(json_schema_extra={"enum": [style.id for style in GerminationStyle]})]
IncubationMethod = Literal["shadow", "straight_through"]
Initialisation = Literal["zero_scale", "zero_output", "gradmax"]
WideningStart = Literal["paired", "random", "gradmax", "tiny"]
SlotIds = Annotated[tuple[str, ...], Field(max_length=512)]
Limit = Annotated[Integer, Field(ge=0, le=10**12)]


class IncubationConfig(Section):
    """Incubation: training of a seed in TRAINING, which does not change the host's output."""

    method: IncubationMethod = Field(
        "shadow", description="loss of a second pass with the seed on (shadow), or the gradient of the host, bounded"
    )
    share: Share = Field(0.25, description="shadow: share of each batch in the second pass")
    weight: Weight = Field(10.0, description="straight-through: weight of the penalty on the excess ratio")
    bound: PositiveWeight = Field(
        0.25, description="straight-through: free RMS of the change over that of the features"
    )


class InitialisationConfig(Section):
    """Inner weights of newborn seeds, by germination style. The output never changes at birth."""

    linear_add: Initialisation = Field(
        "zero_scale",
        description="zero_scale: random behind a scale of zero; zero_output: the last layer starts at zero instead, if "
        "no norm follows it; gradmax: zero_scale with the largest gradient at birth",
    )
    linear_multiply: Initialisation = Field("zero_scale", description="as for linear_add")
    sigmoid_add: Initialisation = Field("zero_scale", description="as for linear_add")
    gated_gate: Initialisation = Field("zero_scale", description="as for linear_add")
    widen: WideningStart = Field(
        "paired",
        description="new channels of a span; paired: random ones in pairs that cancel; random: as the host's layers, "
        "behind weights of zero; gradmax: with the largest gradient of these weights; tiny: with the largest whitened "
        "gain beyond what the host explains",
    )


class GrowthConfig(Section):
    """Slots, seeds and the gates between their stages."""

    slots: SlotIds = Field(("r0c0", "r0c1", "r0c2"), description="slots in which seeds may grow")
    max_seeds: Integer = Field(0, ge=0, le=512, description="most seeds at a time, fossils included; 0: no limit")
    blueprints: tuple[BlueprintName, ...] = Field(
        ("norm", "conv_light", "depthwise", "bottleneck"),
        description="blueprints that the policy may choose; conv_light=MINE puts an own one in the place of a built-in",
    )
    styles: tuple[StyleName, ...] = Field(
        ("linear_add", "sigmoid_add"), description="germination styles that the policy may choose"
    )
    gates: Literal["permissive", "strict"] = Field(
        "permissive", description="permissive: G2 requires healthy gradients; strict: a measured improvement"
    )
    auto_forward: tuple[Literal["g1", "g2", "g3"], ...] = Field(
        (), max_length=3, description="gates that are tried at every step without an operation"
    )
    min_training_epochs: Duration = Field(10, description="G2: least number of epochs in TRAINING")
    min_blending_epochs: Duration = Field(10, description="strict G3: least number of epochs in BLENDING")
    min_training_improvement_pp: Points = Field(
        0.5, description="strict G2: least gain of accuracy since TRAINING began"
    )
    min_gradient_ratio: Weight = Field(
        0.1, description="strict G2: least gradient RMS of the seed over that of the host"
    )
    min_gradient_health: Fraction = Field(0.7, description="permissive G2: least gradient health")
    min_contribution_pp: Points = Field(1.0, description="strict G5: least contribution")
    embargo_ticks: Duration = Field(5, description="steps between removal and resetting")
    freeze_fossils: Switch = Field(False, description="stop training a seed when it is committed")
    target_parameters: Limit = Field(
        0, description="parameters of host and seeds from which on no seed is born; 0: no target"
    )
    unfinished_births: Literal["allow", "refuse"] = Field(
        "refuse",
        description="births with fewer epochs left than a seed needs until an action can commit it; episodes that are "
        "too short for any seed allow them",
    )
    widening_births: Literal["live", "hidden"] = Field(
        "live",
        description="seeds of spans; live: at full amplitude from their first step, where they change nothing yet; "
        "hidden: they train behind the host first and blend in, as others do",
    )
    incubation: IncubationConfig = IncubationConfig()
    initialisation: InitialisationConfig = InitialisationConfig()

    @field_validator("slots")
    @classmethod
    def _ordered(cls, slots: tuple[str, ...]) -> tuple[str, ...]:
        return ordered_slot_ids(slots)

    @field_validator("auto_forward")
    @classmethod
    def _distinct_gates(cls, gates: tuple[str, ...]) -> tuple[str, ...]:
        return check_names("gate", gates, ("g1", "g2", "g3")) if gates else gates

    @field_validator("blueprints", mode="before")
    @classmethod
    def _listed_blueprints(cls, names: Any) -> Any:
        if isinstance(names, Mapping):
            return tuple(placed_blueprints((), names))
        return tuple(names) if isinstance(names, list) else names

    @field_validator("blueprints")
    @classmethod
    def _known_blueprints(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return checked_blueprints(names)

    @field_validator("styles")
    @classmethod
    def _known_styles(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names("style", names, [style.id for style in GerminationStyle])

    @property
    def allowed_blueprints(self) -> frozenset[Blueprint]:
        """Indices of the blueprints that the policy may choose."""
        return frozenset(split_blueprint(name)[0] for name in self.blueprints)

    @property
    def own_blueprints(self) -> dict[Blueprint, str]:
        """Own blueprints by the built-in ones whose place they take."""
        pairs = map(split_blueprint, self.blueprints)
        return {built_in: own for built_in, own in pairs if own is not None}
