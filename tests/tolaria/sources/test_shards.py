"""Names of Parquet files: found where downloads place them, complete, and never read twice."""

import pytest

from esper_ray.tolaria.sources.cifar import find_cifar10
from esper_ray.tolaria.sources.shards import split_files


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet"],
        ["train-00000-of-00001.parquet"],
        ["train-00000-of-00002-0123456789abcdef.parquet", "train-00001-of-00002-fedcba9876543210.parquet"],
        ["train-0.parquet", "train-1.parquet", "train-2.parquet"],
        ["train_1.parquet", "train_2.parquet"],
        ["train/0000.parquet", "train/0001.parquet"],
        ["train/train-00000-of-00001.parquet"],
        ["train/train.parquet"],
    ],
)
def test_complete_sets_are_found_in_order(tmp_path, names):
    make(tmp_path, *reversed(names), "test.parquet", "README.md")
    assert split_files(tmp_path, "train") == [tmp_path / name for name in names]


def test_shards_are_ordered_by_number(tmp_path):
    make(tmp_path, *(f"train-{i}.parquet" for i in range(12)))
    assert [path.name for path in split_files(tmp_path, "train")] == [f"train-{i}.parquet" for i in range(12)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["train-00000-of-00003.parquet"],
            "2 of 3 shards are missing in .*: train-00001-of-00003.parquet, t",
        ),
        (["train-00001-of-00002.parquet"], "1 of 2 shards are missing .*train-00000-of-00002.parquet; complete the"),
        (["train-00000-of-99999.parquet"], r"99998 of 99999 shards .*00003-of-99999\.parquet, \.\.\.; complete"),
        (["train-0.parquet", "train-2.parquet"], "numbered files are missing in .*train-0.parquet, train-2.parquet"),
        (["train-2.parquet"], "numbered files are missing"),
        (["train/0001.parquet", "train/0003.parquet"], "numbered files are missing"),
    ],
)
def test_missing_shards_are_refused_by_name(tmp_path, names, words):
    with pytest.raises(FileNotFoundError, match=words):
        split_files(make(tmp_path, *names), "train")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["train.parquet", "train-00000-of-00001.parquet"],
            "data would be read twice; keep train.parquet or",
        ),
        (["train.parquet", "train-0.parquet"], "data would be read twice"),
        (["train.parquet", "train (1).parquet"], "data would be read twice"),
        (["train.parquet", "train/0000.parquet"], "holds train.parquet and train/0000.parquet; keep one of them"),
        (
            ["train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
            "shards of different sets: .*keep those of one",
        ),
        (
            ["train-00000-of-00001-aaaa.parquet", "train-00000-of-00001-bbbb.parquet"],
            "shards of different sets",
        ),
        (
            ["train-00000-of-00001.parquet", "train-00000-of-00001 (1).parquet"],
            "is not a shard like train-00000-of-00002",
        ),
        (["train-00000-of-00001.parquet", "train-0.parquet"], "is not a shard like"),
        (["train-00000-of-00001.parquet", "training.parquet"], "training.parquet is not a shard like"),
        (["train-00000-of-00001.parquet", "train-00005-of-00001.parquet"], "holds 2 shards of 1"),
        (["train-00000-of-00000.parquet"], "holds 1 shards of 0"),
        (["train-1.parquet", "train-01.parquet"], "with the same number; keep one"),
        (["train_backup.parquet"], "an unknown name; Parquet files are train.parquet, train-00000-of-00002.parquet"),
        (["train/all.parquet"], "an unknown name"),
    ],
)
def test_sets_that_exclude_each_other_are_refused_by_name(tmp_path, names, words):
    with pytest.raises(ValueError, match=words):
        split_files(make(tmp_path, *names), "train")


def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path):
    (tmp_path / "train.parquet").mkdir()
    with pytest.raises(ValueError, match=r"train\.parquet is not a file"):
        split_files(tmp_path, "train")


# Layouts of downloads


@pytest.mark.parametrize(
    "names",
    [
        ["plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"],
        ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
        ["train/0000.parquet", "test/0000.parquet"],
        ["plain_text/train/0000.parquet", "plain_text/test/0000.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["train.parquet", "test/0000.parquet"],
    ],
)
def test_the_layouts_of_downloads_are_found(tmp_path, names):
    make(tmp_path, *names, ".cache/huggingface/download/train-00000-of-00001.parquet.metadata", "README.md")
    assert find_cifar10(tmp_path) == {"train/0": tmp_path / names[0], "test/0": tmp_path / names[1]}


def test_two_folders_with_data_are_refused_with_their_names(tmp_path):
    make(tmp_path, "plain_text/train-00000-of-00001.parquet", "data/test.parquet")
    with pytest.raises(FileNotFoundError, match=r"holds 2 folders with Parquet files \(.*data, .*plain_text\)"):
        find_cifar10(tmp_path)


def test_deeper_files_are_named_in_the_message(tmp_path):
    make(tmp_path, "snapshots/abc/plain_text/train-00000-of-00001.parquet")
    with pytest.raises(FileNotFoundError, match=r"there are Parquet files in .*abc/plain_text \(train-00000-of-00001"):
        find_cifar10(tmp_path)
    make(tmp_path / "other", "train/partial/0000.parquet", "validation.parquet")
    with pytest.raises(FileNotFoundError, match=r"other \(validation\.parquet\), .*partial \(0000\.parquet\)"):
        find_cifar10(tmp_path / "other")


def test_the_folders_of_converted_files_are_named_in_the_message(tmp_path):
    place = "refs/convert/parquet/plain_text"
    make(tmp_path, f"{place}/train/0000.parquet", f"{place}/test/0000.parquet")
    with pytest.raises(FileNotFoundError) as refusal:
        find_cifar10(tmp_path)
    assert str(refusal.value).endswith(
        f"; there are Parquet files in {tmp_path}/{place}/test (0000.parquet), {tmp_path}/{place}/train (0000.parquet)"
    )


def test_a_split_that_is_missing_in_a_download_is_refused_by_name(tmp_path):
    make(tmp_path, "plain_text/train-00000-of-00001.parquet")
    with pytest.raises(FileNotFoundError, match=r"no test\*\.parquet in .*plain_text"):
        find_cifar10(tmp_path)


def test_an_archive_is_preferred_to_files_in_deeper_folders(tmp_path):
    make(tmp_path, "cifar-10-python.tar.gz", "plain_text/train.parquet", "plain_text/test.parquet")
    assert list(find_cifar10(tmp_path)) == ["archive"]
