"""Strict readers of the small files of a run: manifest, tables of rounds, faults.

Each error names the file, and the line where there are lines.
"""

import csv
import difflib
import io
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, StrictInt, StrictStr, ValidationError

from esper_ray.leyline.errors import Fault, UserError
from esper_ray.leyline.names import RUNS
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.lines import check_file, json_lines, read_object
from esper_ray.nissa.log.numbering import InheritedNames

logger = logging.getLogger(__name__)

MOST_FOLDERS = 2000
"""Most folders among which a similar name is looked for."""
TABLE_BYTES = 2**28
"""Greatest size of a table of rounds."""
INTEGERS = {"round", *(name for name, field in KINDS["round"].by_name.items() if field.type == "int")}
"""Columns of integers; all others hold numbers with a fraction."""
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"-?(?:[0-9]{1,40}(?:\.[0-9]{1,40})?(?:e[+-]?[0-9]{1,3})?|inf)|nan")


class RunDirectoryError(UserError):
    """A run directory that cannot be created, read or resumed."""

    remedy = "Give the path of a run directory: the folder that holds `manifest.json`."


def nearest_run(path: Path) -> Path | None:
    """The run with the most similar name, in the same folder or in ``runs/``.

    ``None`` if no name is similar.
    """
    folders = [path.parent] if len(path.parts) > 1 else [Path(), RUNS]
    candidates = {entry.name: entry for folder in folders for entry in _entries(folder)}
    names = [path.name] if path.name in candidates else difflib.get_close_matches(path.name, candidates, n=1)
    return candidates[names[0]] if names else None


def _entries(folder: Path) -> list[Path]:
    """Runs in a folder."""
    try:
        return [entry for entry in islice(folder.iterdir(), MOST_FOLDERS) if (entry / "manifest.json").is_file()]
    except OSError:
        return []


class _Lineage(BaseModel):
    model_config = ConfigDict(extra="allow")
    run: StrictStr
    round: StrictInt


class _Extension(BaseModel):
    """One extension of a run by further rounds."""

    model_config = ConfigDict(extra="allow")
    time: StrictStr
    command: list[StrictStr]
    after_round: Annotated[StrictInt, Field(ge=0)]
    rounds: tuple[Annotated[StrictInt, Field(ge=1)], Annotated[StrictInt, Field(ge=1)]]
    """Before and after."""


class _Manifest(BaseModel):
    """The keys of a manifest that a command reads or appends to."""

    model_config = ConfigDict(extra="allow")
    run_id: StrictStr
    status: StrictStr
    run: StrictStr = ""
    group: StrictStr = ""
    config: dict[str, Any]
    storage: StrictStr | None = None
    policy_sha256: StrictStr = ""
    inherited: list[InheritedNames] = []
    lineage: _Lineage | None = None
    extensions: list[_Extension] = []


class _FaultLine(BaseModel):
    model_config = ConfigDict(extra="allow")
    kind: StrictStr
    who: StrictStr
    detail: StrictStr
    seconds: Annotated[float, Strict(), Field(ge=0)] | None = None


def read_manifest_file(file: Path) -> dict[str, Any]:
    """Content of a manifest.

    Raises:
        RunDirectoryError: if it cannot be read, or a key that commands read is missing or of another type.
    """
    try:
        tree = read_object(file)
    except ValueError as error:
        raise RunDirectoryError(f"{file} cannot be used: it {error}") from error
    if problem := first_difference(_Manifest, tree):
        raise RunDirectoryError(f"{file} cannot be used: {problem}")
    return tree


