"""Datasets: disjoint and exhaustive splits, batches, plans and augmentation as pure functions of a seed."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import TokenData, TokenSplit, epoch_batches, image_dataset, split_dataset
from esper_ray.tolaria.data.images import PADDING
from esper_ray.tolaria.tasks import load_task

CPU = torch.device("cpu")


def numbered(total):
    """Images that encode their number in two pixels, and labels that follow from it."""
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


def test_every_digit_image_is_in_exactly_one_split(data):
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
    assert (data.classes, data.example_shape) == (10, (1, 8, 8))
    assert data.random_guess_loss == pytest.approx(2.302585092994046)


def test_a_split_is_a_pure_function_of_its_seed():
    images, labels = numbered(300)
    first, repeated, different = (
        split_dataset(images, labels, validation=50, test=40, seed=seed, device=CPU) for seed in (5, 5, 6)
    )
    for split, same, changed in zip(three(first), three(repeated), three(different), strict=True):
        assert numbers_of(split) == numbers_of(same)
        assert sorted(numbers_of(split)) != sorted(numbers_of(changed))


def test_equal_images_are_in_one_split_whatever_their_labels():
    images, labels = numbered(20)
    images, labels = np.concatenate([images, images[::-1], images[:10]]), np.arange(50) % 7
    for seed in range(5):
        dataset = split_dataset(images, labels, validation=9, test=8, seed=seed, device=CPU)
        train, validation, test = (set(numbers_of(split)) for split in three(dataset))
        assert [len(split) for split in three(dataset)] == [33, 9, 8]
        assert len(train) + len(validation) + len(test) == 20


def test_images_are_kept_as_bytes_and_labels_as_integers(data):
    for split in three(data):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()


def test_normalisation_uses_the_training_images_only():
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


def test_a_limited_training_split_leaves_the_other_splits_unchanged():
    images, labels = numbered(50)
    sizes = {"validation": 10, "test": 5, "seed": 3, "device": CPU}
    whole, part = split_dataset(images, labels, **sizes), split_dataset(images, labels, train=7, **sizes)
    assert numbers_of(part.train) == numbers_of(whole.train)[:7]
    assert numbers_of(part.validation) == numbers_of(whole.validation)
    assert numbers_of(part.test) == numbers_of(whole.test)
    with pytest.raises(ValueError, match="36 training, 10 validation and 5 test images exceed the 50 there are"):
        split_dataset(images, labels, train=36, **sizes)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_an_empty_split_is_refused_by_name(part):
    pairs = [numbered(4), numbered(4), numbered(4)]
    pairs[part] = numbered(0)
    name = ("training", "validation", "test")[part]
    with pytest.raises(ValueError, match=f"the {name} split is empty; it needs at least one image"):
        image_dataset(*pairs, classes=7, device=CPU)


@pytest.mark.parametrize("label", [-1, 7])
def test_labels_outside_the_classes_are_refused_with_the_split(label):
    images, labels = numbered(4)
    wrong = labels.copy()
    wrong[2] = label
    with pytest.raises(ValueError, match=rf"validation labels must lie in 0\.\.6, got .*{label}"):
        image_dataset((images, labels), (images, wrong), (images, labels), classes=7, device=CPU)


def test_images_and_labels_of_different_shapes_are_refused():
    images, labels = numbered(50)
    with pytest.raises(ValueError, match=r"labels must be 50 whole numbers, one for each image; got int64 \(49,\)"):
        split_dataset(images, labels[1:], validation=5, test=5, seed=0, device=CPU)
    with pytest.raises(ValueError, match=r"shape \(N, C, H, W\)"):
        split_dataset(images[:, 0], labels, validation=5, test=5, seed=0, device=CPU)
    with pytest.raises(ValueError, match="labels must lie in 0"):
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
    drawn_rows = batches.reshape(-1).tolist()
    for start in range(0, len(drawn_rows), rows):
        one_pass = drawn_rows[start : start + rows]
        assert len(set(one_pass)) == len(one_pass)
        if len(one_pass) == rows:
            assert sorted(one_pass) == list(range(rows))
    assert 0 <= min(drawn_rows) <= max(drawn_rows) < rows


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


def test_each_pass_is_shuffled_separately():
    first, second = epoch_batches(3, 0, 50, 50, 2).tolist()
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_batch_larger_than_the_data_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="batch size 65 exceeds the 64 training examples"):
        epoch_batches(0, 0, 64, 65, 1)


# Augmentation of images


@pytest.fixture(scope="module")
def augmented():
    """Twenty colour images of 6x5 pixels, augmented."""
    generator = np.random.default_rng(8)
    parts = [
        (generator.integers(1, 256, (count, 3, 6, 5), dtype=np.uint8), np.arange(count, dtype=np.int64))
        for count in (20, 3, 3)
    ]
    return image_dataset(*parts, classes=20, device=CPU, augment=True)


def by_hand(image, down, right, mirrored):
    """Window of a padded (C, H, W) image with its upper left corner at (down, right), mirrored or not."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * PADDING, width + 2 * PADDING), dtype=np.uint8)
    padded[:, PADDING : PADDING + height, PADDING : PADDING + width] = image
    window = padded[:, down : down + height, right : right + width]
    return window[:, :, ::-1] if mirrored else window


