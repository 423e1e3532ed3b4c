"""An open anomaly, which is part of the state of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An open anomaly."""

    type: str
    subject: str | None
    since_round: int
    value: float | None
    threshold: float | None

    @property
    def key(self) -> str:
        """Its type, with its subject if it has one."""
        return self.type if self.subject is None else f"{self.type}/{self.subject}"
