"""Measurement of a split: coalitions against a naive loop, standard errors against NumPy, and purity."""

import hashlib
import math
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from esper_ray.kasmina.hosts import build_host
from esper_ray.kasmina.lifecycle.alpha import AlphaController
from esper_ray.kasmina.measurement.coalition_sampling import few_coalitions
from esper_ray.leyline.contributions import leave_one_out
from esper_ray.leyline.records import Unmeasured
from esper_ray.leyline.stages import Stage
from esper_ray.simic.attribution import total_improvement
from esper_ray.tolaria import validation as measurement
from esper_ray.tolaria.assembly import build_organism
from esper_ray.tolaria.validation import measure

pytestmark = pytest.mark.integration

BLENDED = {
    "none": {},
    "one": {"r0c1": (Stage.BLENDING, 0.4)},
    "two": {"r0c0": (Stage.HOLDING, 1.0), "r0c2": (Stage.BLENDING, 0.3)},
    "three": {"r0c0": (Stage.FOSSILIZED, 1.0), "r0c1": (Stage.BLENDING, 0.2), "r0c2": (Stage.HOLDING, 1.0)},
    "one beside two developing": {
        "r0c0": (Stage.TRAINING, 0.0),
        "r0c1": (Stage.BLENDING, 0.5),
        "r0c2": (Stage.GERMINATED, 0.0),
    },
}
every_number_of_seeds = pytest.mark.parametrize("seeds", BLENDED.values(), ids=BLENDED.keys())


def players_of(seeds):
    return [slot for slot, (stage, _) in seeds.items() if stage not in (Stage.TRAINING, Stage.GERMINATED)]


def correctness(model, data, seeds, members):
    """(N,) bool and mean loss of one pass with amplitude zero for all players outside ``members``."""
    live = {slot: model.cell(slot).alpha.clone() for slot in seeds}
    model.eval()
    with torch.no_grad():
        for slot in players_of(seeds):
            if slot not in members:
                model.cell(slot).alpha.fill_(0.0)
        logits = model(data.normalised(data.validation.images))
        for slot, alpha in live.items():
            model.cell(slot).alpha.copy_(alpha)
    loss = cross_entropy(logits, data.validation.labels).item()
    return (logits.argmax(dim=1) == data.validation.labels).numpy(), loss


def subsets(players):
    return chain.from_iterable(combinations(players, size) for size in range(len(players) + 1))


@every_number_of_seeds
@pytest.mark.parametrize("chunk", [512, 150], ids=["one chunk", "uneven chunks"])
def test_coalitions_equal_the_naive_loop(data, grow, seeds, chunk, monkeypatch):
    monkeypatch.setattr(measurement, "CHUNK", chunk)
    organism = grow(seed=9, **seeds)
    result = measure(organism.model, data, data.validation)
    naive = {
        frozenset(members): correctness(organism.model, data, seeds, members) for members in subsets(players_of(seeds))
    }
    full, loss = naive[frozenset(players_of(seeds))]
    assert result.examples == 400
    assert result.players == tuple(players_of(seeds))
    assert result.accuracy_pp == pytest.approx(100 * full.mean(), abs=1e-9)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    table = {coalition.members: coalition.accuracy_pp for coalition in result.coalitions}
    assert table == pytest.approx(
        {members: 100 * right.mean() for members, (right, _) in naive.items()} if result.players else {}, abs=1e-9
    )
    if result.players:
        assert result.coalitions[-1].members == frozenset(result.players)
        assert len(set(table.values())) > 1  # precondition: the seeds have an effect


