"""Spans that begin or end at activation checkpointing: gradients, memory, refusals."""

import copy
import gc
import threading
import weakref
from functools import partial

import pytest
import torch
from span_builders import awaken, lead_to, on_spans
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from esper_ray.kasmina import MorphogeneticModel, SpanError, find_spans
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.filterwarnings("ignore:incubation clips the gradient")
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
OTHER = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
PLACES = {"r0c0": "a -> b", "r0c1": "b -> c"}


def direct(function, *args):
    return function(*args)


def twice(function, *args):
    """Two checkpointed calls, one inside the other."""
    return checkpoint(partial(checkpoint, function, use_reentrant=False), *args, use_reentrant=False)


class Net(nn.Module):
    """``stem``, then ``a``, ``b``, ``c`` with activations; ``call`` runs the parts that ``cut`` selects."""

    def __init__(self, cut, call):
        super().__init__()
        self.stem, self.a = nn.Linear(4, 5), nn.Linear(5, 6)
        self.b, self.c = nn.Linear(6, 4), nn.Linear(4, 2)
        self.cut, self.call = cut, call

    def first(self, x):
        return self.a(self.stem(x).tanh()).relu()

    def second(self, h):
        return self.b(h.tanh()).relu()

    def forward(self, x):
        call, plain = self.call, direct
        match self.cut:
            case "before":
                return self.c(plain(self.second, call(self.first, x)))
            case "after":
                return self.c(call(self.second, plain(self.first, x)))
            case "each":
                return self.c(call(self.second, call(self.first, x)))
            case _:
                return call(lambda x: self.c(self.second(self.first(x))), x)


CUTS = ("before", "after", "each", "around")
SAFE = partial(checkpoint, use_reentrant=False)
REENTRANT = partial(checkpoint, use_reentrant=True)


def model_of(cut, call, stage=Stage.BLENDING):
    with seeded_initialisation(0):
        host = Net(cut, call)
    model = on_spans(host, PLACES, X)
    for slot in PLACES:
        lead_to(model, slot, stage, channels=3)
        awaken(model, slot)
    return model.train()


def gradients(model, backward):
    model.zero_grad()
    x = X.clone().requires_grad_()
    backward(model, x)
    values = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return values | {"x": x.grad}


def one_pass(model, x):
    model(x).square().mean().backward()


def two_passes(model, x):
    first, second = model(x), model(OTHER)  # both await their backward pass
    first.square().mean().backward()
    (3.0 * second.square().mean()).backward()


def two_backwards(model, x):
    loss = model(x).square().mean()
    loss.backward(retain_graph=True)
    loss.backward()


def in_a_thread(model, x):
    """As on a GPU, whose backward pass has a thread of its own."""
    thread = threading.Thread(target=model(x).square().mean().backward)
    thread.start()
    thread.join()


def with_incubation(model, x):
    model(x).square().mean().backward()
    model.incubate(lambda: model(OTHER).square().mean())


@pytest.mark.parametrize("backward", [one_pass, two_passes, two_backwards, in_a_thread, with_incubation])
@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED], ids=lambda stage: stage.name)
@pytest.mark.parametrize("cut", CUTS)
def test_gradients_are_those_without_checkpointing(cut, stage, backward):
    expected = gradients(model_of(cut, direct, stage), backward)
    actual = gradients(model_of(cut, SAFE, stage), backward)
    assert expected.keys() == actual.keys()
    assert "cells.r0c0.seed.producer.weight" in actual or stage is Stage.TRAINING
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


@pytest.mark.parametrize("cut", CUTS)
def test_complete_recomputation_has_the_same_gradients(cut):
    expected = gradients(model_of(cut, direct), one_pass)
    with set_checkpoint_early_stop(False):
        actual = gradients(model_of(cut, SAFE), one_pass)
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


@pytest.mark.parametrize("call", [twice, REENTRANT], ids=["nested", "reentrant"])
def test_a_span_inside_any_checkpointing_has_the_same_gradients(call):
    expected = gradients(model_of("around", direct), one_pass)
    actual = gradients(model_of("around", call), one_pass)
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_is_kept_after_the_backward_pass(cut):
    model, read = model_of(cut, SAFE), []
    for name in ("a", "b"):
        layer = model.host.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, args: read.append(weakref.ref(args[0])))
    one_pass(model, X)
    model(X)  # a graph that is dropped
    gc.collect()
    cells = [model.cell(slot) for slot in PLACES]
    assert [(cell.source, len(cell.kept)) for cell in cells] == [(None, 0), (None, 0)]
    assert len(read) >= 4
    assert [tensor() for tensor in read] == [None] * len(read)


