"""CIFAR-10 from Parquet: synthetic files, and the real ones if present."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.sources.cifar import load_cifar10, read_cifar10
from esper_ray.tolaria.tasks import TaskError, check_task, load_task

CPU = torch.device("cpu")
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"
needs_real = pytest.mark.skipif(not (REAL / "test.parquet").is_file(), reason=f"CIFAR-10 is not in {REAL}")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Cache folder of the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ESPER_RAY_CACHE", str(folder))
    return folder


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


def test_images_are_channels_first_in_the_order_of_the_files(folder):
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


def test_a_limit_below_one_is_refused(folder):
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        read_cifar10(folder, "train", 0)


def test_missing_files_are_refused_with_the_expected_names(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"train\*\.parquet.*test\*\.parquet.*img.*label.*cifar-10-python"):
            read_cifar10(folder, "train")


@pytest.mark.parametrize(("present", "missing"), [("train", "test"), ("test", "train")])
def test_a_missing_split_is_refused(tmp_path, present, missing):
    write(tmp_path / f"{present}.parquet", pictures(1, 0), [0])
    with pytest.raises(FileNotFoundError, match=rf"no {missing}\*\.parquet"):
        read_cifar10(tmp_path, present)


def read_broken(tmp_path, content):
    """Error message of reading a train file with ``content``: bytes, or columns."""
    write(tmp_path / "test.parquet", pictures(1, 0), [0])
    if isinstance(content, bytes):
        (tmp_path / "train.parquet").write_bytes(content)
    else:
        pq.write_table(pa.table(content), tmp_path / "train.parquet")
    with pytest.raises(ValueError) as refusal:
        read_cifar10(tmp_path, "train")
    assert str(tmp_path) in str(refusal.value)
    return str(refusal.value)


def cells(count=1, seed=0, size=32):
    return [{"bytes": png(picture)} for picture in pictures(count, seed, size)]


def test_a_file_of_another_format_is_refused_by_name(tmp_path):
    assert "train.parquet is not a Parquet file that can be read" in read_broken(tmp_path, b"PAR1 and nothing else")
    assert "train.parquet is not a Parquet file that can be read" in read_broken(tmp_path, b"")


def test_a_truncated_or_overwritten_parquet_file_is_refused_by_name(tmp_path):
    write(tmp_path / "whole.parquet", pictures(3, 0), [0, 1, 2])
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert "is not a Parquet file that can be read" in read_broken(tmp_path, whole[: len(whole) // 2])
    assert "is not a Parquet file that can be read" in read_broken(tmp_path, whole[:4] + b"\xff" * 400 + whole[404:])


def test_other_columns_are_refused_by_name(tmp_path):
    assert "has the columns pixels, label; needs img and label" in read_broken(tmp_path, {"pixels": [1], "label": [0]})


def test_images_of_another_size_are_refused_with_size_and_row(tmp_path):
    mixed = [*cells(2), *cells(1, size=16)]
    assert "row 2: an image of 16x16 pixels; must have 32x32" in read_broken(
        tmp_path, {"img": mixed, "label": [0, 1, 2]}
    )


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "no picture, got null"),
        ({"bytes": None}, "no picture, got null"),
        ({"bytes": b"no picture"}, "a picture that cannot be read: not a PNG or JPEG file, it begins with b'no pictu'"),
        ({"bytes": b""}, "a picture that cannot be read"),
        ({"bytes": b"\x89PNG\r\n\x1a\n"}, "a picture that cannot be read"),
    ],
    ids=["null", "null bytes", "no picture", "empty", "cut"],
)
def test_cells_without_a_picture_are_refused_with_their_row(tmp_path, cell, words):
    column = pa.array([*cells(1), cell], pa.struct([("bytes", pa.binary())]))
    assert f"train.parquet, row 1: {words}" in read_broken(tmp_path, {"img": column, "label": [0, 1]})


def test_a_truncated_picture_is_refused_with_its_row(tmp_path):
    whole = cells(1)[0]["bytes"]
    message = read_broken(tmp_path, {"img": [{"bytes": whole[: len(whole) // 2]}], "label": [0]})
    assert "train.parquet, row 0: a picture that cannot be read" in message


def test_pictures_must_be_structs(tmp_path):
    message = read_broken(tmp_path, {"img": [cells()[0]["bytes"]], "label": [0]})
    assert "train.parquet: img must be a struct with the bytes (binary) of a picture file, got binary" in message


@pytest.mark.parametrize(("label", "shown"), [(-1, "-1"), (10, "10"), (2**63, str(2**63)), (None, "null")])
def test_labels_outside_the_ten_classes_are_refused_with_their_row(tmp_path, label, shown):
    kind = pa.uint64() if label == 2**63 else pa.int64()
    message = read_broken(tmp_path, {"img": cells(2), "label": pa.array([3, label], kind)})
    assert f"train.parquet, row 1: labels must lie in 0..9, got {shown}" in message


def test_labels_must_be_integers(tmp_path):
    assert "labels must be integers, got string" in read_broken(tmp_path, {"img": cells(), "label": ["cat"]})
    assert "labels must be integers, got double" in read_broken(tmp_path, {"img": cells(), "label": [1.0]})


def test_files_without_rows_are_refused(tmp_path):
    empty = pa.table({"img": pa.array([], pa.struct([("bytes", pa.binary())])), "label": pa.array([], pa.int64())})
    write(tmp_path / "train.parquet", pictures(2, 0), [0, 1])
    pq.write_table(empty, tmp_path / "test.parquet")
    with pytest.raises(TaskError, match=r"the test files in .* hold no images; they need at least one row"):
        load_task(TaskConfig(name="cifar10", data_dir=tmp_path, validation_size=1, test_size=1), CPU)


def test_sixteen_bit_pictures_are_scaled_not_clipped(tmp_path):
    grey = pictures(4, 0)[:, :, :, 0]
    for split in ("train", "test"):
        wide = [{"bytes": png(x.astype(np.uint16) * 257)} for x in grey]
        pq.write_table(pa.table({"img": wide, "label": [0, 1, 2, 3]}), tmp_path / f"{split}.parquet")
    read = read_cifar10(tmp_path, "train").images
    for channel in range(3):
        np.testing.assert_array_equal(read[:, channel], grey)


def small(folder, **others):
    return TaskConfig(name="cifar10", data_dir=folder, **{"validation_size": 3, "test_size": 5, **others})


def test_a_backup_beside_a_shard_is_refused(folder):
    (folder / "train.parquet").write_bytes((folder / "train-00000-of-00002.parquet").read_bytes())
    with pytest.raises(TaskError, match=r"train\.parquet.*data would be read twice"):
        load_task(small(folder), CPU)


def test_a_missing_shard_is_refused_by_name(folder):
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(TaskError, match=r"1 of 2 shards are missing .*train-00001-of-00002\.parquet"):
        check_task(small(folder))


@pytest.mark.parametrize(
    ("source", "copy"),
    [("train-00000-of-00002", "train-00001-of-00002"), ("train-00000-of-00002", "test")],
    ids=["shard", "split"],
)
def test_files_with_the_same_content_are_refused_by_name(folder, source, copy):
    (folder / f"{copy}.parquet").write_bytes((folder / f"{source}.parquet").read_bytes())
    with pytest.raises(TaskError, match=rf"{source}\.parquet and .*{copy}\.parquet have the same content"):
        load_task(small(folder), CPU)


def test_test_images_among_the_training_images_are_refused_with_their_number(folder, cache):
    write(folder / "test.parquet", np.concatenate([pictures(6, 1)[3:5], pictures(5, 3)]), [0] * 7)
    with pytest.raises(TaskError, match=r"2 of 7 test images are training images too; at most 1% may be"):
        load_task(small(folder), CPU)
    assert not list(cache.iterdir())


def contents(split):
    return {image.numpy().tobytes() for image in split.images}


def save_again(path, pixels, labels):
    """Write the same pictures as other files: other bytes of the PNG files."""
    cells = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
        cells.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"img": cells, "label": labels}), path)


@pytest.mark.parametrize("copies", ["encoded again", "in reverse", "in one file"])
@pytest.mark.parametrize("split_seed", [0, 1, 2])
def test_equal_training_images_are_on_one_side_of_the_split(tmp_path, copies, split_seed):
    pixels, labels = pictures(60, 1), [row % 10 for row in range(60)]
    if copies == "in one file":
        write(tmp_path / "train.parquet", np.concatenate([pixels, pixels]), labels * 2)
    else:
        write(tmp_path / "train-0.parquet", pixels, labels)
        if copies == "in reverse":
            write(tmp_path / "train-1.parquet", pixels[::-1], labels[::-1])
        else:
            save_again(tmp_path / "train-1.parquet", pixels, labels)
    write(tmp_path / "test.parquet", pictures(5, 3), [0] * 5)
    splits = []
    for _ in ("decoded", "cached"):
        with pytest.warns(RuntimeWarning, match="60 of 120 training images are copies of others"):
            data = load_cifar10(small(tmp_path, validation_size=30, split_seed=split_seed), CPU)
        assert [len(data.train), len(data.validation)] == [90, 30]
        assert [len(contents(data.train)), len(contents(data.validation))] == [45, 15]
        assert not contents(data.train) & contents(data.validation)
        splits.append(data)
    assert torch.equal(splits[0].train.images, splits[1].train.images)
    assert torch.equal(splits[0].validation.images, splits[1].validation.images)


def test_an_odd_split_of_doubled_images_is_refused_with_the_numbers(tmp_path):
    write(tmp_path / "train.parquet", np.concatenate([pictures(10, 1)] * 2), [0] * 20)
    write(tmp_path / "test.parquet", pictures(5, 3), [0] * 5)
    message = "add up to a split of 3 images: the smallest has 2, the largest 2"
    with pytest.warns(RuntimeWarning), pytest.raises(TaskError, match=message):
        load_task(small(tmp_path), CPU)


def test_a_folder_name_like_a_partition_adds_no_column(tmp_path):
    folder = tmp_path / "label=3"
    folder.mkdir()
    write(folder / "train.parquet", pictures(2, 1), [0, 1])
    write(folder / "test.parquet", pictures(1, 3), [2])
    assert read_cifar10(folder, "train").labels.tolist() == [0, 1]


def test_the_layout_of_a_download_is_loaded(tmp_path):
    inner = tmp_path / "plain_text"
    inner.mkdir()
    write(inner / "train-00000-of-00001.parquet", pictures(10, 1), list(range(10)))
    write(inner / "test-00000-of-00001.parquet", pictures(5, 3), [0] * 5)
    data = load_task(small(tmp_path), CPU)
    assert [len(data.train), len(data.validation), len(data.test)] == [7, 3, 5]


# The task


def test_the_validation_split_is_part_of_the_training_files(folder):
    config = TaskConfig(name="cifar10", data_dir=folder, validation_size=3, test_size=5)
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


def test_a_missing_data_folder_is_refused_with_its_option(tmp_path):
    with pytest.raises(TaskError, match=r"cifar10.*task\.data_dir"):
        load_task(TaskConfig(name="cifar10"), CPU)
    with pytest.raises(TaskError, match=r"cifar10.*train\*\.parquet"):
        load_task(TaskConfig(name="cifar10", data_dir=tmp_path), CPU)


def test_too_many_validation_images_are_refused_with_the_numbers(folder):
    config = TaskConfig(name="cifar10", data_dir=folder, validation_size=10, test_size=1)
    with pytest.raises(TaskError, match="10 validation images leave none of 10"):
        load_task(config, CPU)


def test_sizes_above_the_number_of_images_are_refused_with_the_numbers(folder):
    for sizes, message in [
        ({"validation_size": 3, "test_size": 6}, "task.test_size is 6, but the test files hold 5"),
        ({"validation_size": 3, "test_size": 5, "train_size": 8}, "8 training and 3 validation images exceed the 10"),
    ]:
        with pytest.raises(TaskError, match=message):
            load_task(TaskConfig(name="cifar10", data_dir=folder, **sizes), CPU)


def test_sizes_limit_the_splits_without_reshuffling(folder):
    whole = load_task(TaskConfig(name="cifar10", data_dir=folder, validation_size=3, test_size=5), CPU)
    part = load_task(TaskConfig(name="cifar10", data_dir=folder, validation_size=3, test_size=2, train_size=4), CPU)
    assert part.train.labels.tolist() == whole.train.labels[:4].tolist()
    assert part.validation.labels.tolist() == whole.validation.labels.tolist()
    assert part.test.labels.tolist() == [9, 7]
    seen = np.concatenate([pictures(6, 1), pictures(4, 2)])[part.train.labels.numpy()].astype(np.float64)
    np.testing.assert_allclose(part.mean[:, 0, 0], seen.mean(axis=(0, 1, 2)), rtol=1e-6)


def test_tasks_of_all_hosts_share_one_copy_of_the_images(folder):
    sizes = {"data_dir": folder, "validation_size": 3, "test_size": 5}
    first = load_task(TaskConfig(name="cifar_baseline", **sizes), CPU)
    assert load_task(TaskConfig(name="cifar_scale", **sizes), CPU) is first
    assert load_task(TaskConfig(name="cifar10", **sizes), CPU) is first
    assert load_task(TaskConfig(name="cifar10", **sizes | {"validation_size": 4}), CPU) is not first


def test_the_task_passes_augmentation_to_the_dataset(folder):
    sizes = {"data_dir": folder, "validation_size": 3, "test_size": 5}
    assert load_task(TaskConfig(name="cifar10", augment=True, **sizes), CPU).windows is not None
    assert load_task(TaskConfig(name="cifar10", **sizes), CPU).windows is None


def test_all_sizes_share_one_cache_entry(folder, cache, monkeypatch):
    for size in (1, 2, 3):
        load_task(TaskConfig(name="cifar10", data_dir=folder, validation_size=size, test_size=5), CPU)
        monkeypatch.setattr(Image, "open", lambda *args: pytest.fail("decoded again"))
    assert len(list(cache.iterdir())) == 1


def test_changed_files_are_decoded_again(folder):
    config = TaskConfig(name="cifar10", data_dir=folder, validation_size=3, test_size=5)
    load_task(config, CPU)
    write(folder / "test.parquet", pictures(5, 4), [0, 0, 0, 0, 0])
    changed = load_task(config.model_copy(update={"split_seed": 1}), CPU)
    assert changed.test.labels.tolist() == [0, 0, 0, 0, 0]


def test_a_damaged_cache_is_replaced_with_a_warning(folder, cache):
    config = TaskConfig(name="cifar10", data_dir=folder, validation_size=3, test_size=5)
    first = load_task(config, CPU)
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match="is damaged"):
        restored = load_task(config.model_copy(update={"train_size": 7}), CPU)
    assert torch.equal(first.train.images, restored.train.images)


def test_an_unwritable_cache_is_refused_with_its_path(folder, tmp_path):
    (tmp_path / "file").touch()
    config = TaskConfig(
        name="cifar10", data_dir=folder, validation_size=3, test_size=5, cache_dir=tmp_path / "file" / "cache"
    )
    with pytest.raises(TaskError, match=r"file/cache \(task\.cache_dir\) cannot be written"):
        load_task(config, CPU)


def test_the_check_finds_missing_files_without_loading(tmp_path):
    with pytest.raises(TaskError, match=r"cifar_scale.*no CIFAR-10 in"):
        check_task(TaskConfig(name="cifar_scale", data_dir=tmp_path))


@needs_real
def test_the_first_real_images_equal_those_of_pillow():
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
