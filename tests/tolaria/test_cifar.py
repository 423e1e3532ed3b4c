"""CIFAR-10 from Parquet: a tiny file written here, and the real ones where they are."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from esper_ray.leyline.config import TaskConfig
from esper_ray.tolaria.cifar import read_cifar10
from esper_ray.tolaria.tasks import TaskError, load_task

CPU = torch.device("cpu")
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
needs_real = pytest.mark.skipif(not (REAL / "test.parquet").is_file(), reason=f"CIFAR-10 is not in {REAL}")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def pictures(count, seed, size=32):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write(path, pixels, labels, column="img"):
    cells = [{"bytes": png(picture), "path": f"{i}.png"} for i, picture in enumerate(pixels)]
    pq.write_table(pa.table({column: cells, "label": labels}), path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", pictures(6, 1), [0, 1, 2, 3, 4, 5])
    write(tmp_path / "train-00001-of-00002.parquet", pictures(4, 2), [6, 7, 8, 9])
    write(tmp_path / "test.parquet", pictures(5, 3), [9, 7, 5, 3, 1], column="image")
    return tmp_path


def test_images_come_channels_first_in_the_order_of_the_files(folder):
    train, test = read_cifar10(folder, "train"), read_cifar10(folder, "test")
    expected = np.concatenate([pictures(6, 1), pictures(4, 2)])
    assert train.labels.tolist() == list(range(10))
    assert test.labels.tolist() == [9, 7, 5, 3, 1]
    assert train.images.dtype == np.uint8
    for row, column, channel in ((0, 5, 0), (31, 0, 1), (17, 30, 2)):
        assert (train.images[:, channel, row, column] == expected[:, row, column, channel]).all()
    np.testing.assert_array_equal(test.images.transpose(0, 2, 3, 1), pictures(5, 3))


@pytest.mark.parametrize("limit", [2, 6, 8, 10])
def test_a_limit_takes_the_first_images(folder, limit):
    part, whole = read_cifar10(folder, "train", limit), read_cifar10(folder, "train")
    np.testing.assert_array_equal(part.images, whole.images[:limit])
    np.testing.assert_array_equal(part.labels, whole.labels[:limit])


def test_missing_files_are_refused_saying_what_is_needed(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"train\*\.parquet.*test\*\.parquet.*img.*label"):
            read_cifar10(folder, "train")


def test_other_columns_are_refused_by_name(tmp_path):
    pq.write_table(pa.table({"pixels": [1], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="columns pixels, label; needs img and label"):
        read_cifar10(tmp_path, "train")


def test_images_of_another_size_are_refused_with_it(tmp_path):
    write(tmp_path / "train.parquet", pictures(1, 0, size=16), [0])
    with pytest.raises(ValueError, match="16x16"):
        read_cifar10(tmp_path, "train")


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_outside_the_ten_classes_are_refused(tmp_path, label):
    write(tmp_path / "train.parquet", pictures(2, 0), [3, label])
    with pytest.raises(ValueError, match=rf"0\.\.9, got .*{label}"):
        read_cifar10(tmp_path, "train")


def test_the_task_cuts_validation_from_the_training_files_alone(folder):
    config = TaskConfig(name="cifar10", data_dir=folder, validation_images=3, test_images=5)
    data = load_task(config, CPU)
    assert sorted(torch.cat([data.train.labels, data.validation.labels]).tolist()) == list(range(10))
    assert [len(data.train), len(data.validation), len(data.test)] == [7, 3, 5]
    assert sorted(data.test.labels.tolist()) == [1, 3, 5, 7, 9]
    assert data.classes == 10
    originals = np.concatenate([pictures(6, 1), pictures(4, 2)])
    seen = originals[data.train.labels.numpy()].astype(np.float64)  # the label of a training image is its number
    np.testing.assert_array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), seen)
    np.testing.assert_allclose(data.mean[:, 0, 0], seen.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.deviation[:, 0, 0], seen.std(axis=(0, 1, 2)), rtol=1e-6)


def test_the_task_says_how_to_give_its_folder(tmp_path):
    with pytest.raises(TaskError, match=r"cifar10.*task\.data_dir"):
        load_task(TaskConfig(name="cifar10"), CPU)
    with pytest.raises(TaskError, match=r"cifar10.*train\*\.parquet"):
        load_task(TaskConfig(name="cifar10", data_dir=tmp_path), CPU)


def test_too_many_validation_images_are_refused_with_the_numbers(folder):
    config = TaskConfig(name="cifar10", data_dir=folder, validation_images=10, test_images=1)
    with pytest.raises(TaskError, match="10 validation images leave none of 10"):
        load_task(config, CPU)


@needs_real
def test_the_first_real_images_are_the_ones_that_pillow_shows():
    train, test = read_cifar10(REAL, "train", 3), read_cifar10(REAL, "test", 3)
    assert (train.images[0].sum(), train.images[0, :, 0, 0].tolist()) == (398_869, [234, 230, 247])
    assert (test.images[0].sum(), test.images[0, :, 0, 0].tolist()) == (243_791, [58, 58, 50])


@pytest.mark.slow
@needs_real
def test_the_real_test_file_is_complete_and_balanced():
    test = read_cifar10(REAL, "test")
    assert test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    assert int(test.images[:2_000].sum()) == 748_262_917
