"""Tasks by name: loaded once, found in installed packages, and refused with a remedy."""

import sys
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest
import torch
from plugin_builders import install_examples, write_package

from esper_ray.kasmina.hosts import CNN_VARIANTS
from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria import tasks
from esper_ray.tolaria.tasks import TaskError, check_task, find_task, load_task, register_task, task_names

CPU = torch.device("cpu")


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry for the test."""
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes a package importable and registers its entry points."""

    def make(package, module, source, **points):
        write_package(tmp_path, package, module, source, "esper_ray.tasks", points)

    monkeypatch.syspath_prepend(tmp_path)
    return make


BORROWED = """
from esper_ray.tolaria.tasks import load_task

def load(config, device):
    '''Digits under another name.

    With more words that are in no table.
    '''
    return load_task(config.model_copy(update={"name": "digits"}), device)
"""


def test_the_built_in_tasks_are_registered():
    assert set(task_names()) >= {"digits", "patterns", "text", "tinystories", "cifar10", *CNN_VARIANTS}
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
    with pytest.raises(TaskError, match=r"data directory .*file is not a folder"):
        check_task(TaskConfig(name="files", data_dir=tmp_path / "file"))


@pytest.mark.parametrize("name", ["digits", "patterns"])
def test_tasks_without_files_refuse_a_data_folder(name, tmp_path):
    with pytest.raises(TaskError, match=f"task '{name}' (carries|makes) its own data and reads none from {tmp_path}"):
        check_task(TaskConfig(name=name, data_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", r"train\*\.parquet and test\*\.parquet, or cifar-10-python\.tar\.gz"),
        ("cifar_impaired", r"train\*\.parquet"),
        ("text", r"one UTF-8 file, input\.txt or the only \*\.txt"),
        ("tinystories", r"TinyStories-train\.txt, TinyStories-valid\.txt and GPT-2's tokenizer\.json"),
    ],
)
def test_tasks_that_read_files_name_them_and_their_option(name, files):
    with pytest.raises(TaskError, match=rf"task '{name}' reads .*{files}.*task\.data_dir \(--data-dir\)"):
        load_task(TaskConfig(name=name), CPU)


def test_a_registered_loader_receives_its_configuration_and_runs_once(registry, data):
    calls = []

    def loader(config, device):
        calls.append((config, device))
        return data

    register_task("once", loader)
    wanted = TaskConfig(name="once", split_seed=3)
    assert load_task(wanted, CPU) is load_task(TaskConfig(name="once", split_seed=3), CPU) is data
    assert calls == [(wanted, CPU)]


def test_threads_share_one_copy(registry, data):
    calls = []

    def loader(config, device):
        calls.append(config)
        sleep(0.05)
        return data

    register_task("slow", loader)
    with ThreadPoolExecutor(4) as pool:
        datasets = list(pool.map(lambda _: load_task(TaskConfig(name="slow"), CPU), range(4)))
    assert datasets == [data] * 4
    assert len(calls) == 1


def test_equal_folders_by_different_paths_are_loaded_once(registry, data, tmp_path, monkeypatch):
    seen = []

    def loader(config, device):
        seen.append(config.data_dir)
        return data

    register_task("files", loader)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    load_task(TaskConfig(name="files", data_dir="here"), CPU)
    load_task(TaskConfig(name="files", data_dir=tmp_path / "here"), CPU)
    assert seen == [tmp_path / "here"]


def test_a_failed_load_is_retried(registry, data):
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


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("labels are odd"), "task 'broken': labels are odd"),
        (PermissionError(13, "Permission denied", "file"), "task 'broken': .*Permission denied.*file"),
        (torch.OutOfMemoryError("2 TiB"), r"task 'broken': the data does not fit on cpu; lower task\.train_size"),
    ],
)
def test_an_error_in_a_loader_is_reported_with_the_name_of_the_task(registry, error, message):
    def loader(config, device):
        raise error

    register_task("broken", loader)
    with pytest.raises(TaskError, match=message):
        load_task(TaskConfig(name="broken"), CPU)