def test_only_a_consumer_without_its_producer_costs_memory():
    for cut, kept in {"around": [0, 0], "before": [0, 0], "after": [1, 0], "each": [1, 0]}.items():
        model = model_of(cut, SAFE)
        output = model(X)
        assert [len(model.cell(slot).kept) for slot in PLACES] == kept
        assert output.requires_grad


def test_a_copy_between_the_passes_keeps_nothing():
    model = model_of("after", SAFE)
    output = model(X)
    twin = copy.deepcopy(model)
    assert [len(each.cell("r0c0").kept) for each in (model, twin)] == [1, 0]
    assert torch.equal(twin(X), output)


def test_a_source_that_changes_before_it_is_needed_is_an_error():
    model = model_of("after", SAFE)
    source = []
    model.host.a.register_forward_pre_hook(lambda _, args: source.append(args[0]))
    output = model(X)
    with torch.no_grad():
        source[0].mul_(2.0)
    with pytest.raises(RuntimeError, match="was changed in place before a checkpointed call computed it again"):
        output.square().mean().backward()


class TestRefused:
    @pytest.mark.parametrize(
        ("cut", "left"),
        [
            ("before", ["stem -> a", "b -> c"]),
            ("after", ["stem -> a"]),
            ("each", ["stem -> a"]),
            ("around", ["stem -> a", "a -> b", "b -> c"]),
        ],
    )
    def test_only_spans_apart_from_the_ends_of_reentrant_calls_are_found(self, cut, left):
        assert [span.place for span in find_spans(Net(cut, REENTRANT), X)] == left

    @pytest.mark.parametrize("cut", ["before", "after", "each"])
    def test_reentrant_checkpointing_between_two_layers_is_named(self, cut):
        with pytest.raises(SpanError, match=r"between a and b, reentrant activation checkpointing \(use_reentrant=Tru"):
            MorphogeneticModel.wrap(Net(cut, REENTRANT), {"r0c0": "a -> b"}, X)

    def test_nested_checkpointing_between_two_layers_is_named(self):
        with pytest.raises(SpanError, match="between a and b, nested activation checkpointing begins"):
            MorphogeneticModel.wrap(Net("after", twice), {"r0c0": "a -> b"}, X)
        assert "a -> b" in [span.place for span in find_spans(Net("before", twice), X)]

    def test_checkpointing_in_training_alone_is_seen(self):
        def in_training(function, x):
            return (REENTRANT if function.__self__.training else direct)(function, x)

        host = Net("after", in_training)
        with pytest.raises(SpanError, match="in training mode, between a and b, reentrant activation checkpointing"):
            MorphogeneticModel.wrap(host, {"r0c0": "a -> b"}, X)

    @pytest.mark.parametrize(
        ("cut", "call", "reason"),
        [
            ("after", REENTRANT, "b was called without a before it. Between a and b, activation checkpointing"),
            ("after", twice, "b was called without a before it. Between a and b, activation checkpointing"),
            ("before", REENTRANT, "Between a and b, a call with reentrant activation checkpointing ends"),
        ],
        ids=["after", "nested", "before"],
    )
    def test_what_is_switched_on_later_is_an_error(self, cut, call, reason):
        model = model_of(cut, direct)
        assert model.prune("r0c1")  # else that on b -> c says so first
        model.host.call = call
        with pytest.raises(RuntimeError, match=reason), set_checkpoint_early_stop(False):
            one_pass(model, X.clone().requires_grad_())

    def test_a_producer_without_gradient_is_no_error(self):
        def frozen(function, x):
            with torch.no_grad():
                return function(x)

        model = model_of("before", frozen)
        assert gradients(model, lambda model, x: model(x).sum().backward())["x"] is None


def test_checkpointing_that_is_switched_on_later_has_the_same_gradients():
    model = model_of("after", direct)
    expected = gradients(model, one_pass)
    model.host.call = SAFE
    actual = gradients(model, one_pass)
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


def test_folded_channels_behind_a_checkpointed_layer_leave_the_output():
    model = model_of("after", SAFE, Stage.FOSSILIZED).eval()
    expected = model(X)
    for slot in PLACES:
        assert model.fold(slot)
    torch.testing.assert_close(model(X), expected)
