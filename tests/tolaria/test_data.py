"""Splits and batches: nothing leaks, nothing is lost, everything is a pure function of its seed."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.config import TaskConfig
from esper_ray.tolaria.data import epoch_batches, split_dataset
from esper_ray.tolaria.tasks import load_task

CPU = torch.device("cpu")


def numbered(total):
    """Images that carry their own number in two pixels, and labels that follow from it."""
    numbers = np.arange(total)
    images = np.zeros((total, 1, 2, 2), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    return images, (numbers % 7).astype(np.int64)


def numbers_of(split):
    pixels = split.images[:, 0, 0, :].to(torch.int64)
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def three(dataset):
    return (dataset.train, dataset.validation, dataset.test)


@settings(max_examples=40)
@given(total=st.integers(3, 400), seed=st.integers(0, 2**31), draw=st.data())
def test_splits_are_disjoint_and_exhaustive_and_labels_stay_with_their_images(total, seed, draw):
    validation = draw.draw(st.integers(1, total - 2))
    test = draw.draw(st.integers(1, total - 1 - validation))
    images, labels = numbered(total)
    dataset = split_dataset(images, labels, validation=validation, test=test, seed=seed, device=CPU)
    assert [len(split) for split in three(dataset)] == [total - validation - test, validation, test]
    rows = [number for split in three(dataset) for number in numbers_of(split)]
    assert sorted(rows) == list(range(total))
    for split in three(dataset):
        assert split.labels.tolist() == [number % 7 for number in numbers_of(split)]


def test_digits_are_split_without_losing_or_repeating_an_image(data):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    originals = Counter(
        (image.astype(np.uint8).tobytes(), int(label)) for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    rows = Counter(
        (image.numpy().tobytes(), int(label))
        for split in three(data)
        for image, label in zip(split.images, split.labels, strict=True)
    )
    assert rows == originals
    assert [len(split) for split in three(data)] == [1097, 400, 300]
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert (data.classes, data.channels) == (10, 1)
    assert data.random_guess_loss == pytest.approx(2.302585092994046)


def test_the_same_split_seed_gives_the_same_split_and_another_one_another():
    images, labels = numbered(300)
    first, again, other = (
        split_dataset(images, labels, validation=50, test=40, seed=seed, device=CPU) for seed in (5, 5, 6)
    )
    for one, two, three_ in zip(three(first), three(again), three(other), strict=True):
        assert numbers_of(one) == numbers_of(two)
        assert sorted(numbers_of(one)) != sorted(numbers_of(three_))


def test_images_are_kept_as_bytes_and_labels_as_integers(data):
    for split in three(data):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()


def test_normalisation_knows_the_training_images_only():
    images = np.random.default_rng(0).integers(0, 200, (60, 3, 4, 4)).astype(np.uint8)
    images[:, 2] = 77  # a channel without spread must not divide by zero
    labels = np.zeros(60, dtype=np.int64)
    dataset = split_dataset(images, labels, validation=20, test=20, seed=1, device=CPU)
    seen = dataset.train.images.numpy().astype(np.float64)
    np.testing.assert_allclose(dataset.mean[:, 0, 0], seen.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dataset.deviation[:2, 0, 0], seen.std(axis=(0, 2, 3))[:2], rtol=1e-6)
    assert abs(dataset.mean[0].item() - images[:, 0].mean()) > 1e-3
    normal = dataset.normalised(dataset.train.images)
    assert normal.dtype == torch.float32
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        normal.std(dim=(0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0
    )
    assert dataset.train.images.dtype == torch.uint8  # normalising does not write into the data


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [(30, 20, "30 validation and 20 test images leave none of 50"), (60, 1, "60 validation and 1 test images")],
)
def test_a_split_without_training_images_is_refused_with_the_numbers(validation, test, message):
    images, labels = numbered(50)
    with pytest.raises(ValueError, match=message):
        split_dataset(images, labels, validation=validation, test=test, seed=0, device=CPU)


def test_images_and_labels_that_do_not_fit_are_refused():
    images, labels = numbered(50)
    with pytest.raises(ValueError, match=r"one label each, got \(50, 1, 2, 2\) and \(49,\)"):
        split_dataset(images, labels[1:], validation=5, test=5, seed=0, device=CPU)
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\)"):
        split_dataset(images[:, 0], labels, validation=5, test=5, seed=0, device=CPU)
    with pytest.raises(ValueError, match="labels must be >= 0, got -1"):
        split_dataset(images, labels - 1, validation=5, test=5, seed=0, device=CPU)


def test_a_process_holds_one_copy_of_a_data_set():
    assert load_task(TaskConfig(), CPU) is load_task(TaskConfig(), torch.device("cpu"))
    assert load_task(TaskConfig(split_seed=9), CPU) is not load_task(TaskConfig(), CPU)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 60),
    steps=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 500),
    draw=st.data(),
)
def test_batches_draw_each_row_once_per_pass(rows, steps, seed, epoch, draw):
    size = draw.draw(st.integers(1, rows))
    batches = epoch_batches(seed, epoch, rows, size, steps)
    assert batches.shape == (steps, size)
    assert batches.dtype == torch.int64
    drawn = batches.reshape(-1).tolist()
    for start in range(0, len(drawn), rows):
        one_pass = drawn[start : start + rows]
        assert len(set(one_pass)) == len(one_pass)
        if len(one_pass) == rows:
            assert sorted(one_pass) == list(range(rows))
    assert 0 <= min(drawn) <= max(drawn) < rows


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 500))
def test_batches_are_a_pure_function_of_seed_and_epoch(seed, epoch):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch_batches(seed, epoch, 200, 16, 9)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(epoch_batches(seed, epoch, 200, 16, 9), first)
    assert not torch.equal(epoch_batches(seed, epoch + 1, 200, 16, 9), first)
    assert not torch.equal(epoch_batches(seed + 1, epoch, 200, 16, 9), first)


def test_each_pass_is_shuffled_anew():
    first, second = epoch_batches(3, 0, 50, 50, 2).tolist()
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_batch_larger_than_the_data_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="batch size 65 exceeds the 64 training images"):
        epoch_batches(0, 0, 64, 65, 1)
