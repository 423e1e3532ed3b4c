"""What is studied: trainings, comparisons and ablations, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Setting = int | float | str
"""Value of a configuration key."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a policy."""

    name: str
    """Name of its run."""
    preset: str
    seed: int
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Configuration keys that differ from the preset."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An evaluation of a trained policy against controls, on held-out seeds."""

    name: str
    """Folder of its results."""
    training: Training
    parts: tuple[tuple[str, ...], ...]
    """Words of one ``esper evaluate`` each: policies, controls and options; the trained policy is in all of them."""
    seeds: str = "0-19"


@dataclass(frozen=True, slots=True)
class Ablation:
    """Trainings that differ from a preset in one factor."""

    name: str
    preset: str
    arms: Mapping[str, Mapping[str, Setting]]
    """Settings of each arm by name; the first one is the preset itself."""
    training_seeds: tuple[int, ...] = (42, 43, 44)
    seeds: str = "1000-1019"
    """Seeds of the paired evaluation; they are those of tuning, not the held-out ones."""
    rounds: int = 40

    @property
    def base(self) -> str:
        """The arm that is the preset itself."""
        return next(iter(self.arms))

    def training(self, arm: str, seed: int) -> Training:
        """One training of ``arm``. Those of the preset are shared with other studies."""
        if arm == self.base:
            return Training(f"{self.preset}-{seed}", self.preset, seed)
        return Training(f"{self.name}-{arm}-{seed}", self.preset, seed, self.arms[arm])


ALONE = ("static", "--no-controls")
"""Words of a part without the usual controls."""
SEARCHES = tuple((f"{kind}-{times}x", *ALONE) for times in (1, 2, 4, 8) for kind in ("random-search", "asha"))
"""Searches over topologies, with up to eight times the operations of one growth."""

DIGITS = Training("digits_long-42", "digits_long", 42)

COMPARISONS = (
    Comparison(
        "digits_long",
        DIGITS,
        (
            ("script-by-hand=schedule:evidence/scripts/digits_long.yaml", "best-of-4"),
            ("schedule:best", "--script-lives", "256", *ALONE),
            *SEARCHES,
        ),
    ),
    Comparison(
        "digits_long-43",
        Training("digits_long-43", "digits_long", 43),
        (("script-by-hand=schedule:evidence/scripts/digits_long.yaml", "heuristic", *ALONE),),
    ),
)

ABLATIONS = (
    Ablation(
        "ablations",
        "digits_long",
        {
            "preset": {},
            "entropy_per_head": {"ppo.entropy_bonus": "per_head"},
            "lambda_1": {"ppo.gae_lambda": 1.0},
            "critic_v": {"policy.critic": "v"},
            "lr_decay": {"ppo.lr_end": 0.0001},
            "lr_third": {"ppo.lr": 0.0003},
            "width_64": {"policy.feature_size": 64, "policy.memory_size": 64},
            "width_512": {"policy.feature_size": 512, "policy.memory_size": 512},
            "minibatch_16": {"ppo.minibatch_episodes": 16},
            "newborn_restart": {"training.newborn_schedule": "restart"},
        },
    ),
)
