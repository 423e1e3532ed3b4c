"""Options of parts of other packages, validated by the parts themselves."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from esper_ray.leyline.config.base import problem_message, with_value
from esper_ray.leyline.config.loading import ConfigError, explained
from esper_ray.leyline.errors import shortened
from esper_ray.leyline.plugins.entry_points import Plugin

OPTIONS_PARAMETER = "options"
"""Name of the parameter of a part that takes its options."""


def with_options(plugin: Plugin, options: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The part with its validated options.

    If its parameter ``options`` is annotated with a pydantic model, that model is the section of the part; otherwise
    the part gets the mapping as it is and checks it itself.

    Args:
        key: configuration key of the options, for messages.

    Raises:
        ConfigError: with the key, the value and the constraint of every problem.
    """
    try:
        parameters = inspect.signature(plugin.part, eval_str=True).parameters
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"{plugin.origin}: its parameters cannot be read: {error}") from error
    if OPTIONS_PARAMETER not in parameters:
        if options:
            raise ConfigError(f"{key}: {plugin.origin} has no options (got {shortened(dict(options))})")
        return plugin.part
    model = parameters[OPTIONS_PARAMETER].annotation
    section: Any = dict(options)
    if isinstance(model, type) and issubclass(model, BaseModel):
        section = _section(model, options, key)

    def part(*arguments: Any) -> Any:
        return plugin.part(*arguments, **{OPTIONS_PARAMETER: section})

    return part


def _section(model: type[BaseModel], options: Mapping[str, Any], key: str) -> BaseModel:
    try:
        return model.model_validate(dict(options), extra="forbid")
    except ValidationError as error:
        raise ConfigError(explained(_problem(dict(problem), key, model) for problem in error.errors())) from None


def _problem(problem: Mapping[str, Any], key: str, model: type[BaseModel]) -> str:
    name = ".".join([key, *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name!r} (known here: {', '.join(model.model_fields) or 'none'})"
    return with_value(f"{name}: {problem_message(problem)}", problem["input"])
