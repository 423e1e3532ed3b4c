"""Random chains: birth, training, folding and export of seeds on every span."""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from kasmina_builders import WORTHY
from span_builders import awaken, convolutional_chains, lead_to, linear_chains, on_spans, train_steps

from esper_ray.kasmina import GrowingOptimizer, find_spans
from esper_ray.kasmina.modules import count_parameters
from esper_ray.kasmina.network.spans.regions import SpanError
from esper_ray.leyline.stages import Stage

CHAINS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
STAGES = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED)
both = pytest.mark.parametrize("chains", [convolutional_chains(), linear_chains()], ids=["convolutional", "linear"])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def connections(model, new):
    """Weights between the new channels of a span and those of the span that begins where it ends, by both slots."""
    counts = {}
    cells = {slot: model.cell(slot) for slot in model.slot_ids}
    for first, cell in cells.items():
        for second, other in cells.items():
            if cell.region.consumer.name == other.region.producer.name:
                layer = other.region.producer.module
                kernel = math.prod(getattr(layer, "kernel_size", ()))
                inputs = new[first] * cell.region.axis.repeat // getattr(layer, "groups", 1)
                counts[first, second] = inputs * new[second] * kernel
    return counts


def model_of(chain):
    """The chain with a slot on every span, and its spans; ``None`` if it has none."""
    host, x = chain
    try:
        spans = find_spans(host, x[:2])
    except SpanError:
        return None
    return on_spans(host, {f"r0c{index}": span for index, span in enumerate(spans)}, x), spans, x


def for_each_chain(chains, check):
    @CHAINS
    @given(chains)
    def run(chain):
        built = model_of(chain)
        if built is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check(*built)

    run()


@pytest.mark.slow
@both
def test_birth_changes_no_bit_and_counts_are_closed_forms(chains):
    def check(model, spans, x):
        model.eval()
        before, parameters = model(x), model.total_parameters
        for slot, span in zip(model.slot_ids, spans, strict=True):
            lead_to(model, slot, Stage.TRAINING, channels=2 * span.step)
            assert model.seed_parameters(slot) == 2 * span.step * span.parameters_per_channel
            assert torch.equal(model(x), before)
        grown = sum(2 * span.step * span.parameters_per_channel for span in spans)
        assert model.total_parameters == parameters + grown

    for_each_chain(chains, check)


@pytest.mark.slow
@both
@pytest.mark.nightly
def test_live_births_change_nothing_but_rounding_and_fold_at_once(chains):
    def check(model, spans, x):
        model.eval()
        before = model(x)
        for slot, span in zip(model.slot_ids, spans, strict=True):
            model.germinate(slot, "widen", channels=3 * span.step, tempo=0)
        close(model(x), before)
        close(model.plain()(x), before)
        for slot in model.slot_ids:
            model.fossilize(slot, WORTHY)
            model.fold(slot)
        close(model(x), before)

    for_each_chain(chains, check)


@pytest.mark.slow
@both
def test_a_folded_and_a_plain_network_compute_what_the_living_one_does(chains):
    def check(model, spans, x):
        optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.01, momentum=0.9)
        for slot, span in zip(model.slot_ids, spans, strict=True):
            lead_to(model, slot, Stage.FOSSILIZED, channels=span.step)
            awaken(model, slot)
        train_steps(model, optimizer, x)
        model.eval()
        expected, total = model(x), model.total_parameters
        new = {slot: span.step for slot, span in zip(model.slot_ids, spans, strict=True)}
        plain = model.plain()
        close(plain(x), expected)
        assert [type(module) for module in plain] == [type(module) for module in model.host]
        assert count_parameters(plain) == total + sum(connections(model, new).values())
        folded = dict.fromkeys(model.slot_ids, False)
        for slot in reversed(model.slot_ids):
            folded[slot] = bool(model.fold(slot))
            close(model(x), expected)
            connected = sum(count for pair, count in connections(model, new).items() if any(folded[s] for s in pair))
            assert model.total_parameters == total + connected
        assert model.host_parameters == count_parameters(plain)
        assert [span.channels for span in find_spans(model.plain(), x[:2])] == [
            span.channels + span.step for span in spans
        ]

    for_each_chain(chains, check)


@pytest.mark.slow
@both
@pytest.mark.nightly
def test_a_folded_network_trains_as_the_living_one(chains):
    def check(model, spans, x):
        optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.01, momentum=0.9)
        for module in model.host:
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for slot, span in zip(model.slot_ids, spans, strict=True):
            lead_to(model, slot, Stage.FOSSILIZED, channels=span.step)
            awaken(model, slot)
            for module in model.cell(slot).seed.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        model.double()
        x = x.double()
        train_steps(model, optimizer, x, 2)
        folded_optimizer = copy.deepcopy(optimizer)
        folded = folded_optimizer.model
        for slot in model.slot_ids:
            if len(model.slot_ids) == 1:  # in a chain, folding connects new channels of one span with those of the next
                assert folded.fold(slot)
        train_steps(model, optimizer, x, 2)
        train_steps(folded, folded_optimizer, x, 2)
        model.eval(), folded.eval()
        torch.testing.assert_close(folded(x), model(x), rtol=1e-9, atol=1e-10)

    for_each_chain(chains, check)
