"""Growth in two workers of Ray Train: examples/grow_on_ray_train.py, uninterrupted and with a killed worker."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from cifar_files import write_cifar

pytestmark = [
    pytest.mark.ray,
    pytest.mark.nightly,
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # Ray Train's own
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "grow_on_ray_train.py"
OPTIONS = {"images": 64, "held_out": 16, "epochs": 4, "batch_size": 8, "policy": "schedule"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Few random pictures."""
    return write_cifar(tmp_path_factory.mktemp("cifar"), 80, 10)


@pytest.fixture(scope="module")
def example():
    """The example as a module whose functions travel to the workers."""
    from ray import cloudpickle

    spec = importlib.util.spec_from_file_location("grow_on_ray_train", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    del sys.modules[spec.name]


def grown_weights(example, data_dir, folder, kill_before=None):
    """Weights of the grown network, and the number of its checkpoints' starts."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    starts, loop = folder / "starts", example.worker
    starts.mkdir(parents=True)

    def worker(config):
        import ray.train

        from esper_ray.growing import GrowthSession

        rank, begin = ray.train.get_context().get_world_rank(), GrowthSession.begin_epoch
        first = not any(starts.glob(f"{rank}-*"))
        (starts / f"{rank}-{os.getpid()}").touch()

        def begin_or_die(growing):
            if first and rank == 1 and growing.epoch == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            return begin(growing)

        GrowthSession.begin_epoch = begin_or_die
        loop(config)

    config = {**OPTIONS, "data_dir": str(data_dir), "grown": str(folder / "grown.pt2")}
    TorchTrainer(
        worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="growth", storage_path=str(folder), failure_config=FailureConfig(max_failures=2)),
    ).fit()
    return torch.export.load(folder / "grown.pt2").state_dict, len(list(starts.iterdir()))


def test_a_killed_worker_resumes_to_the_same_grown_network(ray_cluster, example, data_dir, tmp_path):
    expected, starts = grown_weights(example, data_dir, tmp_path / "whole")
    assert starts == 2
    resumed, starts = grown_weights(example, data_dir, tmp_path / "killed", kill_before=2)
    assert starts == 4
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
