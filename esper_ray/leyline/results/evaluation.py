"""Records of an evaluation: scores of single episodes, and comparisons of policies."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one episode of one policy on one seed, by its final network."""

    policy: str
    seed: int
    test_accuracy_pp: float
    """Accuracy of the final network on the test split, which only evaluations use."""
    val_accuracy_pp: float
    objective_pp: float
    """Validation accuracy minus the price of the grown parameters, in percentage points."""
    committed_accuracy_pp: float
    """Validation accuracy with committed seeds only."""
    parameters: int
    """Parameters of host and seeds."""
    grown_parameters: int
    """Parameters of the seeds alone."""
    train_flops: float
    """Floating-point operations of training over the episode, a multiply-add counts as two.

    Those of a search are the sum over all networks that it trained.
    """
    rollbacks: int
    fossilized: int
    total_reward: float | None
    """``None`` for a network without a policy."""
    seeds_grown: tuple[tuple[str, str], ...] = ()
    """(slot, blueprint) of each seed in the final network."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean with a bootstrap percentile interval."""

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
    """Gain of one policy over another, paired by seed."""

    policy: str
    over: str
    test_gain_pp: Interval
    objective_gain_pp: Interval


@dataclass(frozen=True, slots=True)
class ComparisonVerdict:
    """Verdict on which of two policies is better."""

    better: Literal["first", "second", "undecided"]
    difference: Interval
    """Gain of the first over the second."""
    seeds: int
    """Number of pairs in the comparison."""
    seeds_needed: int | None
    """Number of pairs that would probably show a difference of this size; ``None`` if the difference is 0."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores of a policy over all seeds."""

    policy: str
    episodes: int
    test_accuracy_pp: Interval
    val_accuracy_pp: Interval
    objective_pp: Interval
    parameters: float
    train_gflops: float
    spread_pp: float
    """Standard deviation of the test accuracy over seeds: with the rollbacks, the measure of stability."""
    rollbacks: int
    fossilized: float
    total_reward: float | None
    objective_gain_pp: Interval | None
    """Objective minus that of the control, paired by seed; ``None`` for the control itself."""
    test_gain_pp: Interval | None
    """Test accuracy minus that of the control, paired by seed."""
    on_frontier: bool
    """Whether no other policy is at least as good in quality, cost and stability, and better in one of them."""
    finding_gflops: float | None = None
    """Operations, in billions, that were spent once to find the policy; ``None``: nothing, or not known."""
