"""Fixtures and settings that all tests share."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from actors.settings import choose_ray_settings
from esper_ray.leyline.config import RunConfig
from esper_ray.leyline.loading import build, read_preset

choose_ray_settings()  # before any test module imports Ray, which reads them once
torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # how fast this machine is just now is no property of the code
settings.load_profile("untimed")

TINY = {
    "episode_length": 5,
    "training.steps_per_epoch": 2,
    "policy.memory_size": 16,
    "policy.feature_size": 16,
    "ppo.rounds": 2,
    "ppo.epochs": 2,
    "system.envs": 3,
    "system.envs_per_actor": 2,
}
"""Overrides that make the digits preset a matter of seconds."""


@pytest.fixture(scope="session")
def tiny_config() -> RunConfig:
    """The digits preset, very small."""
    return build(read_preset("digits"), TINY)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster with two CPUs for all tests that need Ray, started on first use."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped, with the reason, where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
