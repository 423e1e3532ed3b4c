"""The configuration of a run: one tree of frozen models, closed against unknown keys.

Every field has a unit or a range in its description; ``esper config schema`` prints them.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from esper_ray.leyline.actions import Blueprint, GerminationStyle
from esper_ray.leyline.config.base import Count, Fraction, NonNegative, Number, Positive, Section, check_names
from esper_ray.leyline.config.host import CNNHostConfig, HostConfig
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.config.system import SystemConfig, TelemetryConfig
from esper_ray.leyline.slots import ordered_slot_ids

BlueprintName = Annotated[str, Field(json_schema_extra={"enum": [blueprint.id for blueprint in Blueprint]})]
StyleName = Annotated[str, Field(json_schema_extra={"enum": [style.id for style in GerminationStyle]})]
IncubationMethod = Literal["shadow", "straight_through"]
Initialisation = Literal["zero_scale", "gradmax"]
CompileMode = Annotated[
    Literal["off", "default", "reduce-overhead", "max-autotune", "captured"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML reads a bare off as false
]


class TaskConfig(Section):
    """Task of the hosts: data, splits and augmentation."""

    name: str = Field("digits", description="task by name; esper tasks lists them")
    data_dir: Path | None = Field(None, description="folder with the data, for tasks that read files")
    train_size: Annotated[int, Field(ge=0)] = Field(0, description="number of training examples; 0: all")
    validation_size: Count = Field(400, description="examples that rewards, gates and governor see")
    test_size: Count = Field(300, description="examples that only evaluation reports see")
    block_size: Count = Field(128, description="length of an example of text, in tokens")
    augment: bool = Field(False, description="vary training examples: images cropped and mirrored, text shifted")
    split_seed: int = Field(0, ge=0, description="seed of the split; the same for every environment")
    cache_dir: Path | None = Field(
        None, description="cache of decoded data; null: ESPER_RAY_CACHE, else ~/.cache/esper-ray"
    )


class IncubationConfig(Section):
    """Incubation: training of a seed in TRAINING, which does not change the host's output."""

    method: IncubationMethod = Field(
        "shadow", description="loss of a second pass with the seed on (shadow), or the gradient of the host, bounded"
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25, description="shadow: share of each batch in the second pass"
    )
    weight: NonNegative = Field(10.0, description="straight-through: weight of the penalty on the excess ratio")
    bound: Positive = Field(0.25, description="straight-through: free RMS of the change over that of the features")


class InitialisationConfig(Section):
    """Inner weights of newborn seeds, by germination style. The output never changes at birth."""

    linear_add: Initialisation = Field(
        "zero_scale", description="zero_scale: drawn at random; gradmax: for the largest gradient at birth"
    )
    linear_multiply: Initialisation = Field("zero_scale", description="as for linear_add")
    sigmoid_add: Initialisation = Field("zero_scale", description="as for linear_add")
    gated_gate: Initialisation = Field("zero_scale", description="as for linear_add")


