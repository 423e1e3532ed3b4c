"""Policies by name, and scripts of fixed schedules in files."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from esper_policies.baselines import OraclePolicy, RandomPolicy, SchedulePolicy, ScriptLine, StaticPolicy
from esper_policies.heuristic import HeuristicPolicy
from esper_ray.leyline.config.documents import DocumentError, parse_document
from esper_ray.leyline.config.loading import ConfigError, read_bytes
from esper_ray.leyline.errors import UserError, shortened
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.policy import Policy

BASELINES: Mapping[str, Callable[[Limits, str], Policy]] = {
    "heuristic": lambda limits, task: HeuristicPolicy(limits),
    "random": lambda limits, task: RandomPolicy(),
    "static": lambda limits, task: StaticPolicy(),
    "schedule": lambda limits, task: SchedulePolicy(limits),
    "oracle": OraclePolicy,
}
"""Constructors of the named policies, by name, from limits and the name of a task."""
SCRIPT_PREFIX = "schedule:"
"""Beginning of a policy's name that ends with the path of a script."""


class ScriptError(UserError, ValueError):
    """A script that cannot be read or has a line that is not valid."""

    remedy = "Correct the script; `esper evaluate --help` describes it."


def read_script(path: Path) -> tuple[ScriptLine, ...]:
    """Lines of the script in a YAML or JSON file.

    Raises:
        ScriptError: if it cannot be read, is not a list, or a line is not valid.
    """
    try:
        lines = parse_document(read_bytes(path), is_json=path.suffix == ".json").tree
    except DocumentError as error:
        place = path if error.line is None else f"{path}:{error.line}"
        raise ScriptError(f"script {place} cannot be read: {error}") from error
    except ConfigError as error:
        raise ScriptError(f"script {path} cannot be read: {error}") from error
    if not isinstance(lines, list):
        raise ScriptError(f"script {path} must be a list of lines, got {type(lines).__name__}")
    return tuple(_script_line(path, number, line) for number, line in enumerate(lines, start=1))


def _script_line(path: Path, number: int, line: object) -> ScriptLine:
    try:
        return ScriptLine.model_validate(line)
    except ValidationError as error:
        problems = [(".".join(map(str, e["loc"])) or "the line", e["msg"], e["input"]) for e in error.errors()]
        details = "; ".join(f"{key}: {message} (got {shortened(value)})" for key, message, value in problems)
        raise ScriptError(f"script {path}, line {number}: {details}") from error
