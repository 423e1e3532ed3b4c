"""esper-ray: morphogenetic neural networks, trained on Ray.

Networks that grow, blend in, keep or prune seed modules while they train, under a policy that is
itself trained by PPO. The packages, from the contracts upwards:

- ``leyline``: stages, actions, legality, observation layout, records, run configuration
- ``kasmina``: the growing network
- ``tolaria``: tasks, data, epoch training, measurement, governor
- ``simic``: rewards, attribution, PPO mathematics
- ``nissa``: run directories, event log, metrics, dashboards
- ``karn``: what an operator looks at: console and reports
- ``environment``: ``MorphogenesisEnv``, the Gymnasium environment made of the above

The public face: :func:`train` a policy, :func:`load_preset` and :func:`load_config`, :func:`grow` a model of one's own
under a policy, or by hand with :class:`MorphogeneticModel` and :class:`GrowingOptimizer`.

None of them imports Ray; ``esper_actors`` does. Importing this package registers the environment
``esper_ray/Morphogenesis-v0`` with Gymnasium, except in the process of the command ``esper``: it makes
no environment by name, and must answer before Gymnasium is imported.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = [
    "GateRules",
    "GrowingOptimizer",
    "GrowthSession",
    "MorphogeneticModel",
    "Rules",
    "__version__",
    "grow",
    "load_config",
    "load_preset",
    "train",
]
__version__ = "0.1.0"

_HOMES = {
    "GateRules": "esper_ray.kasmina.lifecycle.gates",
    "GrowingOptimizer": "esper_ray.kasmina.optimizer",
    "GrowthSession": "esper_ray.growing.session",
    "MorphogeneticModel": "esper_ray.kasmina.model",
    "Rules": "esper_ray.kasmina.lifecycle.reducer",
    "grow": "esper_ray.growing.setup",
    "load_config": "esper_ray.leyline.config.layers",
    "load_preset": "esper_ray.leyline.config.layers",
    "train": "esper_actors.session",
}
"""The public names and where they live; each is imported when it is first used. ``__init__.pyi`` has their types."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def _is_command_line() -> bool:
    """Whether this process is the command ``esper``, installed or as ``python -m esper_ray``."""
    program = sys.argv[0] if sys.argv else ""  # "-m" while the module to run is still being located
    if program == "-m" and "-m" in sys.orig_argv[:-1]:
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
        return module == "esper_ray" or module.startswith("esper_ray.cli.")
    return Path(program).name in {"esper", "esper.exe"}


if not _is_command_line():
    from esper_ray.registration import register

    register()
