"""Records of an evaluation: what single episodes came to, and how policies compare."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Score:
    """One episode of one policy on one seed, judged at its end by the network as it stands."""

    policy: str
    seed: int
    test_accuracy_pp: float
    """Of the network as it stands, on the split that nothing else looks at."""
    val_accuracy_pp: float
    objective_pp: float
    """Validation accuracy minus the price of the parameters beyond the host's, in percentage points."""
    committed_accuracy_pp: float
    """Validation accuracy with committed seeds only."""
    parameters: int
    """Of host and seeds."""
    grown_parameters: int
    """Of seeds alone."""
    train_flops: float
    """Floating-point operations of training over the episode; a multiply-add counts as two."""
    rollbacks: int
    fossilised: int
    total_reward: float | None
    """None for a network that no policy steers."""
    seeds_grown: tuple[tuple[str, str], ...] = ()
    """(slot, blueprint) of each seed in the final network."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with a bootstrap percentile interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

    @property
    def signed(self) -> str:
        """The interval as text, for differences."""
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """What one policy gains over another, paired by seed."""

    policy: str
    over: str
    test_gain_pp: Interval
    objective_gain_pp: Interval


@dataclass(frozen=True, slots=True)
class ComparisonVerdict:
    """Which of two is better."""

    better: Literal["first", "second", "undecided"]
    difference: Interval
    """Of the first over the second."""
    seeds: int
    """Pairs that it is based on."""
    seeds_needed: int | None
    """Pairs with which a difference like this would probably be found; ``None`` if there is none at all."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A policy over all seeds."""

    policy: str
    episodes: int
    test_accuracy_pp: Interval
    val_accuracy_pp: Interval
    objective_pp: Interval
    parameters: float
    train_gflops: float
    spread_pp: float
    """Standard deviation of the test accuracy over seeds; what stability means here, with the rollbacks."""
    rollbacks: int
    fossilised: float
    total_reward: float | None
    objective_gain_pp: Interval | None
    """Objective over that of the control, seed by seed; None for the control itself."""
    test_gain_pp: Interval | None
    """Test accuracy over that of the control, seed by seed."""
    on_frontier: bool
    """Whether no other policy is at least as good in quality, cost and stability, and better in one of them."""
