"""Registry of sinks by the names of their options."""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec

from esper_ray.leyline.errors import UserError, missing_extra
from esper_ray.nissa.sinks import weights_and_biases
from esper_ray.nissa.sinks.mlflow_tracking import MlflowSink
from esper_ray.nissa.sinks.protocol import Sink
from esper_ray.nissa.sinks.tensorboard_files import TensorBoardSink
from esper_ray.nissa.sinks.weights_and_biases import WandbSink

SINKS: Mapping[str, Callable[[], Sink]] = {
    "mlflow": MlflowSink,
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
}
"""Sinks by name, which is also the name of the package."""


class SinkError(UserError):
    """A sink that is not installed or not configured."""

    remedy = "Install the extra that the message names, or leave the option out."


def check_sinks(names: Iterable[str]) -> None:
    """Check before a run that sinks can be used.

    Raises:
        SinkError: if a package is missing, or a login; the message says what to do.
    """
    for name in names:
        if find_spec(name) is None:
            raise SinkError(f"--{name}: {missing_extra(name, name)}")
        if name == "wandb" and (problem := weights_and_biases.problem()) is not None:
            raise SinkError(f"--wandb: {problem}")
