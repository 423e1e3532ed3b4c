"""CIFAR-10 from an imitation of its official archive: ten training and four test images."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.sources import cifar_archive
from esper_ray.tolaria.sources.cifar import find_cifar10, read_cifar10
from esper_ray.tolaria.tasks import TaskError, load_task

CPU = torch.device("cpu")
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Cache folder of the test."""
    monkeypatch.setenv("ESPER_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))


def pictures(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def batches(tmp_path, monkeypatch):
    """The folder ``cifar-10-batches-py`` in ``tmp_path``; its MD5 sums replace the official ones in torchvision."""
    unpacked = tmp_path / "cifar-10-batches-py"
    unpacked.mkdir()
    sums = {}
    labels = np.arange(10).reshape(5, 2)
    contents = {name: (pictures(2, i), labels[i].tolist()) for i, name in enumerate(BATCHES)}
    contents["test_batch"] = (pictures(4, 9), [6, 4, 2, 0])
    for name, (pixels, numbers) in contents.items():
        rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        sums[name] = save(unpacked / name, {"data": rows, "labels": numbers})
    meta = save(unpacked / "batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in BATCHES])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return tmp_path


@pytest.fixture
def archive(batches, tmp_path_factory, monkeypatch):
    """A folder with the archive only."""
    folder = tmp_path_factory.mktemp("archive")
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(batches / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return folder


def save(path, content):
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def unpickled(monkeypatch):
    """Makes every unpickling fail the test."""
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("unpickled"))


@pytest.mark.parametrize("form", ["batches", "inside", "archive"])
def test_archive_and_unpacked_batches_have_the_same_content(form, request):
    folder = request.getfixturevalue("archive" if form == "archive" else "batches")
    folder = folder / "cifar-10-batches-py" if form == "inside" else folder
    train, test = read_cifar10(folder, "train"), read_cifar10(folder, "test", 3)
    expected = np.concatenate([pictures(2, i) for i in range(5)])
    np.testing.assert_array_equal(train.images.transpose(0, 2, 3, 1), expected)
    assert train.labels.tolist() == list(range(10))
    np.testing.assert_array_equal(test.images.transpose(0, 2, 3, 1), pictures(4, 9)[:3])
    assert test.labels.tolist() == [6, 4, 2]
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)


def test_the_archive_is_unpacked_to_a_temporary_folder_that_is_removed(archive, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    data = load_task(TaskConfig(name="cifar_scale", data_dir=archive, validation_size=2, test_size=4), CPU)
    assert [len(data.train), len(data.validation), len(data.test)] == [8, 2, 4]
    assert [path.name for path in archive.iterdir()] == ["cifar-10-python.tar.gz"]
    assert not list(elsewhere.iterdir())


@pytest.mark.usefixtures("unpickled")
def test_a_batch_with_another_md5_sum_is_refused_without_unpickling(batches):
    (batches / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": "mine"}))
    with pytest.raises(ValueError, match=r"data_batch_3 is not the official file: its MD5 sum is \w{32}, must be"):
        read_cifar10(batches, "test")


@pytest.mark.usefixtures("unpickled")
def test_a_missing_batch_is_refused_by_name(batches):
    (batches / "cifar-10-batches-py" / "batches.meta").unlink()
    with pytest.raises(ValueError, match=r"batches\.meta is missing.*data_batch_1"):
        read_cifar10(batches, "train")


@pytest.mark.usefixtures("unpickled")
def test_an_archive_with_another_md5_sum_is_refused_without_opening(archive, monkeypatch):
    (archive / "cifar-10-python.tar.gz").write_bytes(b"not what was published")
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: pytest.fail("opened"))
    with pytest.raises(TaskError, match=r"cifar-10-python\.tar\.gz is not the official file.*download it again"):
        load_task(TaskConfig(name="cifar10", data_dir=archive, validation_size=2, test_size=4), CPU)


@pytest.mark.usefixtures("unpickled")
@pytest.mark.parametrize("content", [b"no archive", None], ids=["no archive", "other members"])
def test_an_archive_that_cannot_be_unpacked_is_refused_by_name(archive, monkeypatch, content):
    path = archive / "cifar-10-python.tar.gz"
    if content is None:
        tarfile.open(path, "w:gz").close()
    else:
        path.write_bytes(content)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz cannot be unpacked"):
        read_cifar10(archive, "train")


@pytest.mark.usefixtures("unpickled")
def test_a_file_larger_than_the_official_ones_is_refused_unread(archive, batches, monkeypatch):
    monkeypatch.setattr(cifar_archive, "MOST_BYTES", 1000)
    monkeypatch.setattr("torchvision.datasets.utils.calculate_md5", lambda *args: pytest.fail("read"))
    for folder, name in ((archive, "cifar-10-python.tar.gz"), (batches, "data_batch_1")):
        with pytest.raises(
            ValueError, match=rf"{name} is not the official file: it has \d+ bytes, at most 1000 are read"
        ):
            find_cifar10(folder)


@pytest.mark.usefixtures("unpickled")
def test_links_in_an_archive_are_refused(archive, monkeypatch, tmp_path):
    path = archive / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in (*BATCHES, "test_batch", "batches.meta"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="cannot be unpacked"):
        read_cifar10(archive, "train")


def test_labels_of_batches_are_checked(batches, monkeypatch):
    rows = np.zeros((1, 3072), dtype=np.uint8)
    md5 = save(batches / "cifar-10-batches-py" / "test_batch", {"data": rows, "labels": [11]})
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5]])
    with pytest.raises(ValueError, match=r"test image 0: labels must lie in 0\.\.9, got 11"):
        read_cifar10(batches, "test")


def test_parquet_is_preferred_to_the_folder_and_the_folder_to_the_archive(archive, batches):
    (archive / "cifar-10-python.tar.gz").rename(batches / "cifar-10-python.tar.gz")
    for name in ("train-1.parquet", "train-0.parquet", "test.parquet"):
        (batches / name).touch()
    files = find_cifar10(batches)
    assert {part: path.name for part, path in files.items()} == {
        "train/0": "train-0.parquet",
        "train/1": "train-1.parquet",
        "test/0": "test.parquet",
    }
    for path in files.values():
        path.unlink()
    assert sorted(find_cifar10(batches)) == ["batches.meta", *BATCHES, "test_batch"]
    (batches / "cifar-10-batches-py").rename(batches / "away")
    assert list(find_cifar10(batches)) == ["archive"]


def test_the_md5_sums_are_those_of_the_published_files():
    assert cifar_archive._sums() == {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }
    assert CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a"
