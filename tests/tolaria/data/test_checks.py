"""Data sets of other packages: every example is checked before it is used."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria import tasks
from esper_ray.tolaria.data import Dataset, image_dataset, split_dataset
from esper_ray.tolaria.data.checks import CHUNK, check_dataset
from esper_ray.tolaria.tasks import TaskError, load_task, register_task

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Pairs(Dataset[torch.Tensor]):
    """Splits of row numbers into two tensors."""

    inputs: torch.Tensor
    targets: torch.Tensor
    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    classes: int = 3

    @property
    def device(self):
        return CPU

    @property
    def example_shape(self):
        return (4,)

    def contents(self):
        return (self.inputs, self.targets)

    def prepared(self, split, start, stop):
        rows = split[start:stop]
        return self.inputs[rows], self.targets[rows]

    def training_batch(self, rows, draws):
        return self.inputs[self.train[rows]], self.targets[self.train[rows]]

    def draw(self, generator, steps, batch_size):
        return torch.empty((steps, batch_size, 0), dtype=torch.int64)


def pairs(rows=CHUNK + 30):
    order = torch.arange(rows)
    return Pairs(torch.zeros(rows, 4), order % 3, order[: rows - 20], order[rows - 20 : rows - 10], order[rows - 10 :])


def test_valid_examples_pass():
    check_dataset(pairs())
    check_dataset(replace(pairs(), inputs=torch.zeros(CHUNK + 30, 4, dtype=torch.int64)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("row", "place"), [(CHUNK + 2, "training examples 1024 .*row 2"), (-1, "test")])
def test_inputs_that_are_not_finite_are_refused_with_their_place(value, row, place):
    data = pairs()
    data.inputs[row, 1] = value
    with pytest.raises(ValueError, match=rf"{place}") as error:
        check_dataset(data)
    assert f"inputs must be finite, got {value}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"targets": torch.full((CHUNK + 30,), 3)},
            r"examples 0 to 1023: targets must lie in 0\.\.2, got 3\.\.3",
        ),
        ({"targets": torch.full((CHUNK + 30,), -1)}, r"targets must lie in 0\.\.2, got -1\.\.-1"),
        ({"targets": torch.zeros(CHUNK + 30)}, "targets must be int64, got torch.float32"),
        ({"targets": torch.full((CHUNK + 30,), float("nan"))}, "targets must be int64"),
        (
            {"inputs": torch.zeros(CHUNK + 30, 5)},
            r"shape \(1024, 4\), got torch.float32 of shape \(1024, 5\)",
        ),
        (
            {"inputs": torch.zeros(CHUNK + 30, 4, dtype=torch.complex64)},
            "must be real numbers, got torch.complex64",
        ),
        ({"test": torch.arange(0)}, "the test split is empty; it needs at least one example"),
        ({"validation": torch.arange(0)}, "the validation split is empty"),
        ({"classes": 1}, r"classes must be a whole number in 2\.\.1048576, got 1"),
        ({"classes": 3.0}, "got 3.0"),
        ({"classes": 10**12}, "got 1000000000000"),
    ],
)
def test_invalid_data_sets_are_refused_with_value_and_constraint(change, words):
    with pytest.raises(ValueError, match=words):
        check_dataset(replace(pairs(), **change))


def test_outputs_that_are_no_tensors_are_refused(monkeypatch):
    monkeypatch.setattr(Pairs, "prepared", lambda self, split, start, stop: ([1], [2]))
    with pytest.raises(ValueError, match=r"inputs must be a tensor of shape \(1024, 4\), got list"):
        check_dataset(pairs())


# Through the registry


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))


@pytest.mark.usefixtures("registry")
def test_examples_of_a_registered_task_are_checked():
    data = pairs()
    data.inputs[0, 0] = float("nan")
    register_task("mine", lambda config, device: data)
    with pytest.raises(TaskError, match="task 'mine': training examples 0 to 1023: inputs must be finite, got nan"):
        load_task(TaskConfig(name="mine"), CPU)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("images"), "task 'mine': its loader failed with KeyError: 'images'"),
        (TypeError("no len"), "its loader failed with TypeError: no len"),
        (MemoryError("2 TiB"), "task 'mine': the data does not fit into memory"),
    ],
)
def test_any_error_of_a_loader_is_an_error_of_its_task(error, words):
    def loader(config, device):
        raise error

    register_task("mine", loader)
    with pytest.raises(TaskError, match=words):
        load_task(TaskConfig(name="mine"), CPU)


# Arrays


IMAGES, LABELS = np.zeros((10, 3, 4, 4), dtype=np.uint8), np.arange(10) % 3


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (
            IMAGES.astype(np.float32),
            LABELS,
            r"must be uint8 of shape \(N, C, H, W\), got float32 \(10, 3, 4, 4\)",
        ),
        (IMAGES.astype(np.uint16), LABELS, "got uint16"),
        (IMAGES.astype(bool), LABELS, "got bool"),
        (IMAGES[:, 0], LABELS, r"got uint8 \(10, 4, 4\)"),
        (IMAGES[:, :0], LABELS, r"got uint8 \(10, 0, 4, 4\)"),
        (IMAGES.tolist(), LABELS, "images must be a NumPy array, got list"),
        (torch.zeros(10, 3, 4, 4), LABELS, "images must be a NumPy array, got Tensor"),
        (IMAGES, LABELS.tolist(), "labels must be a NumPy array, got list"),
        (IMAGES, LABELS[:9], r"labels must be 10 whole numbers, one for each image; got int64 \(9,\)"),
        (IMAGES, LABELS[:, None], r"got int64 \(10, 1\)"),
        (IMAGES, np.full(10, np.nan), "got float64"),
        (IMAGES, np.array(list("abcdefghij")), "got <U1"),
        (IMAGES, LABELS.astype(object), "got object"),
        (IMAGES, LABELS > 0, "got bool"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(images, labels, words):
    with pytest.raises(ValueError, match=words):
        split_dataset(images, labels, validation=2, test=2, seed=0, device=CPU)
    good = (IMAGES, LABELS)
    for pair in [((images, labels), good, good), (good, (images, labels), good), (good, good, (images, labels))]:
        with pytest.raises(ValueError, match=words):
            image_dataset(*pair, classes=3, device=CPU)


@pytest.mark.parametrize("label", [-1, 2**40])
def test_labels_that_span_no_sensible_number_of_classes_are_refused(label):
    labels = np.where(np.arange(10) == 4, label, LABELS)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1048575, got "):
        split_dataset(IMAGES, labels, validation=2, test=2, seed=0, device=CPU)