class GrowthConfig(Section):
    """Slots, seeds and the gates between their stages."""

    slots: tuple[str, ...] = Field(("r0c0", "r0c1", "r0c2"), description="slots in which seeds may grow")
    max_seeds: Annotated[int, Field(ge=0)] = Field(0, description="most seeds at a time, fossils included; 0: no limit")
    blueprints: tuple[BlueprintName, ...] = Field(
        ("norm", "conv_light", "depthwise", "bottleneck"), description="blueprints that the policy may choose"
    )
    styles: tuple[StyleName, ...] = Field(
        ("linear_add", "sigmoid_add"), description="germination styles that the policy may choose"
    )
    gates: Literal["permissive", "strict"] = Field(
        "permissive", description="permissive: G2 asks for healthy gradients; strict: for a measured improvement"
    )
    auto_forward: tuple[Literal["g1", "g2", "g3"], ...] = Field(
        (), description="gates that are tried at every step without an operation"
    )
    min_training_epochs: Annotated[int, Field(ge=0)] = Field(10, description="G2: least number of epochs in TRAINING")
    min_blending_epochs: Annotated[int, Field(ge=0)] = Field(
        10, description="strict G3: least number of epochs in BLENDING"
    )
    min_training_improvement_pp: NonNegative = Field(
        0.5, description="strict G2: least gain of accuracy since TRAINING began"
    )
    min_gradient_ratio: NonNegative = Field(
        0.1, description="strict G2: least gradient RMS of the seed over that of the host"
    )
    min_gradient_health: Fraction = Field(0.7, description="permissive G2: least gradient health")
    min_contribution_pp: NonNegative = Field(1.0, description="strict G5: least contribution")
    embargo_ticks: Annotated[int, Field(ge=0)] = Field(5, description="steps between removal and resetting")
    freeze_fossils: bool = Field(False, description="stop training a seed when it is committed")
    incubation: IncubationConfig = IncubationConfig()
    initialisation: InitialisationConfig = InitialisationConfig()

    @field_validator("slots")
    @classmethod
    def _ordered(cls, slots: tuple[str, ...]) -> tuple[str, ...]:
        return ordered_slot_ids(slots)

    @field_validator("blueprints")
    @classmethod
    def _known_blueprints(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names("blueprint", names, [blueprint.id for blueprint in Blueprint])

    @field_validator("styles")
    @classmethod
    def _known_styles(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return check_names("style", names, [style.id for style in GerminationStyle])


class TrainingConfig(Section):
    """Training of a host and its seeds within one environment step."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="optimizer of the host and of the seeds")
    lr: Positive = Field(0.05, description="learning rate of the host and of committed seeds")
    seed_lr: Positive = Field(0.05, description="learning rate of live seeds")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="schedule of all learning rates over an episode"
    )
    warmup_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs in which all learning rates rise from zero"
    )
    seed_warmup_epochs: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs of TRAINING in which the learning rate of a seed rises"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of sgd, first beta of adamw")
    weight_decay: NonNegative = Field(
        5e-4, description="weight decay of the host and of committed seeds; live seeds have none"
    )
    batch_size: Count = Field(64, description="training examples per SGD step")
    steps_per_epoch: Count = Field(17, description="SGD steps per environment step, however many environments run")
    host_grad_clip: Positive = Field(1.0, description="largest L2 norm of the gradient of the host")
    seed_grad_clip: Positive = Field(1.0, description="largest L2 norm of the gradient of each seed")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="precision of the forward pass (autocast)")
    compile_mode: CompileMode = Field(
        "off", description="mode of torch.compile for every block, or a captured CUDA graph of each step"
    )


class MeasurementConfig(Section):
    """Measurement of the seeds on the validation split, with each of them on and off."""

    every: Count = Field(1, description="epochs between measurements of the coalitions of seeds")
    examples: Annotated[int, Field(ge=0)] = Field(0, description="validation examples that are measured; 0: all")
    permutations: Count = Field(4, description="above four seeds: pairs of orders whose coalitions are measured")


class GovernorConfig(Section):
    """Governor: detection of broken hosts, snapshots and rollbacks."""

    window: Annotated[int, Field(ge=3)] = Field(20, description="number of healthy validation losses in the statistics")
    min_history: Annotated[int, Field(ge=2)] = Field(5, description="losses needed before divergence is judged")
    loss_multiple: Positive = Field(3.0, description="divergence: loss above this multiple of random guessing")
    deviations: Positive = Field(6.0, description="divergence: robust z-score above this")
    confirmations: Count = Field(2, description="consecutive divergent epochs that make a panic")
    snapshot_every: Count = Field(5, description="healthy epochs between snapshots")
    collapse_share: Fraction = Field(
        0.5, description="collapse: committed accuracy above chance falls below this share of its median; 0: never"
    )
    max_parameters: Annotated[int, Field(ge=0)] = Field(
        0, description="most parameters of host and seeds; births beyond are vetoed; 0: no limit"
    )
    max_memory_mb: NonNegative = Field(
        0.0, description="most memory that training should need, estimated; births beyond are vetoed; 0: no limit"
    )
    penalty: NonNegative = Field(10.0, description="reward that is subtracted for a panic")
    watch_window: Count = Field(10, description="steps before a panic to which its penalty is attributed")


class PolicyConfig(Section):
    """Network of the policy."""

    feature_size: Count = Field(512, description="width of the feature network")
    memory_size: Count = Field(512, description="width of the LSTM")
    wait_logit: Number = Field(1.0, description="initial advantage of WAIT, so that early seeds live long enough")
    prune_logit: Number = Field(-2.0, description="initial handicap of PRUNE")
    critic: Literal["q_op", "v"] = Field("q_op", description="Q(s, op) with hierarchical baselines, or plain V(s)")


class PPOConfig(Section):
    """Training of the policy by PPO."""

    rounds: Count = Field(100, description="rounds; each collects episodes and updates the policy")
    epochs: Count = Field(4, description="passes over each round's episodes")
    minibatch_episodes: Count = Field(2, description="whole episodes per optimizer step")
    lr: Positive = Field(3e-4, description="learning rate of the policy (Adam)")
    gae_lambda: Fraction = Field(0.95, description="decay of generalised advantage estimation")
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="clipping range of the probability ratio around 1"
    )
    target_kl: Positive = Field(0.02, description="a minibatch above 1.5 times this ends the update before its step")
    grad_clip: Positive = Field(1.0, description="largest L2 norm of the gradient")
    value_coefficient: NonNegative = Field(0.5, description="weight of the value loss")
    entropy_start: NonNegative = Field(0.02, description="entropy bonus in the first round")
    entropy_end: NonNegative = Field(0.005, description="entropy bonus in the last round")
    epsilon_start: Fraction = Field(0.1, description="share of uniform legal choices in the first round")
    epsilon_fraction: Fraction = Field(0.4, description="share of the rounds over which epsilon falls to zero")
    checkpoints_kept: Count = Field(3, description="newest checkpoints that stay on disk, besides the best one")


class RunConfig(Section):
    """Configuration of a run."""

    schema_version: Literal[1] = Field(1, description="version of these keys")
    name: str = Field("custom", min_length=1, description="label of the run")
    seed: int = Field(42, ge=0, lt=2**32, description="seed of all random generators")
    episode_length: Count = Field(150, description="environment steps per episode")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.995, description="discount of rewards and potentials alike")
    task: TaskConfig = TaskConfig()
    host: HostConfig = CNNHostConfig()
    growth: GrowthConfig = GrowthConfig()
    training: TrainingConfig = TrainingConfig()
    measurement: MeasurementConfig = MeasurementConfig()
    governor: GovernorConfig = GovernorConfig()
    reward: RewardConfig = RewardConfig()
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    system: SystemConfig = SystemConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="after")
    def _slots_exist(self) -> Self:
        available = self.host.available_slots()
        for slot in self.growth.slots:
            if slot not in available:
                raise ValueError(f"host has no slot {slot!r}; it offers {', '.join(available)}")
        return self

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all decisive keys: without placement and telemetry."""
        tree = self.model_dump(mode="json", exclude={"telemetry"})
        tree["system"] = self.system.decisive()
        return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def environment_digest(self) -> str:
        """Hexadecimal SHA-256 of the keys that determine an episode.

        Names, folders, policy and learner are not part of it.
        """
        tree = self.model_dump(mode="json", exclude={"name", "seed", "policy", "ppo", "system", "telemetry"})
        for folder in ("data_dir", "cache_dir"):
            del tree["task"][folder]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def flat(self) -> dict[str, Any]:
        """Every leaf by its dotted name."""
        return flatten(self.model_dump(mode="json"))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"ppo": {"lr": 1}}`` as ``{"ppo.lr": 1}``."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
