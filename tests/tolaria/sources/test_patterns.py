"""Synthetic patterns: solvable by comparing neighbouring pixels, and at chance level without."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy

from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.tasks import TaskError, load_task

CPU = torch.device("cpu")
SIZES = {"name": "patterns", "validation_size": 400, "test_size": 200}


@pytest.fixture(scope="module")
def patterns():
    return load_task(TaskConfig(**SIZES), CPU)


def three(data):
    return (data.train, data.validation, data.test)


def classes_by_rule(images):
    """Class of each (N, 1, 8, 8) image, by the neighbours on the same side of the mid grey value."""
    values = images[:, 0].float()
    middle = (values.amax(dim=(1, 2), keepdim=True) + values.amin(dim=(1, 2), keepdim=True)) / 2
    bright = values > middle
    along = (bright[:, :, 1:] == bright[:, :, :-1]).float().mean(dim=(1, 2))
    across = (bright[:, 1:] == bright[:, :-1]).float().mean(dim=(1, 2))
    classes = {(1.0, 0.0): 0, (0.0, 1.0): 1, (0.0, 0.0): 2, (0.5, 0.5): 3}
    return torch.tensor([classes[pair] for pair in zip(along.tolist(), across.tolist(), strict=True)])


def test_splits_are_balanced_and_have_the_configured_sizes(patterns):
    assert [split.labels.bincount().tolist() for split in three(patterns)] == [[256] * 4, [100] * 4, [50] * 4]
    assert (patterns.classes, patterns.example_shape) == (4, (1, 8, 8))
    assert load_task(TaskConfig(**SIZES, train_size=40), CPU).train.labels.bincount().tolist() == [10] * 4


def test_a_rule_on_neighbouring_pixels_is_always_right(patterns):
    for split in three(patterns):
        assert torch.equal(classes_by_rule(split.images), split.labels)


def test_one_convolution_before_the_average_is_always_right(patterns):
    """Rectified, averaged differences to the right, below and diagonally below, with weights by hand."""
    kernels = torch.zeros(3, 1, 3, 3)
    kernels[:, 0, 1, 1] = 1
    kernels[0, 0, 1, 2] = kernels[1, 0, 2, 1] = kernels[2, 0, 2, 2] = -1
    weights = torch.tensor([[-2.0, 1, 0], [1, -2, 0], [1, 1, -2], [0, 0, 0]])
    for split in three(patterns):
        changes = conv2d(patterns.normalised(split.images), torch.cat([kernels, -kernels])).relu().mean(dim=(2, 3))
        scores = (changes[:, :3] + changes[:, 3:]) @ weights.T
        assert torch.equal(scores.argmax(dim=1), split.labels)


def test_the_four_images_of_a_group_are_permutations_of_the_same_pixels(patterns):
    for split in three(patterns):
        values = split.images.reshape(-1, 4, 64)
        ordered = values.sort(dim=2).values
        assert (ordered == ordered[:, :1]).all()
        assert (values[:, 0] != values[:, 1]).any(dim=1).all()
        assert split.labels.reshape(-1, 4).tolist() == [[0, 1, 2, 3]] * (len(split) // 4)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_host_of_the_preset_stays_at_chance_level(patterns, seed):
    with seeded_initialisation(seed):
        host = build_host(build(read_preset("patterns")).host, (1, 8, 8), 4).module
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(2):
        plan = patterns.plan(seed, epoch, 128, 8)
        for rows, draws in zip(plan.rows, plan.draws, strict=True):
            inputs, labels = patterns.training_batch(rows, draws)
            optimizer.zero_grad()
            cross_entropy(host(inputs), labels).backward()
            optimizer.step()
    host.eval()
    with torch.no_grad():
        # in double precision: the order of a sum must not decide
        answers = host.double()(patterns.normalised(patterns.validation.images).double()).argmax(dim=1)
    assert (answers.reshape(-1, 4) == answers.reshape(-1, 4)[:, :1]).all()
    assert (answers == patterns.validation.labels).float().mean().item() == 0.25


def test_phase_contrast_and_sign_vary(patterns):
    rows = patterns.train.images[patterns.train.labels == 0, 0].int()
    assert 0.4 < (rows[:, 0, 0] > rows[:, 1, 0]).float().mean() < 0.6
    diagonals = patterns.train.images[patterns.train.labels == 3, 0].int()
    means = diagonals.float().mean(dim=(1, 2), keepdim=True)
    phases = {tuple(row) for row in (diagonals > means)[:, 0, :4].tolist()}
    assert len(phases) == 4
    contrast = patterns.train.images.flatten(1).float().std(dim=1)
    assert contrast.min() < 40
    assert contrast.max() > 90


def test_images_are_a_pure_function_of_the_seed_and_unique(patterns):
    torch.manual_seed(5)
    np.random.seed(5)
    repeated, different = (load_task(TaskConfig(**SIZES, split_seed=seed, block_size=7), CPU) for seed in (0, 1))
    for split, same, changed in zip(three(patterns), three(repeated), three(different), strict=True):
        assert torch.equal(split.images, same.images)
        assert not torch.equal(split.images, changed.images)
    images = [image.numpy().tobytes() for split in (*three(patterns), *three(different)) for image in split.images]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"train_size": 6}, r"task\.train_size must be a multiple of 4, one image of each class, got 6"),
        ({"validation_size": 401}, r"task\.validation_size must be a multiple of 4.*got 401"),
        ({"test_size": 1}, r"task\.test_size must be a multiple of 4.*got 1"),
        (
            {"train_size": 99_996, "validation_size": 4, "test_size": 4},
            r"train_size 99,996 \+ task\.validation_size 4 \+ task\.test_size 4 = 100,004 images exceed the 100,000",
        ),
        ({"augment": True}, r"patterns are not augmented.*task\.augment"),
    ],
)
def test_settings_that_break_the_optimum_are_refused(setting, message):
    with pytest.raises(TaskError, match=message):
        load_task(TaskConfig(**SIZES | setting), CPU)
