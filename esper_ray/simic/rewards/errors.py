"""What is raised instead of paying."""

from math import isfinite


class RewardError(ValueError):
    """Evidence that a payment needs is missing or broken; nothing is paid."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A short name of what is wrong, for programs."""


def check_finite(name: str, value: float) -> None:
    """Refuse evidence that is no number.

    Raises:
        RewardError: naming it.
    """
    if not isfinite(value):
        raise RewardError("non_finite_measurement", f"{name} is {value}, it must be finite; nothing was paid")
