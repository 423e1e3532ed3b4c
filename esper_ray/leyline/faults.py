"""Faults of a run: what went wrong, or was repaired, while training continued."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that went wrong, or that is right again; training goes on."""

    kind: str
    """In the words of the log, such as ``environment_actor_died`` or ``episode_failed``."""
    who: str
    detail: str
    seconds: float | None = None
    """How long it took, where that is known."""

    def describe(self) -> str:
        """One line for people."""
        took = "" if self.seconds is None else f" after {self.seconds:.1f} s"
        return f"{self.kind.replace('_', ' ')}{took}: {self.who}" + (f": {self.detail}" if self.detail else "")
