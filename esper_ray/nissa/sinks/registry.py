"""The sinks that there are, by the names of their options."""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec

from esper_ray.leyline.errors import UserError
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
"""Their packages have the same names."""


class SinkError(UserError):
    """A sink that cannot be used as things are."""

    remedy = "Install the extra that the message names, or leave the option out."


def check_sinks(names: Iterable[str]) -> None:
    """See that sinks can be used, as far as that can be told before a run.

    Raises:
        SinkError: if a package is missing, or nobody is logged in; the message says what to do.
    """
    for name in names:
        if find_spec(name) is None:
            raise SinkError(
                f"--{name}: the package {name} is not installed; `uv sync --extra {name}` or "
                f"`pip install 'esper-ray[{name}]'` brings it"
            )
        if name == "wandb" and (problem := weights_and_biases.problem()) is not None:
            raise SinkError(f"--wandb: {problem}")
