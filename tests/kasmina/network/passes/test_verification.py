"""Joint passes of networks whose mixing of rows did not show at attachment, against one pass for each coalition."""

import warnings

import pytest
import torch
from kasmina_builders import named
from row_builders import HOSTS, PLACES, Host, InPlace, assert_exact, blended, naive, noise
from torch import nn
from torch.nn.functional import batch_norm

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.passes.branching import subsets
from esper_ray.kasmina.network.passes.rows import agreement
from esper_ray.kasmina.network.passes.verification import VERIFIED_ROWS, may_mix_rows
from esper_ray.leyline.blueprints import Topology

EVERYONE = frozenset(PLACES)


class Scaled(nn.Module):
    """A function whose share of the output is zero at first, as that of a zero-initialised layer is."""

    def __init__(self, function):
        super().__init__()
        self.function, self.share = function, 0.0

    def forward(self, h):
        return h + self.share * self.function(h)

    def begin(self):
        self.share = 1.0


class Capacity(nn.Module):
    """Passes on the eight largest rows, as an expert with a limited capacity does."""

    def forward(self, h):
        chosen = torch.zeros(len(h), 1)
        chosen[h[:, 0].topk(min(len(h), 8)).indices] = 1.0
        return h * chosen

    def begin(self):
        """It mixes rows from the first, but the example has two."""


class Dropped(nn.BatchNorm1d):
    """Batch normalisation that drops its running statistics later."""

    def __init__(self):
        super().__init__(6)

    def begin(self):
        self.track_running_stats, self.running_mean, self.running_var = False, None, None


LATE = {
    "batch statistics by a function": lambda: Scaled(lambda h: batch_norm(h, None, None, training=True)),
    "centred by the batch": lambda: Scaled(lambda h: -h.mean(0)),
    "earlier rows": lambda: Scaled(lambda h: h.cumsum(0)),
    "later rows": lambda: Scaled(lambda h: h.flip(0).cumsum(0).flip(0)),
    "capacity": Capacity,
    "dropped statistics": Dropped,
}


def late(kind, shortcut=False):
    """A model with two awake seeds whose host begins to mix rows after the slots were attached."""
    with seeded_initialisation(1):
        model = blended(Host(LATE[kind](), "between", shortcut))
    assert "separate" not in {at.passes for at in model.attachments.values()}
    model.host.mixer.begin()
    return model


@torch.no_grad()
@pytest.mark.parametrize("rows", [20, 100])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("kind", LATE)
def test_mixing_of_rows_that_begins_later_gives_single_passes(kind, shortcut, rows):
    with pytest.warns(RuntimeWarning, match="each coalition of seeds gets a pass of its own"):
        assert_exact(late(kind, shortcut), noise(rows, 6))


@torch.no_grad()
def test_a_warning_is_given_once_for_each_model():
    for model in (late("capacity"), late("capacity")):
        with pytest.warns(RuntimeWarning):
            assert_exact(model, noise(20, 6))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_exact(model, noise(20, 6, seed=1))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:rows of a batch influence each other")
def test_later_passes_of_a_context_are_single_and_its_end_restores_the_model():
    model, x, y = late("capacity"), noise(20, 6), noise(12, 6, seed=1)
    before = model(x)
    expected = [naive(model, y, on) for on in subsets(PLACES)]
    with model.branching(EVERYONE, subsets(PLACES)) as coalitions:
        model(x)
        assert torch.allclose(
            model(y), torch.cat([expected[subsets(PLACES).index(on)] for on in coalitions]), atol=1e-6
        )
        with model.branching(frozenset({"r0c1"})) as inner:
            assert len(model(x)) == 20 * len(inner) == 40
        assert len(model(y)) == 48
    assert torch.equal(model(x), before)
    assert (model.copies, model.separate, model.switchable, model.unverified) == (1, (), (), ())


@torch.no_grad()
def test_a_late_host_that_works_in_place_gets_its_own_input():
    class LateInPlace(InPlace):
        share = 0.0

        def forward(self, x):
            h = self.first(x.mul_(2.0))
            return self.head(h - self.share * h.mean(0))

    with seeded_initialisation(1):
        model = blended(LateInPlace(), {"r0c0": "first"})
    model.host.share = 1.0
    x = noise(40, 6)
    expected = [naive(model, x.clone(), on) for on in (frozenset(), frozenset({"r0c0"}))]
    with pytest.warns(RuntimeWarning), model.branching(frozenset({"r0c0"})):
        assert torch.equal(model(x.clone()), torch.cat(expected))


@torch.no_grad()
def test_a_seed_that_mixes_rows_later_gives_single_passes():
    register_blueprint("late", Topology.FEATURES, lambda _slot: Scaled(lambda h: h.cumsum(0)))
    try:
        with seeded_initialisation(1):
            model = blended(Host(nn.Identity(), "between", False), blueprint="late")
        assert_exact(model, noise(20, 6))
        model.cell("r0c1").seed.body.begin()  # the batch has forked before it
        with pytest.warns(RuntimeWarning):
            assert_exact(model, noise(20, 6))
    finally:
        unregister_blueprint("late", Topology.FEATURES)


# Ordinary networks