def test_a_loader_without_a_dataset_is_refused(registry):
    register_task("pair", lambda config, device: (1, 2))
    with pytest.raises(TaskError, match="task 'pair': its loader must return a Dataset, got tuple"):
        load_task(TaskConfig(name="pair"), CPU)


def test_a_task_name_is_registered_once(registry):
    with pytest.raises(ValueError, match="task 'digits' is already registered"):
        register_task("digits", lambda config, device: pytest.fail("never called"))


def test_a_task_is_described_by_its_docstring_unless_given(registry):
    def loader(config, device):
        """Something to learn.

        And more.
        """

    register_task("one", loader)
    register_task("two", loader, about="Something else.")
    assert [find_task(name).about for name in ("one", "two")] == ["Something to learn.", "Something else."]


# Tasks of installed packages


def test_an_installed_package_adds_a_task(install, data):
    install("borrowed-digits", "borrowed", BORROWED, elsewhere="borrowed:load")
    assert "elsewhere" in task_names()
    assert "borrowed" not in sys.modules, "names are listed without an import"
    assert load_task(TaskConfig(name="elsewhere"), CPU) is load_task(TaskConfig(), CPU)
    assert find_task("elsewhere").about == "Digits under another name."
    with pytest.raises(TaskError, match="unknown task 'elsewher'; did you mean 'elsewhere'"):
        check_task(TaskConfig(name="elsewher"))


def test_a_package_with_a_built_in_task_name_is_refused_by_name(install):
    install("greedy", "greedy", BORROWED, digits="greedy:load")
    with pytest.raises(
        TaskError, match=r"the package greedy 1\.2 offers the task 'digits', which is already registered"
    ):
        task_names()
    with pytest.raises(TaskError, match="package greedy"):
        check_task(TaskConfig(name="something"))
    check_task(TaskConfig())  # built-in tasks still work


def test_two_packages_with_the_same_task_name_are_refused_by_name(install):
    install("first", "borrowed", BORROWED, elsewhere="borrowed:load")
    install("second", "copied", BORROWED, elsewhere="copied:load")
    with pytest.raises(TaskError, match=r"'elsewhere', which is offered by the package (first|second) 1\.2 too"):
        task_names()


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("import nothing_of_that_name", "odd:load", "cannot be imported: ModuleNotFoundError.*nothing_of_that_name"),
        ("1 / 0", "odd:load", "cannot be imported: ZeroDivisionError"),
        ("", "odd:load", "cannot be imported: AttributeError"),
        ("load = 3", "odd:load", "must be a function .*got 3"),
    ],
)
def test_a_broken_package_is_refused_by_name(install, source, value, message):
    install("odd-package", "odd", source, mine=value)
    assert "mine" in task_names()
    with pytest.raises(TaskError, match=rf"the package odd-package 1\.2 offers the task 'mine' as odd:load.*{message}"):
        check_task(TaskConfig(name="mine"))


def test_the_example_package_works(monkeypatch, tmp_path):
    install_examples(tmp_path / "site", monkeypatch, ("own_task",))
    config = TaskConfig(name="arrays", validation_size=3, test_size=2)
    with pytest.raises(TaskError, match=r"task 'arrays': reads images\.npy and labels\.npy.*--data-dir"):
        load_task(config, CPU)
    files = tmp_path / "files"
    files.mkdir()
    config = config.model_copy(update={"data_dir": files})
    with pytest.raises(TaskError, match=r"task 'arrays':.*No such file.*images\.npy"):
        load_task(config, CPU)
    np.save(files / "images.npy", np.arange(10 * 3 * 4 * 4, dtype=np.uint8).reshape(10, 3, 4, 4))
    np.save(files / "labels.npy", np.arange(10) % 5)
    data = load_task(config, CPU)
    assert [len(data.train), len(data.validation), len(data.test), data.classes] == [5, 3, 2, 5]
    assert data.example_shape == (3, 4, 4)


def test_the_table_shows_every_task_and_the_error_of_a_broken_one(install, capsys):
    from esper_ray.cli.commands.tasks import tasks as print_tasks

    install("odd-package", "odd", "1 / 0", mine="odd:load")
    print_tasks()
    printed = capsys.readouterr().out
    for name in task_names():
        assert f" {name} " in printed
    assert "ZeroDivisionError" in printed
