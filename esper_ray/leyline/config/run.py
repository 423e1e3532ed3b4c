"""The configuration of a run: one tree of frozen models, closed against unknown keys.

Every field has a unit or a range in its description; ``esper config schema`` prints them.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from esper_ray.leyline.config.base import (
    ClippingNorm,
    Duration,
    ExampleCount,
    Folder,
    Fraction,
    Integer,
    LearningRate,
    Name,
    Number,
    Period,
    PositiveWeight,
    Section,
    Seed,
    Share,
    Switch,
    Version,
    Weight,
)
from esper_ray.leyline.config.growth import GrowthConfig, Limit
from esper_ray.leyline.config.host import CNNHostConfig, HostConfig, OwnHostConfig
from esper_ray.leyline.config.memory import (
    MEMORY_LIMIT,
    MemoryDemand,
    batch_demand,
    episodes_demand,
    host_demand,
    minibatch_demand,
    policy_demand,
)
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.config.system import SystemConfig, TelemetryConfig

CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune", "captured"]


class TaskConfig(Section):
    """Task of the hosts: data, splits and augmentation."""

    name: str = Field("digits", description="task by name; esper tasks lists them")
    data_dir: Folder | None = Field(None, description="folder with the data, for tasks that read files")
    train_size: ExampleCount = Field(0, description="number of training examples; 0: all")
    validation_size: Integer = Field(
        400, ge=1, le=10_000_000, description="examples that rewards, gates and governor see"
    )
    test_size: Integer = Field(300, ge=1, le=10_000_000, description="examples that only evaluation reports see")
    block_size: Integer = Field(128, ge=1, le=65_536, description="length of an example of text, in tokens")
    augment: Switch = Field(False, description="vary training examples: images cropped and mirrored, text shifted")
    split_seed: Seed = Field(0, description="seed of the split; the same for every environment")
    cache_dir: Folder | None = Field(
        None, description="cache of decoded data; null: ESPER_RAY_CACHE, else ~/.cache/esper-ray"
    )


class TrainingConfig(Section):
    """Training of a host and its seeds within one environment step."""

    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="optimizer of the host and of the seeds")
    lr: LearningRate = Field(0.05, description="learning rate of the host and of committed seeds")
    seed_lr: LearningRate = Field(0.05, description="learning rate of live seeds")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="schedule of all learning rates over an episode"
    )
    warmup_epochs: Duration = Field(0, description="epochs in which all learning rates rise from zero")
    seed_warmup_epochs: Duration = Field(0, description="epochs of TRAINING in which the learning rate of a seed rises")
    newborn_schedule: Literal["host", "restart", "rescaled"] = Field(
        "restart",
        description="schedule of live seeds; host: that of the host; restart: from the birth to the end of the "
        "episode; rescaled: that of the host times the size of the seed's weights over that of the host's",
    )
    momentum: Number = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    weight_decay: Number = Field(
        5e-4, ge=0, le=100, description="weight decay of the host and of committed seeds; live seeds have none"
    )
    batch_size: Integer = Field(64, ge=1, le=1_000_000, description="training examples per SGD step")
    steps_per_epoch: Period = Field(17, description="SGD steps per environment step, however many environments run")
    host_grad_clip: ClippingNorm = Field(1.0, description="largest L2 norm of the gradient of the host")
    seed_grad_clip: ClippingNorm = Field(1.0, description="largest L2 norm of the gradient of each seed")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="precision of the forward pass (autocast)")
    compile_mode: CompileMode = Field(
        "off", description="mode of torch.compile for every block, or a captured CUDA graph of each step"
    )


class MeasurementConfig(Section):
    """Measurement of the seeds on the validation split, with each of them on and off."""

    every: Period = Field(1, description="epochs between measurements of the coalitions of seeds")
    examples: ExampleCount = Field(0, description="validation examples that are measured; 0: all")
    permutations: Integer = Field(
        4, ge=1, le=1000, description="above four seeds: pairs of orders whose coalitions are measured"
    )


class GovernorConfig(Section):
    """Governor: detection of broken hosts, snapshots and rollbacks."""

    window: Integer = Field(20, ge=3, le=100_000, description="number of healthy validation losses in the statistics")
    min_history: Integer = Field(5, ge=2, le=100_000, description="losses needed before divergence is judged")
    loss_multiple: PositiveWeight = Field(3.0, description="divergence: loss above this multiple of random guessing")
    deviations: PositiveWeight = Field(6.0, description="divergence: robust z-score above this")
    confirmations: Period = Field(2, description="consecutive divergent epochs that make a panic")
    snapshot_every: Period = Field(5, description="healthy epochs between snapshots")
    collapse_share: Fraction = Field(
        0.5, description="collapse: committed accuracy above chance falls below this share of its median; 0: never"
    )
    max_parameters: Limit = Field(
        0, description="most parameters of host and seeds; births beyond are vetoed; 0: no limit"
    )
    max_memory_mb: Number = Field(
        0.0,
        ge=0,
        le=1e9,
        description="most memory that training should need, estimated; births beyond are vetoed; 0: no limit",
    )
    penalty: Weight = Field(10.0, description="reward that is subtracted for a panic")
    watch_window: Period = Field(10, description="steps before a panic to which its penalty is attributed")


class PolicyConfig(Section):
    """Network of the policy."""

    feature_size: Integer = Field(512, ge=1, le=8192, description="width of the feature network")
    memory_size: Integer = Field(512, ge=1, le=8192, description="width of the LSTM")
    wait_logit: Number = Field(
        1.0, ge=-100, le=100, description="initial advantage of WAIT, so that early seeds live long enough"
    )
    prune_logit: Number = Field(-2.0, ge=-100, le=100, description="initial handicap of PRUNE")
    critic: Literal["q_op", "v"] = Field("q_op", description="Q(s, op) with hierarchical baselines, or plain V(s)")


class PPOConfig(Section):
    """Training of the policy by PPO."""

    rounds: Integer = Field(
        100, ge=1, le=1_000_000, description="rounds; each collects episodes and updates the policy"
    )
    schedule_rounds: Annotated[Integer, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="rounds over which epsilon, entropy bonus and learning rate change; unset: all rounds. Set when a "
        "run is extended",
    )
    epochs: Integer = Field(4, ge=1, le=1000, description="passes over each round's episodes")
    minibatch_episodes: Integer = Field(2, ge=1, le=10_000, description="whole episodes per optimizer step")
    lr: LearningRate = Field(3e-4, description="learning rate of the policy (Adam)")
    gae_lambda: Fraction = Field(0.95, description="decay of generalised advantage estimation")
    clip: Number = Field(0.2, gt=0, lt=1, description="clipping range of the probability ratio around 1")
    target_kl: Number = Field(
        0.02, gt=0, le=1e9, description="a minibatch above 1.5 times this ends the update before its step"
    )
    grad_clip: ClippingNorm = Field(
        1.0, description="largest L2 norm of the gradients of policy, critic and trunk, each"
    )
    value_coefficient: Weight = Field(0.5, description="weight of the value loss")
    lr_end: LearningRate | None = Field(
        None, description="learning rate in the last round of the schedule and later, linear from lr; unset: lr"
    )
    entropy_bonus: Literal["joint", "per_head"] = Field(
        "joint",
        description="joint: entropy of the whole action; per_head: each head's over that of an even legal choice",
    )
    entropy_start: Weight = Field(0.02, description="entropy bonus in the first round")
    entropy_end: Weight = Field(0.005, description="entropy bonus in the last round of the schedule and later")
    epsilon_start: Fraction = Field(0.1, description="share of uniform legal choices in the first round")
    epsilon_fraction: Fraction = Field(0.4, description="share of the rounds over which epsilon falls to zero")
    checkpoints_kept: Integer = Field(
        3, ge=1, le=10_000, description="newest checkpoints that stay on disk, besides the best one"
    )

    @property
    def schedule_length(self) -> int:
        """Number of rounds over which epsilon, entropy bonus and learning rate change."""
        return self.rounds if self.schedule_rounds is None else self.schedule_rounds


class RunConfig(Section):
    """Configuration of a run."""

    schema_version: Version = Field(1, description="version of these keys")
    name: Name = Field("custom", description="label of the run")
    seed: Seed = Field(42, description="seed of all random generators")
    episode_length: Period = Field(150, description="environment steps per episode")
    gamma: Share = Field(0.995, description="discount of rewards and potentials alike")
    task: TaskConfig = TaskConfig()
    task_mix: dict[str, PositiveWeight] = Field(
        {},
        max_length=64,
        description="presets by weight, {digits_long: 1, text: 2}: each episode plays task, host and growth of one of "
        "them; empty: those of this configuration",
    )
    task_mix_dirs: dict[str, Folder] = Field(
        {}, max_length=64, description="folders with the data of presets of the mix, for tasks that read files"
    )
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
    def _folders_belong_to_the_mix(self) -> Self:
        for name in self.task_mix_dirs:
            if name not in self.task_mix:
                raise ValueError(f"task_mix_dirs names {name!r}, which is not in task_mix")
        return self

    @model_validator(mode="after")
    def _slots_exist(self) -> Self:
        available = self.host.available_slots()
        if available is None:
            return self
        for slot in self.growth.slots:
            if slot not in available + self.host.available_spans():
                raise ValueError(f"host has no slot {slot!r}; it offers {', '.join(available)}{self._spans()}")
        return self

    def _spans(self) -> str:
        spans = self.host.available_spans()
        return f", and to widen its layers {spans[0]} to {spans[-1]}" if spans else ""

    @model_validator(mode="after")
    def _memory_is_bounded(self) -> Self:
        for demand in self.memory_demands():
            if demand.size > MEMORY_LIMIT:
                raise ValueError(f"{demand.describe()}, more than the limit of {MEMORY_LIMIT / 2**30:.0f} GiB")
        return self

    def memory_demands(self, pixels: int = 1) -> list[MemoryDemand]:
        """Memory of the parts of a run, by arithmetic: the host, its batch, the policy, its minibatch, the episodes.

        That of an own host is not known here.

        Args:
            pixels: of an image of the task; 1 if it is unknown.
        """
        steps, policy = self.episode_length, self.policy
        episodes = min(self.ppo.minibatch_episodes, self.system.envs)
        host = []
        if not isinstance(self.host, OwnHostConfig):
            host += [host_demand(self.host)]
            host += [batch_demand(self.host, self.training.batch_size, self.task.block_size, pixels)]
        return [
            *host,
            policy_demand(policy.feature_size, policy.memory_size),
            minibatch_demand(episodes, steps, policy.feature_size, policy.memory_size),
            episodes_demand(self.system.envs, steps, len(self.growth.slots)),
        ]

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all decisive keys: without placement and telemetry.

        The number of rounds is not part of it, the length of the schedules is: equal runs of different lengths, such as
        one that was extended, are equal as far as both go.
        """
        tree = self.model_dump(mode="json", exclude={"telemetry"})
        tree["system"] = self.system.decisive()
        tree["ppo"] |= {"rounds": None, "schedule_rounds": self.ppo.schedule_length}
        _leave_out_no_options(tree)
        return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def environment_digest(self) -> str:
        """Hexadecimal SHA-256 of the keys that determine an episode.

        Names, folders, policy and learner are not part of it.
        """
        tree = self.model_dump(
            mode="json", exclude={"name", "seed", "task_mix", "task_mix_dirs", "policy", "ppo", "system", "telemetry"}
        )
        for folder in ("data_dir", "cache_dir"):
            del tree["task"][folder]
        _leave_out_no_options(tree)
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


def _leave_out_no_options(tree: dict[str, Any]) -> None:
    """Remove the options of rewards, and a mix of tasks, if there are none: other runs keep their digest.

    Folders of a mix are never decisive.
    """
    tree.pop("task_mix_dirs", None)
    if not tree.get("task_mix", True):
        del tree["task_mix"]
    if not tree["reward"]["options"]:
        del tree["reward"]["options"]