def ordinary(shortcut=False):
    """A model whose host is of an unknown type and mixes no rows."""
    with seeded_initialisation(1):
        return blended(Host(nn.BatchNorm1d(6), "between", shortcut))


def known(middle=None):
    """A model of known layers and seeds alone."""
    with seeded_initialisation(1):
        layers = named(first=nn.Linear(6, 6), middle=middle or nn.BatchNorm1d(6), second=nn.Linear(6, 6), act=nn.ReLU())
        return blended(layers)


def is_verified(model):
    with model.branching(EVERYONE):
        return bool(model.unverified)


class OwnNorm(nn.BatchNorm1d):
    """Batch normalisation of an unknown type."""


def drop_statistics(model):
    model.host.middle.running_mean = model.host.middle.running_var = None


def add_hook(model):
    model.host.middle.register_forward_hook(lambda _module, _inputs, output: output)


def replace_forward(model):
    model.host.middle.forward = lambda h: h


def use_batch_statistics(model):
    model.host.middle.train()


def test_a_network_of_known_layers_is_not_verified():
    assert not is_verified(known())
    assert not is_verified(known(nn.LayerNorm(6)))
    assert is_verified(ordinary())
    assert is_verified(known(OwnNorm(6)))
    assert is_verified(known(nn.Softmax(dim=1)))


@pytest.mark.parametrize("change", [drop_statistics, add_hook, replace_forward, use_batch_statistics])
def test_a_known_layer_that_is_changed_later_is_verified(change):
    model = known()
    assert not is_verified(model)
    change(model)
    assert is_verified(model)


@pytest.mark.parametrize("name", HOSTS)
def test_built_in_hosts_are_not_verified(name):
    config, shape = HOSTS[name]
    with seeded_initialisation(1):
        spec = build_host(config, shape, 7)
    example = torch.zeros(2, *shape, dtype=torch.int64 if len(shape) == 1 else torch.float32)
    model = MorphogeneticModel.wrap(spec.module, spec.slot_modules, example).eval()
    assert not may_mix_rows(model)
    assert may_mix_rows(model.train()) == name.startswith("cifar")


def unverified(model, x):
    with model.branching(EVERYONE):
        model.unverified = ()
        return model(x)


@torch.no_grad()
@pytest.mark.parametrize("shortcut", [False, True])
def test_an_ordinary_joint_pass_is_the_same_bit_by_bit_and_leaves_the_generator(shortcut):
    model, x = ordinary(shortcut), noise(100, 6)
    state = torch.get_rng_state()
    with warnings.catch_warnings(), model.branching(EVERYONE):
        warnings.simplefilter("error")
        out = model(x)
        assert torch.equal(model(x), out)
    assert torch.equal(out, unverified(model, x))
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_host_that_diverged_keeps_the_joint_pass(value):
    model = ordinary()
    model.host.second.weight[2, 3] = value
    with warnings.catch_warnings(), model.branching(EVERYONE):
        warnings.simplefilter("error")
        model(noise(40, 6))
        assert model.separate == ()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:rows of a batch influence each other")
def test_a_value_that_is_not_finite_and_spreads_over_rows_gives_single_passes():
    model = late("centred by the batch")
    x = noise(100, 6)
    x[90] = float("inf")  # outside the verified rows
    with model.branching(EVERYONE):
        model(x)
        assert len(model.separate) == 4


@torch.no_grad()
def test_few_rows_are_verified_in_the_first_pass_of_a_context():
    model, rows = ordinary(), []
    model.host.head.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    with model.branching(EVERYONE):
        model(noise(100, 6))
        model(noise(50, 6))
    assert rows == [VERIFIED_ROWS, VERIFIED_ROWS, 400, 200] == [32, 32, 400, 200]
    rows.clear()
    with model.branching(EVERYONE, [EVERYONE]):
        model(noise(100, 6))
    assert rows == [100]


@torch.no_grad()
def test_several_arguments_are_verified_with_all_rows():
    class Two(Host):
        def forward(self, x, scale, *, mask):
            return super().forward(x * scale) * mask

    with seeded_initialisation(1):
        example = {"x": noise(2, 6), "scale": torch.ones(6), "mask": 2.0}
        model = blended(Two(nn.Identity(), "between", False), example=example)
    with warnings.catch_warnings(), model.branching(EVERYONE) as coalitions:
        warnings.simplefilter("error")
        assert len(model(noise(40, 6), torch.ones(6), mask=2.0)) == 40 * len(coalitions) == 160


def test_agreement_of_rows_is_relative_and_covers_values_that_are_not_finite():
    rows = torch.tensor([[1000.0, 2.0], [float("nan"), float("-inf")]])
    assert agreement(rows, rows)
    assert agreement(rows + 0.09, rows)
    assert not agreement(rows + 0.11, rows)
    assert not agreement(rows[:1] * float("nan"), rows[:1])
    assert not agreement(rows[:1], rows[1:])
    assert agreement(torch.tensor([3, 4]), torch.tensor([3, 4]))
    assert not agreement(torch.tensor([True, False]), torch.tensor([True, True]))
    assert agreement(rows[:1].bfloat16() * 1.015, rows[:1].bfloat16())
