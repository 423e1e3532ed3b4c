"""Steps of episodes in play, for viewers: ``live.jsonl``. The event log has them when their round is finished.

The file is not evidence: samples may be lost on their way, and it is cut when a round ends.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from esper_ray.leyline.files.durable import GrowingFile, remove
from esper_ray.leyline.records import Record
from esper_ray.nissa.log.finite import json_record

LIVE = "live.jsonl"
LIVE_BYTES = 16 * 2**20
"""Greatest size of the file."""
LIVE_FULL = "live_full"
"""Kind of the last line of a full file."""
LIVE_FIELDS = (
    "kind",
    "round",
    "episode",
    "env",
    "step",
    "operation",
    "slot",
    "success",
    "log_prob",
    "value",
    "reward",
    "val_loss",
    "val_accuracy_pp",
    "committed_accuracy_pp",
    "total_parameters",
    "growth_ratio",
    "slots",
)
"""Fields of an ``env_epoch`` that viewers need while its episode is in play."""


class LiveSteps:
    """Writer of the steps in play."""

    def __init__(self, folder: Path, limit: int = LIVE_BYTES) -> None:
        """
        Args:
            limit: greatest size of the file in bytes.
        """
        self.path, self._limit = folder / LIVE, limit
        self._file = GrowingFile(self.path)
        self._lines: dict[int, list[str]] = {}
        """Lines of the rounds that are not finished."""
        self._size, self._is_full = 0, False

    def start(self) -> None:
        """Begin with an empty file.

        Raises:
            WriteError: if it cannot be written.
        """
        remove(self.path)
        self._file = GrowingFile(self.path)
        self._file.append("")

    def add(self, records: Iterable[Record]) -> None:
        """Append the steps among ``records``, until the limit is reached.

        Raises:
            WriteError: if they cannot be written.
        """
        added: list[str] = []
        for record in records:
            if record["kind"] != "env_epoch" or self._is_full:
                continue
            line = json.dumps(json_record({name: record[name] for name in LIVE_FIELDS})) + "\n"
            self._is_full = self._size + len(line) > self._limit
            if self._is_full:
                line = json.dumps({"kind": LIVE_FULL, "round": record["round"], "limit": self._limit}) + "\n"
            self._size += len(line)
            self._lines.setdefault(record["round"], []).append(line)
            added.append(line)
        if added:
            self._file.append("".join(added))

    def finish_round(self, index: int) -> None:
        """Cut what belongs to round ``index`` and earlier ones, which the event log has.

        Raises:
            WriteError: if the file cannot be written.
        """
        self._lines = {number: lines for number, lines in self._lines.items() if number > index}
        content = _joined(self._lines.values())
        self._size, self._is_full = len(content), f'"{LIVE_FULL}"' in content
        self._file.replace(content.encode())


def _joined(groups: Iterable[Sequence[str]]) -> str:
    return "".join(line for lines in groups for line in lines)
