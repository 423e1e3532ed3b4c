"""Tasks by name: loaded once, and helpful when they cannot be had."""

import pytest
import torch

from esper_ray.leyline.config import TaskConfig
from esper_ray.tolaria import tasks
from esper_ray.tolaria.tasks import TaskError, check_task, load_task, register_task, task_names

CPU = torch.device("cpu")


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry that the test may add to."""
    monkeypatch.setattr(tasks, "_LOADERS", dict(tasks._LOADERS))


def test_digits_are_there_without_a_download():
    assert "digits" in task_names()
    check_task(TaskConfig())


@pytest.mark.parametrize("act", [check_task, lambda config: load_task(config, CPU)], ids=["check", "load"])
def test_an_unknown_task_is_refused_with_its_nearest_neighbour(act):
    with pytest.raises(TaskError, match="unknown task 'digit'; did you mean 'digits'"):
        act(TaskConfig(name="digit"))
    with pytest.raises(TaskError, match=r"unknown task 'zzz' \(known: .*digits"):
        act(TaskConfig(name="zzz"))


@pytest.mark.parametrize("act", [check_task, lambda config: load_task(config, CPU)], ids=["check", "load"])
def test_a_missing_data_folder_is_refused_with_its_path(act, registry, tmp_path):
    register_task("files", lambda config, device: pytest.fail("nothing may be loaded"))
    with pytest.raises(TaskError, match=r"data directory .*nowhere does not exist"):
        act(TaskConfig(name="files", data_dir=tmp_path / "nowhere"))


def test_a_file_is_no_data_folder(registry, tmp_path):
    register_task("files", lambda config, device: pytest.fail("nothing may be loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(TaskError, match="does not exist"):
        check_task(TaskConfig(name="files", data_dir=tmp_path / "file"))


def test_digits_refuse_a_data_folder_that_they_would_ignore(tmp_path):
    with pytest.raises(TaskError, match="carries its own data"):
        check_task(TaskConfig(data_dir=tmp_path))


def test_a_registered_loader_gets_its_configuration_and_runs_once(registry, data):
    calls = []

    def loader(config, device):
        calls.append((config, device))
        return data

    register_task("once", loader)
    wanted = TaskConfig(name="once", split_seed=3)
    assert load_task(wanted, CPU) is load_task(TaskConfig(name="once", split_seed=3), CPU) is data
    assert calls == [(wanted, CPU)]


def test_a_loader_that_fails_is_asked_again(registry, data):
    results = iter([TaskError("not yet"), data])

    def loader(config, device):
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    register_task("flaky", loader)
    with pytest.raises(TaskError, match="not yet"):
        load_task(TaskConfig(name="flaky"), CPU)
    assert load_task(TaskConfig(name="flaky"), CPU) is data


def test_a_task_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="task 'digits' is already registered"):
        register_task("digits", lambda config, device: pytest.fail("never called"))