def test_an_augmented_image_is_a_window_of_its_padded_original(augmented):
    rows, draws = torch.arange(20).repeat(5), augmented.draw(torch.Generator().manual_seed(1), 5, 20).reshape(100, 3)
    inputs, labels = augmented.training_batch(rows, draws)
    assert labels.tolist() == rows.tolist()
    originals = augmented.train.images.numpy()
    expected = np.stack(
        [by_hand(originals[row], *draw) for row, draw in zip(rows.tolist(), draws.tolist(), strict=True)]
    )
    assert torch.equal(inputs, augmented.normalised(torch.from_numpy(expected)))


def test_every_window_is_drawn_and_the_central_one_is_the_image(augmented):
    draws = augmented.draw(torch.Generator().manual_seed(0), 40, 200)
    assert (draws.shape, draws.dtype) == ((40, 200, 3), torch.int64)
    counts = Counter(map(tuple, draws.reshape(-1, 3).tolist()))
    assert set(counts) == {(down, right, flip) for down in range(9) for right in range(9) for flip in range(2)}
    assert max(counts.values()) < 100  # 8,000 draws of 162 kinds: 49 of each expected
    middle = torch.tensor([[4, 4, 0]]).expand(20, 3)
    assert torch.equal(
        augmented.training_batch(torch.arange(20), middle)[0], augmented.normalised(augmented.train.images)
    )


def test_validation_and_test_images_are_not_augmented(augmented):
    for split in (augmented.validation, augmented.test):
        inputs, labels = augmented.prepared(split, 1, 3)
        assert torch.equal(inputs, augmented.normalised(split.images[1:3]))
        assert labels.tolist() == [1, 2]


# Plans of epochs


def test_a_plan_is_a_pure_function_of_seed_and_epoch(augmented):
    first = augmented.plan(3, 4, 6, 5)
    assert (first.rows.shape, first.draws.shape) == ((5, 6), (5, 6, 3))
    torch.manual_seed(9)
    repeated = augmented.plan(3, 4, 6, 5)
    assert torch.equal(first.rows, repeated.rows)
    assert torch.equal(first.draws, repeated.draws)
    for different in (augmented.plan(4, 4, 6, 5), augmented.plan(3, 5, 6, 5)):
        assert not torch.equal(first.rows, different.rows)
        assert not torch.equal(first.draws, different.draws)


def test_a_plan_has_the_rows_of_an_epoch_without_augmentation(augmented, data):
    assert torch.equal(augmented.plan(3, 4, 6, 5).rows, epoch_batches(3, 4, 20, 6, 5))
    plain = data.plan(3, 4, 6, 5)
    assert torch.equal(plain.rows, epoch_batches(3, 4, 1097, 6, 5))
    assert plain.draws.shape == (5, 6, 0)
    inputs, labels = data.training_batch(plain.rows[0], plain.draws[0])
    assert torch.equal(inputs, data.normalised(data.train.images[plain.rows[0]]))
    assert torch.equal(labels, data.train.labels[plain.rows[0]])


def test_a_plan_with_batches_larger_than_the_split_is_refused(augmented):
    with pytest.raises(ValueError, match="batch size 21 exceeds the 20 training examples"):
        augmented.plan(0, 0, 21, 1)


# Text


def counted(train=11, validation=5, test=9, block=4, dtype=torch.uint8, **others):
    """Text in which each token is its position in its split."""
    parts = (TokenSplit(torch.arange(count).to(dtype), block) for count in (train, validation, test))
    return TokenData(*parts, classes=256, **others)


def test_blocks_are_consecutive_and_targets_are_the_next_tokens():
    text = counted()
    assert [len(split) for split in three(text)] == [2, 1, 2]
    inputs, targets = text.prepared(text.train, 0, 2)
    assert inputs.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert inputs.dtype == targets.dtype == torch.int64
    assert text.prepared(text.test, 1, 99)[1].tolist() == [[5, 6, 7, 8]]
    assert (text.example_shape, text.device) == ((4,), CPU)
    assert text.random_guess_loss == pytest.approx(5.545177444479562)  # ln 256


