"""New channels in pairs that cancel, and seeds that are born live."""

import pytest
import torch
from kasmina_builders import named
from span_builders import on_spans
from torch import nn
from torch.nn import functional

from esper_ray.kasmina import GrowingOptimizer, GrowthOptions, LifecycleError
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage

X = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
CONTRIBUTES = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=1.0)


def model_of(*, between=None, producer_groups=1, consumer_groups=1, start="paired", channels_last=False):
    with seeded_initialisation(0):
        host = named(
            a=nn.Conv2d(4, 8, 3, padding=1, groups=producer_groups),
            norm=nn.BatchNorm2d(8),
            act=nn.ReLU(),
            **({"between": between} if between else {}),
            b=nn.Conv2d(8, 4, 3, padding=1, groups=consumer_groups),
            flat=nn.Flatten(),
            c=nn.Linear(256, 3),
        )
    host = host.to(memory_format=torch.channels_last) if channels_last else host
    return on_spans(host, {"r0c0": "a -> b"}, X, options=GrowthOptions(widening=start))


def born(channels, tempo=0, target=1.0, **options):
    model = model_of(**options)
    model.germinate("r0c0", "widen", channels=channels, tempo=tempo, target=target)
    return model, model.cell("r0c0").seed


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channels_last": True},
        {"producer_groups": 2},
        {"consumer_groups": 4},
        {"producer_groups": 4, "consumer_groups": 2},
        {"between": nn.PReLU(8)},
        {"between": nn.Conv2d(8, 8, 3, padding=1, groups=8)},
    ],
    ids=["plain", "channels_last", "grouped_producer", "grouped_consumer", "both_grouped", "prelu", "depthwise"],
)
def test_a_live_newborn_changes_nothing_and_learns_at_once(options, training):
    model = model_of(**options).train(training)
    before = model(X)
    model.germinate("r0c0", "widen", channels=16, tempo=0)
    after = model(X)
    torch.testing.assert_close(after, before, rtol=0.0, atol=2e-6)
    seed = model.cell("r0c0").seed
    after.square().sum().backward()
    assert all(bool(part.weight.grad.abs().sum() > 0) for part in (seed.producer, seed.consumer))


def test_channels_of_a_pair_are_equal_and_read_with_opposite_weights():
    model, seed = born(5)
    weight, read = seed.producer.weight, seed.consumer.weight
    assert torch.equal(weight[2:4], weight[:2])
    assert torch.equal(seed.producer.bias[2:4], seed.producer.bias[:2])
    assert torch.equal(read[:, 2:4], -read[:, :2])
    assert bool(read[:, :4].any())
    assert not read[:, 4].any()
    assert not torch.equal(weight[4], weight[0])
    torch.testing.assert_close(model.seed_parameters("r0c0"), 5 * (4 * 9 + 1 + 2 + 4 * 9))


def test_pairs_stay_within_a_block_of_groups():
    """8 channels in two blocks of four: the pairs are 0-2, 1-3, 4-6 and 5-7."""
    _, seed = born(8, consumer_groups=2)
    weight, read = seed.producer.weight, seed.consumer.weight
    assert torch.equal(weight[[2, 3, 6, 7]], weight[[0, 1, 4, 5]])
    assert not torch.equal(weight[:2], weight[4:6])
    assert read.shape == (4, 4, 3, 3)
    assert torch.equal(read[:, 2:], -read[:, :2])


def test_training_parts_a_pair():
    model, seed = born(2)
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.05)
    model(X).square().mean().backward()
    first, second = seed.producer.weight.grad
    torch.testing.assert_close(second, -first, rtol=1e-4, atol=1e-7)
    optimizer.step()
    assert not torch.allclose(seed.producer.weight[0], seed.producer.weight[1])


@pytest.mark.parametrize("between", [nn.Dropout(0.1), nn.Dropout2d(0.5), nn.RReLU(), nn.AlphaDropout(0.2)])
def test_what_is_random_between_starts_behind_zeros(between):
    _, seed = born(4, between=between)
    assert not seed.consumer.weight.any()
    assert not torch.equal(seed.producer.weight[2:], seed.producer.weight[:2])


def test_a_dropout_of_nothing_is_not_random():
    assert bool(born(4, between=nn.Dropout(0.0))[1].consumer.weight.any())

    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            return self.b(functional.dropout(self.a(x), p=0.0, training=self.training))

    model = on_spans(Host(), {"r0c0": "a -> b"}, X)
    model.germinate("r0c0", "widen", channels=4, tempo=0)
    assert bool(model.cell("r0c0").seed.consumer.weight.any())


@pytest.mark.parametrize("positional", [True, False], ids=["positional", "named"])
@pytest.mark.parametrize("kind", [functional.dropout, functional.dropout2d, functional.rrelu, functional.alpha_dropout])
def test_functions_that_draw_random_numbers_do_so_in_training_alone(kind, positional):
    """The pass that shows what lies between is in evaluation mode."""

    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x):
            numbers = (0.1, 0.5) if kind is functional.rrelu else (0.5,)
            h = self.a(x)
            return self.b(kind(h, *numbers, self.training) if positional else kind(h, training=self.training))

    model = on_spans(Host(), {"r0c0": "a -> b"}, X, options=GrowthOptions(widening="paired"))
    model.germinate("r0c0", "widen", channels=4, tempo=0)
    seed = model.cell("r0c0").seed
    assert not seed.consumer.weight.any()
    hidden = seed.producer(X)
    for training in (True, False):
        seed.train(training)
        assert torch.equal(seed.between(hidden), seed.between(hidden)) is not training


@pytest.mark.parametrize("start", ["random", "gradmax", "tiny"])
def test_other_starts_have_no_pairs(start):
    model = model_of(start=start).eval()
    before = model(X)
    model.germinate("r0c0", "widen", channels=4, tempo=0, closure=lambda: model(X).square().mean())
    seed = model.cell("r0c0").seed
    assert torch.equal(model(X), before)
    assert not seed.consumer.weight.any()
    assert not torch.allclose(seed.producer.weight[2:], seed.producer.weight[:2])


def test_a_live_seed_holds_is_measured_and_is_committed_or_pruned():
    model, _ = born(4)
    state = model.states["r0c0"]
    assert (state.stage, state.alpha.alpha, state.tempo) == (Stage.HOLDING, 1.0, 0)
    labels, optimizer = torch.arange(6) % 3, GrowingOptimizer(model, torch.optim.SGD, lr=0.05)
    nn.functional.cross_entropy(model(X), labels).backward()
    optimizer.step()
    model.epoch_elapsed()
    measured = model.measure((X, labels))["r0c0"]
    assert measured.contribution_pp is not None
    assert model.fossilize("r0c0", CONTRIBUTES)
    assert model.fold("r0c0")
    other, _ = born(4)
    assert other.prune("r0c0")


def test_a_live_seed_below_full_amplitude_blends():
    model, _ = born(4, target=0.7)
    state = model.states["r0c0"]
    assert (state.stage, state.alpha.alpha) == (Stage.BLENDING, 0.7)
    with pytest.raises(LifecycleError, match="only a HOLDING seed"):
        model.fossilize("r0c0", CONTRIBUTES)


def test_any_seed_may_be_born_live():
    with seeded_initialisation(0):
        host = named(a=nn.Conv2d(4, 8, 3), act=nn.ReLU(), b=nn.Conv2d(8, 4, 3))
    model = on_spans(host, {"r0c0": "act"}, X).eval()
    before = model(X)
    model.germinate("r0c0", "conv_light", tempo=0)
    assert model.states["r0c0"].stage is Stage.HOLDING
    assert torch.equal(model(X), before)
