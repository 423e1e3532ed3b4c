"""What is raised instead of paying."""


class RewardError(ValueError):
    """Evidence that a payment needs is missing or broken; nothing is paid."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A short name of what is wrong, for programs."""
