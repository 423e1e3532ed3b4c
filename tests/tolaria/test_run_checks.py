"""Checks of devices and memory before a run starts."""

import pytest
import torch

from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.errors import UsageError
from esper_ray.tolaria import run_checks
from esper_ray.tolaria.run_checks import check_devices, check_run, checked_device, machine_bytes

MISSING = f"cuda:{torch.cuda.device_count()}"


def digits(**changes):
    return build(read_preset("digits"), {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize("key", ["system__device", "system__devices"])
def test_a_device_that_this_machine_lacks_is_refused(key):
    value = MISSING if key == "system__device" else ["cpu", MISSING]
    with pytest.raises(UsageError, match=f"device '{MISSING}' does not exist: this machine has "):
        check_devices(digits(**{key: value}))
    check_devices(digits(**{key: value}), on_cluster=True)


@pytest.mark.parametrize("name", ["mps", "meta", "cpu:3", "cuda:", "cuda:x", "", "CPU", "x" * 1000])
def test_another_device_than_cpu_and_cuda_is_refused(name):
    with pytest.raises(UsageError, match=r"^--device '.*: it must be cpu or cuda:<index>$"):
        checked_device("--device", name)


def test_an_existing_device_is_itself_and_a_missing_one_is_refused():
    assert checked_device("--device", "cpu") == "cpu"
    with pytest.raises(UsageError, match=f"--device '{MISSING}' does not exist"):
        checked_device("--device", MISSING)


def test_more_memory_than_this_machine_has_is_refused_with_the_arithmetic(monkeypatch):
    monkeypatch.setattr(run_checks, "machine_bytes", lambda: 2**30)
    config = digits(policy__memory_size=8192, policy__feature_size=8192)
    expected = r"the run needs 9\.\d GiB, this machine has 1\.0 GiB; the policy: \(8 x policy\.memory_size 8,192 \+ "
    with pytest.raises(UsageError, match=expected):
        check_devices(config)
    check_devices(config, on_cluster=True)
    check_devices(digits())


def test_the_pixels_of_the_task_count_for_the_memory_of_a_cnn(monkeypatch):
    monkeypatch.setattr(run_checks, "machine_bytes", lambda: 2**28)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = digits(host__base_channels=512, training__batch_size=1000, host__pools=0, policy__memory_size=64)
    check_devices(config)
    with pytest.raises(UsageError, match=r"a batch of the host: training\.batch_size 1,000 x 917,504 values"):
        check_run(config)


def test_the_limit_of_a_container_bounds_the_memory(monkeypatch, tmp_path):
    limits = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(run_checks, "CGROUP_LIMITS", limits)
    physical = machine_bytes()
    for text, expected in (("max\n", physical), ("1048576\n", 2**20), (f"{2**62}\n", physical)):
        limits[0].write_text(text)
        assert machine_bytes() == expected