def read_rows(file: Path, columns: Collection[str] = (), end: int | None = None) -> list[dict[str, str]]:
    """Lines of a table of rounds. A last line without an end is not yet written: it is left out with a warning.

    Args:
        columns: columns that it must have if it has lines.
        end: number of bytes that are read; ``None`` for all. Then the last of them must end a line.

    Raises:
        RunDirectoryError: if a line has another number of cells than the header, a cell is not a number, a column is
            missing or doubled, or the rounds are not 0, 1, 2, ...
    """
    lines = _whole_lines(file, end)
    if not lines:
        return []
    header = _cells(file, 1, lines[0])
    if doubled := [name for name, following in pairwise(sorted(header)) if name == following]:
        raise RunDirectoryError(f"line 1 of {file} has the column {doubled[0]!r:.80} twice")
    if missing := [name for name in columns if name not in header]:
        raise RunDirectoryError(f"line 1 of {file} has no column {missing[0]}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = _cells(file, number, line)
        if len(cells) != len(header):
            raise RunDirectoryError(f"line {number} of {file} has {len(cells)} cells, the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        for name, cell in row.items():
            if not (_INTEGER if name in INTEGERS else _NUMBER).fullmatch(cell):
                expected = "an integer" if name in INTEGERS else "a number"
                raise RunDirectoryError(f"line {number} of {file}: {name}: {expected} is expected, got {cell!r:.80}")
        if row.get("round", str(number - 2)) != str(number - 2):
            raise RunDirectoryError(f"line {number} of {file} has round {row['round']!r}, {number - 2} is expected")
        rows.append(row)
    return rows


def as_numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """A line of ``rounds.csv`` with its numbers: integers and floats."""
    return {name: _number(text) for name, text in row.items()}


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_first_rows(file: Path, rounds: int) -> list[dict[str, str]]:
    """The first ``rounds`` lines of a table that has been checked."""
    if not rounds:
        return []  # the table need not exist
    with file.open("rb") as opened:
        return list(csv.DictReader(line.decode() for line in islice(opened, rounds + 1)))


def read_faults(file: Path) -> list[Fault]:
    """Faults of a run, in order. A damaged line is left out with a warning.

    Raises:
        RunDirectoryError: if the file cannot be read.
    """
    try:
        check_file(file)
        lines = list(json_lines(file))
    except (ValueError, OSError) as error:
        raise RunDirectoryError(f"{file} {error}") from error
    faults = []
    for line in lines:
        problem = line.problem or first_difference(_FaultLine, line.record, "is not a fault: ")
        if problem is None:
            record = line.record
            faults.append(Fault(record["kind"], record["who"], record["detail"], record.get("seconds")))
        else:
            logger.warning("line %d of %s %s", line.number, file, problem)
    return faults


def first_difference(model: type[BaseModel], tree: dict[str, Any], prefix: str = "") -> str | None:
    """The first difference of ``tree`` from its model; ``None`` if it has none."""
    try:
        model.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = "" if first["type"] == "missing" else f", got {first['input']!r:.80}"
        return f"{prefix}{'.'.join(map(str, first['loc']))}: {first['msg']}{got}"
    return None


def _whole_lines(file: Path, end: int | None) -> list[str]:
    """Lines of text of a table, without their ends."""
    try:
        check_file(file)
        size = file.stat().st_size if end is None else end
        if size > TABLE_BYTES:
            raise ValueError(f"has {size} bytes, at most {TABLE_BYTES} are read")
        with file.open("rb") as opened:
            content = opened.read(size)
    except ValueError as error:
        raise RunDirectoryError(f"{file} {error}") from error
    except OSError as error:
        raise RunDirectoryError(f"{file} cannot be read: {error.strerror or error}") from error
    *lines, rest = content.split(b"\n")
    if rest:
        torn = f"line {len(lines) + 1} of {file} is cut off: it has no end"
        if end is not None:
            raise RunDirectoryError(f"{torn} at byte {end}, where the checkpoint was made")
        logger.warning("%s", torn)
    return list(_decoded(file, lines))


def _decoded(file: Path, lines: Sequence[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            byte = f"byte {error.start} is 0x{line[error.start]:02x}"
            raise RunDirectoryError(f"line {number} of {file} is not UTF-8: {byte}") from error
        if not text.isprintable() or not text:
            raise RunDirectoryError(f"line {number} of {file} is not a line of a table: {text!r:.80}")
        yield text


def _cells(file: Path, number: int, line: str) -> list[str]:
    try:
        (cells,) = csv.reader(io.StringIO(line), strict=True)
    except (csv.Error, ValueError) as error:
        raise RunDirectoryError(f"line {number} of {file} is not a line of a table: {error}") from error
    return cells