def test_training_blocks_start_at_their_rows():
    text = counted()
    assert text.draw(torch.Generator(), 3, 2).shape == (3, 2, 0)
    inputs, targets = text.training_batch(torch.tensor([1, 0, 1]), torch.empty((3, 0), dtype=torch.int64))
    assert inputs.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert targets.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8]]


def test_shifted_blocks_end_within_the_text():
    text = counted(shifted=True)
    draws = text.draw(torch.Generator().manual_seed(0), 50, 4)
    assert (draws.shape, sorted(draws.unique().tolist())) == ((50, 4, 1), [0, 1, 2, 3])
    inputs, targets = text.training_batch(torch.tensor([0, 0, 1, 1]), torch.tensor([[0], [3], [2], [3]]))
    assert inputs[:, 0].tolist() == [0, 3, 6, 6]  # 11 tokens: a block begins at 6 at the latest
    assert targets.tolist() == (inputs + 1).tolist()
    assert torch.equal(text.prepared(text.train, 0, 1)[0], torch.tensor([[0, 1, 2, 3]]))  # measuring never shifts


def test_tokens_above_255_are_kept():
    parts = [torch.tensor([0, 50_256, 300, 7, 50_256], dtype=torch.int32)] * 3
    text = TokenData(*(TokenSplit(part, 4) for part in parts), classes=50_257)
    assert text.prepared(text.train, 0, 1)[1].tolist() == [[50_256, 300, 7, 50_256]]


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_text_shorter_than_a_block_is_refused_with_the_numbers(part):
    name = "training" if part == "train" else part
    with pytest.raises(ValueError, match=f"the {name} split has 4 tokens; a block of 4 needs 5"):
        counted(**{part: 4})


def test_tokens_outside_the_vocabulary_are_refused():
    parts = [torch.tensor([0, 1, 2, 3, 4])] * 3
    with pytest.raises(ValueError, match=r"training tokens must lie in 0\.\.3, got 0\.\.4"):
        TokenData(*(TokenSplit(part, 4) for part in parts), classes=4)


GOOD = (np.zeros((6, 3, 8, 8), np.uint8), np.zeros(6, np.int64))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((GOOD[0], GOOD[1][:4]), r"6 whole numbers, one for each image; got int64 \(4,\)"),
        ((GOOD[0][:4], GOOD[1]), r"4 whole numbers, one for each image; got int64 \(6,\)"),
        ((GOOD[0], GOOD[1] + 0.5), r"6 whole numbers.* got float64"),
        ((GOOD[0], GOOD[1][:, None]), r"got int64 \(6, 1\)"),
        ((GOOD[0].astype(np.float32), GOOD[1]), "uint8 .* got float32"),
        ((GOOD[0].astype(np.int64), GOOD[1]), "uint8 .* got int64"),
        ((GOOD[0][:, :1], GOOD[1]), r"alike in all splits; got uint8 \(6, 1, 8, 8\) beside \(6, 3, 8, 8\)"),
        ((GOOD[0][..., :4], GOOD[1]), r"alike in all splits; got uint8 \(6, 3, 8, 4\)"),
        ((GOOD[0], GOOD[1] + 2), r"labels must lie in 0..1, got 2..2"),
        ((GOOD[0][:0], GOOD[1][:0]), "the validation split is empty"),
    ],
)
def test_splits_with_inconsistent_images_or_labels_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        image_dataset(GOOD, split, GOOD, classes=2, device=CPU)


@pytest.mark.parametrize(
    ("block", "other_block", "dtype", "message"),
    [
        (0, 0, torch.uint8, "at least 1 token long and alike in all splits, got 0"),
        (4, 5, torch.uint8, "alike in all splits, got 5"),
        (4, 4, torch.float32, "whole numbers, got torch.float32"),
    ],
)
def test_invalid_blocks_and_token_types_are_refused(block, other_block, dtype, message):
    tokens = torch.zeros(30, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        TokenData(TokenSplit(tokens, block), TokenSplit(tokens, other_block), TokenSplit(tokens, block), classes=2)


def test_a_fingerprint_depends_on_the_content():
    def data(value):
        images = GOOD[0].copy()
        images[0, 0, 0, 0] = value
        return image_dataset((images, GOOD[1]), GOOD, GOOD, classes=2, device=CPU)

    assert data(0).fingerprint == data(0).fingerprint != data(1).fingerprint
