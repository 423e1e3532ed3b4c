"""Section ``reward``: mode, weights, costs, bonuses and penalties."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from esper_ray.leyline.config.base import (
    Duration,
    Fraction,
    Integer,
    Number,
    PartOptions,
    Penalty,
    Period,
    PositiveWeight,
    Section,
    Switch,
    Weight,
    check_names,
)
from esper_ray.leyline.errors import shortened
from esper_ray.leyline.plugins.entry_points import PART_PATTERN, REWARD_PLUGINS, checked_part, is_place

BuiltInMode = Literal["shaped", "simplified", "basic", "basic_plus", "sparse", "minimal", "escrow", "settlement"]
"""Names of the built-in reward modes; ``esper_ray.simic.live.engine`` has the function of each."""
REWARD_MODES: tuple[str, ...] = get_args(BuiltInMode)
RECORDED = {"recorded": True}
"""Context of the validation of a configuration that a run has recorded: its packages may be missing here."""


def checked_mode(mode: str, *, recorded: bool = False) -> str:
    """A built-in reward mode, the name of an installed reward, or the place of one.

    Args:
        recorded: whether any possible name is valid.

    Raises:
        ValueError: if there is none of this name, with the nearest.
    """
    if mode in REWARD_MODES or ((recorded or is_place(mode)) and checked_part(mode)):
        return mode
    installed = sorted(REWARD_PLUGINS.offered(REWARD_MODES))
    return check_names("reward mode", (mode,), (*REWARD_MODES, *installed))[0]


RewardMode = Annotated[
    str,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(REWARD_MODES)},
                {
                    "type": "string",
                    "pattern": f"^({PART_PATTERN})$",
                    "description": "an entry point of the group esper_ray.rewards, or a place MODULE:FUNCTION",
                },
            ]
        }
    ),
]
RewardFamily = Literal["contribution", "loss"]
SignedPoints = Annotated[Number, Field(ge=-1000, le=1000)]
Nats = Annotated[Number, Field(ge=-1e6, le=1e6)]


class LossRewardConfig(Section):
    """Weights of the family `loss`, which rewards lower validation loss."""

    loss_delta_weight: Weight = Field(5.0, description="reward for one typical change of the loss")
    typical_loss_delta_std: PositiveWeight = Field(0.1, description="nats that count as one typical change")
    max_loss_delta: PositiveWeight = Field(5.0, description="largest number of typical changes that counts in one step")
    regression_penalty_scale: Weight = Field(0.5, description="weight of a rise of the loss relative to a fall")
    compute_rent_weight: Weight = Field(0.05, description="rent per e-fold of growth and step")
    max_rent_penalty: Weight = Field(5.0, description="largest rent per step")
    grace_epochs: Duration = Field(3, description="age below which a seed is free of rent")
    stage_potential_weight: Weight = Field(0.1, description="weight of the stage potentials")
    baseline_loss: Nats = Field(2.3, description="final loss in nats that is worth nothing")
    target_loss: Nats = Field(0.3, description="final loss in nats that is worth the whole terminal weight")
    terminal_loss_weight: Weight = Field(1.0, description="reward for reaching the target loss")


class SettlementConfig(Section):
    """Weights of the mode `settlement`, which rewards committed, priced value above a run without growth."""

    scale: PositiveWeight = Field(10.0, description="reward for a value of 1: 100 points of accuracy above the control")
    window_epochs: Period = Field(5, description="epochs over which values are averaged; single ones fluctuate")
    vesting_epochs: Period = Field(5, description="epochs over which the value of a committed seed vests")


class RewardConfig(Section):
    """Rewards. Weights, bonuses and penalties are in reward units, contributions in percentage points."""

    mode: RewardMode = Field("shaped", description="rule by which a step is paid")
    options: PartOptions = Field({}, description="options of an own mode, which checks them; a built-in mode has none")
    family: RewardFamily = Field(
        "contribution", description="contribution: accuracy; loss: validation loss, mode shaped only"
    )

    contribution_weight: Weight = Field(1.0, description="reward per point of attributed accuracy and step")
    proxy_confidence_factor: Weight = Field(0.3, description="share of that weight for an unmeasured seed")
    attribution_formula: Literal["harmonic", "minimum"] = Field(
        "harmonic", description="mean of progress and contribution that is paid"
    )
    escrow_stable_window: Period = Field(3, description="escrow: epochs whose least accuracy counts as stable")
    escrow_delta_clip: Weight = Field(2.0, description="escrow: largest change of credit in one step; 0: no limit")

    pbrs_weight: Weight = Field(0.3, description="weight of the stage potentials")
    epoch_progress_bonus: Weight = Field(0.3, description="potential gained by each epoch in a stage")
    max_progress_bonus: Weight = Field(2.0, description="largest potential from epochs in a stage")
    synergy_weight: Weight = Field(0.1, description="largest pay per step for positive interactions of seeds")

    param_budget: Number = Field(500_000, gt=0, le=1e12, description="parameters that cost one unit of penalty weight")
    param_penalty_weight: Weight = Field(0.1, description="price of one budget of parameters")
    rent_weight: Weight = Field(0.5, description="shaped: rent per e-fold of growth and step")
    max_rent: Weight = Field(1.5, description="largest rent per step")
    rent_host_params_floor: Integer = Field(
        200, ge=1, le=10**12, description="least host size against which growth is counted"
    )
    base_slot_rent_ratio: Weight = Field(0.0039, description="rent of a slot in use, as a share of the host")
    alpha_shock_coef: Weight = Field(0.1958, description="price of squared changes of amplitude")
    alpha_shock_cap: Weight = Field(1.0, description="largest price of changes of amplitude per step")
    seed_occupancy_cost: Weight = Field(0.01, description="price per step of each seed beyond the free ones")
    free_slots: Duration = Field(1, description="seeds without a price of occupancy")
    fossilized_maintenance_cost: Weight = Field(0.002, description="price per step of each committed seed")

    germinate_cost: Penalty = Field(-0.15, description="cost of each GERMINATE")
    fossilize_cost: Penalty = Field(-0.01, description="cost of each FOSSILIZE")
    prune_cost: Penalty = Field(-0.005, description="cost of each PRUNE")
    set_alpha_target_cost: Penalty = Field(-0.005, description="cost of each SET_ALPHA_TARGET")
    germinate_with_seed_penalty: Penalty = Field(
        -0.3, description="for GERMINATE in an occupied slot, which legality forbids"
    )
    invalid_fossilize_penalty: Penalty = Field(
        -1.0, description="shaped: for FOSSILIZE outside HOLDING or without a measurement"
    )
    prune_fossilized_penalty: Penalty = Field(
        -1.0, description="shaped: for PRUNE of a committed seed, which legality forbids"
    )
    advance_from_training_penalty: Penalty = Field(-0.1, description="shaped: for ADVANCE out of TRAINING")
    auto_prune_penalty: Penalty = Field(-0.2, description="for each seed that a restored network loses")

    fossilize_base_bonus: Weight = Field(0.5, description="shaped: bonus for committing a seed that contributes")
    fossilize_contribution_scale: Weight = Field(0.1, description="shaped: bonus per point of contribution")
    fossilize_noncontributing_penalty: Penalty = Field(
        -0.2, description="shaped: for committing a seed below the contribution that is paid"
    )
    fossilize_terminal_scale: Weight = Field(
        3.0, description="shaped: further bonus s tanh(1/c) for a paid commitment; this is s"
    )
    fossilize_quality_ceiling: PositiveWeight = Field(3.0, description="the c of the bonus s tanh(1/c)")
    min_fossilize_contribution: Weight = Field(1.0, description="least contribution for which a commitment is paid")
    min_holding_epochs: Period = Field(5, description="epochs in HOLDING after which a commitment is paid in full")

    prune_hurting_bonus: Weight = Field(0.15, description="shaped: for pruning a seed that hurts")
    prune_acceptable_bonus: Weight = Field(
        0.1, description="shaped: for pruning a seed of negative contribution that does not count as hurting"
    )
    prune_good_seed_penalty: Penalty = Field(
        -0.3, description="shaped: for pruning a seed that contributes; also the largest deduction for suspicion"
    )
    prune_hurting_threshold: SignedPoints = Field(-0.5, description="contribution below which a seed hurts")
    min_prune_age: Duration = Field(5, description="shaped: age in epochs below which pruning is penalised")
    min_prune_bonus_age: Duration = Field(3, description="age in epochs from which pruning a hurting seed is paid")
    early_prune_threshold: Duration = Field(5, description="age in epochs below which early_prune_penalty applies")
    early_prune_penalty: Penalty = Field(-0.1, description="for pruning below that age; shaped: of an unmeasured seed")

    improvement_safe_threshold: Weight = Field(
        0.1, description="joint improvement below which contributions are suspect"
    )
    hacking_ratio_threshold: PositiveWeight = Field(
        5.0, description="contribution over joint improvement that is suspect"
    )
    attribution_sigmoid_steepness: Weight = Field(
        3.0, description="per point: discount of contributions while the seeds together hurt"
    )
    germination_warmup_epochs: Duration = Field(10, description="epochs in which germination is paid less")
    germination_discount_floor: Fraction = Field(
        0.4, description="least share of the contribution that is paid in these epochs"
    )

    hindsight_credit_weight: Weight = Field(0.1, description="largest credit for one seed that helped another")
    max_hindsight_credit: Weight = Field(0.2, description="largest credit for all seeds that helped one commitment")

    terminal_acc_weight: Weight = Field(0.05, description="terminal reward per point of final accuracy")
    sparse_reward_scale: PositiveWeight = Field(
        1.0, description="sparse, minimal: reward for a committed, priced value of 1"
    )
    basic_acc_delta_weight: Weight = Field(
        5.0, description="basic: terminal reward for 100 points gained in the episode"
    )
    basic_fossilize_base_bonus: Weight = Field(0.3, description="basic: bonus for committing a seed that contributes")
    basic_contribution_scale: Weight = Field(0.5, description="basic: bonus per point of contribution")
    basic_fossilize_invalid_penalty: Penalty = Field(
        -0.5, description="basic: for FOSSILIZE outside HOLDING or of a seed that harms"
    )
    basic_fossilize_noncontributing_penalty: Penalty = Field(
        -0.2, description="basic: for committing a seed below the contribution that is paid"
    )
    drip_fraction: Fraction = Field(0.7, description="basic_plus: share of the bonus that is paid later")
    max_drip_per_epoch: PositiveWeight = Field(0.1, description="basic_plus: largest part of that share per epoch")
    min_drip_epochs: Period = Field(5, description="basic_plus: least number of epochs over which that share is paid")
    negative_drip_ratio: Fraction = Field(
        0.5, description="basic_plus: largest deduction per epoch over the largest payment"
    )

    disable_pbrs: Switch = Field(False, description="ablation: no stage potentials")
    disable_terminal_reward: Switch = Field(False, description="ablation: no pay for final accuracy")
    disable_anti_gaming: Switch = Field(False, description="ablation: no suspicion, no price of changing amplitudes")
    disable_timing_discount: Switch = Field(False, description="ablation: early germination is paid in full")

    loss: LossRewardConfig = LossRewardConfig()
    settlement: SettlementConfig = SettlementConfig()

    @field_validator("mode", "family", mode="before")
    @classmethod
    def _check_name(cls, name: Any, info: ValidationInfo) -> Any:
        if not isinstance(name, str):
            return name
        if info.field_name == "mode":
            return checked_mode(name, recorded=info.context == RECORDED)
        return check_names("reward family", (name,), get_args(RewardFamily))[0]

    @model_validator(mode="after")
    def _mode_belongs_to_family(self) -> Self:
        if self.family == "loss" and self.mode != "shaped":
            raise ValueError(f"reward family 'loss' has the mode 'shaped' only, got mode {self.mode!r}")
        if self.options and not self.is_own:
            names = shortened(list(self.options))
            raise ValueError(f"the built-in mode {self.mode!r} has no options, got {names}: own modes have")
        return self

    @property
    def is_own(self) -> bool:
        """Whether the mode is a function of another package."""
        return self.mode not in REWARD_MODES
