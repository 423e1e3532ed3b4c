"""Pair of reward modes that are compared."""

from dataclasses import dataclass

from esper_ray.leyline.config.reward import checked_mode
from esper_ray.leyline.errors import UsageError, shortened

SEPARATOR = "-vs-"


@dataclass(frozen=True, slots=True)
class Pair:
    """Pair of reward modes."""

    first: str
    second: str

    @property
    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Run name and reward mode of each side."""
        return (f"A-{self.first}", self.first), (f"B-{self.second}", self.second)


def parse_pair(text: str) -> Pair:
    """The pair of reward modes in ``A-vs-B``.

    Raises:
        UsageError: if it is not a pair of different reward modes.
    """
    first, separator, second = text.partition(SEPARATOR)
    if not separator or not first or not second:
        raise UsageError(
            f"--dual-ab takes MODE{SEPARATOR}MODE, for example shaped{SEPARATOR}simplified, got {shortened(text)}"
        )
    for mode in (first, second):
        try:
            checked_mode(mode)
        except ValueError as error:
            raise UsageError(f"--dual-ab {shortened(text)}: {error}") from None
    if first == second:
        raise UsageError(f"--dual-ab {text}: a mode cannot be compared with itself")
    return Pair(first, second)