def without_running_statistics(module):
    """``module`` with batch normalisation by the batch's own statistics, in evaluation too."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
    return module


@pytest.mark.parametrize("examples", [0, 90])
def test_coalitions_of_a_host_with_batch_statistics_equal_the_naive_loop(config, data, examples):
    """A joint pass was off by up to 0.26 logits; scores of single images must be those of single passes."""

    def host(data):
        spec = build_host(config.host, data.example_shape, data.classes)
        return replace(spec, module=without_running_statistics(spec.module))

    model = awake(build_organism(config, data, torch.device("cpu"), 9, host).model)
    assert {at.passes for at in model.attachments.values()} == {"separate"}
    result = measure(model, data, data.validation, examples=examples)
    limit = examples or 400
    inputs, targets = data.prepared(data.validation, 0, limit)
    players = ("r0c0", "r0c1", "r0c2")
    assert result.players == players
    assert len(result.coalitions) == 8
    for coalition in result.coalitions:
        for slot in players:
            model.cell(slot).alpha.fill_(1.0 if slot in coalition.members else 0.0)
        with torch.no_grad():
            logits = model.eval()(inputs)
        np.testing.assert_array_equal(coalition.scores, (logits.argmax(dim=1) == targets).float().numpy())
    assert result.loss == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-6)
    assert len({coalition.accuracy_pp for coalition in result.coalitions}) > 2


@pytest.mark.parametrize("chunk", [512, 150], ids=["one chunk", "uneven chunks"])
def test_coalitions_of_a_host_that_mixes_rows_later_equal_the_naive_loop(config, data, monkeypatch, chunk):
    """Running statistics are dropped after the slots were attached, where the probe no longer sees it."""
    monkeypatch.setattr(measurement, "CHUNK", chunk)
    model = awake(build_organism(config, data, torch.device("cpu"), 9).model)
    assert {at.passes for at in model.attachments.values()} == {"forked"}
    without_running_statistics(model.host)
    with pytest.warns(RuntimeWarning, match="each coalition of seeds gets a pass of its own"):
        result = measure(model, data, data.validation)
    for coalition in result.coalitions:
        for slot in result.players:
            model.cell(slot).alpha.fill_(1.0 if slot in coalition.members else 0.0)
        parts = [data.prepared(data.validation, start, min(start + chunk, 400)) for start in range(0, 400, chunk)]
        with torch.no_grad():
            right = [(model.eval()(inputs).argmax(dim=1) == targets).float() for inputs, targets in parts]
        np.testing.assert_array_equal(coalition.scores, torch.cat(right).numpy())
    assert len({coalition.accuracy_pp for coalition in result.coalitions}) > 2


def test_measurements_of_a_host_that_mixes_rows_later_do_not_depend_on_earlier_ones(config, data):
    """So those of a resumed episode are those of an uninterrupted one."""
    model = awake(build_organism(config, data, torch.device("cpu"), 9).model)
    norms = [part for part in model.host.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    statistics = [(norm.running_mean, norm.running_var) for norm in norms]
    before = measure(model, data, data.validation)
    without_running_statistics(model.host)
    with pytest.warns(RuntimeWarning):
        measure(model, data, data.validation)
    for norm, (mean, variance) in zip(norms, statistics, strict=True):
        norm.track_running_stats, norm.running_mean, norm.running_var = True, mean, variance
    assert_same_measurement(measure(model, data, data.validation), before)


def assert_same_measurement(actual, expected):
    assert (actual.loss, actual.accuracy_pp) == (expected.loss, expected.accuracy_pp)
    for coalition, other in zip(actual.coalitions, expected.coalitions, strict=True):
        np.testing.assert_array_equal(coalition.scores, other.scores)


def awake(model):
    """``model`` with a holding seed with an effect in every slot."""
    generator = torch.Generator().manual_seed(0)
    for slot in model.slot_ids:
        model.germinate(slot, "conv_light")
        growth, amplitude = model.growth, AlphaController(alpha=1.0, start=1.0, target=1.0)
        growth._apply(slot, replace(growth.states[slot], stage=Stage.HOLDING, alpha=amplitude), None)
        scale = model.cell(slot).seed.scale
        with torch.no_grad():
            scale.copy_(4.0 * torch.randn(scale.shape, generator=generator))
    return model


@every_number_of_seeds
def test_errors_are_paired_standard_errors(data, grow, seeds):
    """Standard deviation of the difference per image, divided by the square root of the number of images."""
    organism = grow(seed=9, **seeds)
    result = measure(organism.model, data, data.validation)
    everyone = frozenset(players_of(seeds))
    full = correctness(organism.model, data, seeds, everyone)[0].astype(float)
    expected = {}
    for slot in everyone:
        without = correctness(organism.model, data, seeds, everyone - {slot})[0].astype(float)
        expected[slot] = 100.0 * np.std(full - without) / math.sqrt(400)
    errors = {slot: estimate.error_pp for slot, estimate in leave_one_out(result).items()}
    assert errors == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert any(error > 0 for error in errors.values()) == bool(everyone)


def fingerprint(model):
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for name, module in model.named_modules():
        digest.update(f"{name}:{module.training};".encode())
    for parameter in model.parameters():
        digest.update(f"{parameter.requires_grad}{parameter.grad is None}".encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


@every_number_of_seeds
def test_measuring_does_not_change_the_model(data, grow, seeds):
    model = grow(seed=9, **seeds).model
    model.train()
    model.host.blocks[0].eval()  # whatever mode each module was in
    before = fingerprint(model)
    first = measure(model, data, data.validation)
    assert fingerprint(model) == before
    assert measure(model, data, data.validation) == first


def test_modes_are_restored_after_a_failed_measurement(data, grow):
    model = grow(seed=9, r0c1=(Stage.BLENDING, 0.4)).model
    model.train()
    before = fingerprint(model)
    model.cell("r0c1").seed.register_forward_hook(lambda *_: (_ for _ in ()).throw(ArithmeticError("boom")))
    with pytest.raises(ArithmeticError, match="boom"):
        measure(model, data, data.validation)
    assert fingerprint(model) == before
    assert model.cell("r0c1").fork is None


def test_test_and_validation_split_are_measured_separately(data, grow):
    model = grow(seed=9, r0c1=(Stage.BLENDING, 0.4)).model
    validation, test = measure(model, data, data.validation), measure(model, data, data.test)
    assert (validation.examples, test.examples) == (400, 300)
    assert validation.loss != test.loss


def test_a_seed_at_amplitude_zero_is_no_player(data, grow):
    result = measure(grow(seed=9, r0c1=(Stage.BLENDING, 0.0)).model, data, data.validation)
    assert (result.players, result.coalitions) == ((), ())
    assert result.accuracy_pp == measure(grow(seed=9).model, data, data.validation).accuracy_pp


def test_the_loss_of_a_nan_host_is_nan(data, grow):
    organism = grow(seed=9)
    with torch.no_grad():
        organism.model.host.head.weight.fill_(math.nan)
    assert math.isnan(measure(organism.model, data, data.validation).loss)


def test_only_the_requested_coalitions_are_measured(data, grow):
    model = grow(seed=9, **BLENDED["three"]).model
    everything = measure(model, data, data.validation)
    committed = frozenset({"r0c0"})
    few = measure(model, data, data.validation, lambda players: few_coalitions(players, committed))
    assert [coalition.members for coalition in few.coalitions] == [committed, frozenset(few.players)]
    assert few.coalition_accuracy_pp(committed) == everything.coalition_accuracy_pp(committed)
    assert (few.accuracy_pp, few.loss) == (everything.accuracy_pp, pytest.approx(everything.loss, rel=1e-6))
    assert all(isinstance(estimate, Unmeasured) for estimate in leave_one_out(few).values())
    assert total_improvement(few) is None


def test_a_limited_measurement_uses_the_first_examples(data, grow):
    model = grow(seed=9, **BLENDED["two"]).model
    part, whole = (measure(model, data, data.validation, examples=n) for n in (90, 0))
    assert (part.examples, whole.examples) == (90, 400)
    for coalition in part.coalitions:
        np.testing.assert_array_equal(coalition.scores, whole.coalition(coalition.members).scores[:90])


def test_scores_are_the_results_of_single_images(data, grow):
    model = grow(seed=9, **BLENDED["two"]).model
    result = measure(model, data, data.validation)
    for coalition in result.coalitions:
        right, _ = correctness(model, data, BLENDED["two"], coalition.members)
        np.testing.assert_array_equal(coalition.scores, right.astype(np.float32))


def test_text_is_scored_per_block_and_its_loss_per_token(grow_text):
    model, data = grow_text
    result = measure(model, data, data.validation)
    with torch.no_grad():
        inputs, targets = data.prepared(data.validation, 0, len(data.validation))
        model.eval()
        logits = model(inputs)
    assert result.loss == pytest.approx(cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-5)
    right = (logits.argmax(2) == targets).float()
    assert result.examples == len(data.validation)
    assert result.accuracy_pp == pytest.approx(100 * right.mean().item(), rel=1e-5)
    np.testing.assert_allclose(result.coalitions[-1].scores, right.mean(1).numpy(), rtol=1e-6)
    off = result.coalition_accuracy_pp(frozenset())
    assert off != result.accuracy_pp


def test_forward_passes_are_limited_for_a_large_vocabulary(grow_text, monkeypatch):
    model, data = grow_text
    whole = measure(model, data, data.validation)
    rows = []
    model.host.head.register_forward_hook(lambda _m, _i, out: rows.append(out.numel()))
    limit = 2 * 3 * data.classes * data.example_shape[0]
    monkeypatch.setattr(measurement, "CHUNK_LOGITS", limit)
    assert measure(model, data, data.validation).loss == pytest.approx(whole.loss, rel=1e-6)
    assert len(rows) > 1
    assert max(rows) <= limit
