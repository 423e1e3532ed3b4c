"""Coalitions against a naive loop, standard errors against NumPy, and purity."""

import hashlib
import math
from itertools import chain, combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from esper_ray.leyline.records import Unmeasured
from esper_ray.leyline.stages import Stage
from esper_ray.simic.attribution import leave_one_out, total_improvement
from esper_ray.tolaria.measurement import validation as measurement
from esper_ray.tolaria.measurement.coalition_sampling import few_coalitions
from esper_ray.tolaria.measurement.validation import measure

BLENDED = {
    "none": {},
    "one": {"r0c1": (Stage.BLENDING, 0.4)},
    "two": {"r0c0": (Stage.HOLDING, 1.0), "r0c2": (Stage.BLENDING, 0.3)},
    "three": {"r0c0": (Stage.FOSSILIZED, 1.0), "r0c1": (Stage.BLENDING, 0.2), "r0c2": (Stage.HOLDING, 1.0)},
    "one beside two that develop": {
        "r0c0": (Stage.TRAINING, 0.0),
        "r0c1": (Stage.BLENDING, 0.5),
        "r0c2": (Stage.GERMINATED, 0.0),
    },
}
every_number_of_seeds = pytest.mark.parametrize("seeds", BLENDED.values(), ids=BLENDED.keys())


def players_of(seeds):
    return [slot for slot, (stage, _) in seeds.items() if stage not in (Stage.TRAINING, Stage.GERMINATED)]


def correctness(model, data, seeds, members):
    """(N,) bool and mean loss with the amplitudes of all players outside ``members`` set to zero, one pass each."""
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
    seen = measure(organism.model, data, data.validation)
    naive = {
        frozenset(members): correctness(organism.model, data, seeds, members) for members in subsets(players_of(seeds))
    }
    full, loss = naive[frozenset(players_of(seeds))]
    assert seen.examples == 400
    assert seen.players == tuple(players_of(seeds))
    assert seen.accuracy_pp == pytest.approx(100 * full.mean(), abs=1e-9)
    assert seen.loss == pytest.approx(loss, rel=1e-5)
    table = {coalition.members: coalition.accuracy_pp for coalition in seen.coalitions}
    assert table == pytest.approx(
        {members: 100 * right.mean() for members, (right, _) in naive.items()} if seen.players else {}, abs=1e-9
    )
    if seen.players:
        assert seen.coalitions[-1].members == frozenset(seen.players)
        assert len(set(table.values())) > 1  # the seeds do matter, or this test says nothing


@every_number_of_seeds
def test_errors_are_paired_standard_errors(data, grow, seeds):
    """Standard deviation of the difference image by image, over the square root of their number."""
    organism = grow(seed=9, **seeds)
    seen = measure(organism.model, data, data.validation)
    everyone = frozenset(players_of(seeds))
    full = correctness(organism.model, data, seeds, everyone)[0].astype(float)
    expected = {}
    for slot in everyone:
        without = correctness(organism.model, data, seeds, everyone - {slot})[0].astype(float)
        expected[slot] = 100.0 * np.std(full - without) / math.sqrt(400)
    errors = {slot: found.error_pp for slot, found in leave_one_out(seen).items()}
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
def test_measuring_leaves_no_trace(data, grow, seeds):
    model = grow(seed=9, **seeds).model
    model.train()
    model.host.blocks[0].eval()  # whatever mode each module was in
    before = fingerprint(model)
    first = measure(model, data, data.validation)
    assert fingerprint(model) == before
    assert measure(model, data, data.validation) == first


def test_modes_are_put_back_even_when_the_measurement_fails(data, grow):
    model = grow(seed=9, r0c1=(Stage.BLENDING, 0.4)).model
    model.train()
    before = fingerprint(model)
    model.cell("r0c1").seed.register_forward_hook(lambda *_: (_ for _ in ()).throw(ArithmeticError("boom")))
    with pytest.raises(ArithmeticError, match="boom"):
        measure(model, data, data.validation)
    assert fingerprint(model) == before
    assert model.cell("r0c1").fork is None


def test_test_and_validation_split_are_measured_apart(data, grow):
    model = grow(seed=9, r0c1=(Stage.BLENDING, 0.4)).model
    validation, test = measure(model, data, data.validation), measure(model, data, data.test)
    assert (validation.examples, test.examples) == (400, 300)
    assert validation.loss != test.loss


def test_a_seed_at_amplitude_zero_is_no_player(data, grow):
    seen = measure(grow(seed=9, r0c1=(Stage.BLENDING, 0.0)).model, data, data.validation)
    assert (seen.players, seen.coalitions) == ((), ())
    assert seen.accuracy_pp == measure(grow(seed=9).model, data, data.validation).accuracy_pp


def test_a_broken_host_is_measured_not_raised(data, grow):
    organism = grow(seed=9)
    with torch.no_grad():
        organism.model.host.head.weight.fill_(math.nan)
    assert math.isnan(measure(organism.model, data, data.validation).loss)


def test_only_the_coalitions_that_are_asked_for_are_measured(data, grow):
    model = grow(seed=9, **BLENDED["three"]).model
    everything = measure(model, data, data.validation)
    committed = frozenset({"r0c0"})
    few = measure(model, data, data.validation, lambda players: few_coalitions(players, committed))
    assert [coalition.members for coalition in few.coalitions] == [committed, frozenset(few.players)]
    assert few.coalition_accuracy_pp(committed) == everything.coalition_accuracy_pp(committed)
    assert (few.accuracy_pp, few.loss) == (everything.accuracy_pp, pytest.approx(everything.loss, rel=1e-6))
    assert all(isinstance(found, Unmeasured) for found in leave_one_out(few).values())
    assert total_improvement(few) is None


def test_a_part_of_the_split_is_its_beginning(data, grow):
    model = grow(seed=9, **BLENDED["two"]).model
    part, whole = (measure(model, data, data.validation, examples=n) for n in (90, 0))
    assert (part.examples, whole.examples) == (90, 400)
    for coalition in part.coalitions:
        np.testing.assert_array_equal(coalition.scores, whole.coalition(coalition.members).scores[:90])


def test_scores_are_the_results_of_single_images(data, grow):
    model = grow(seed=9, **BLENDED["two"]).model
    seen = measure(model, data, data.validation)
    for coalition in seen.coalitions:
        right, _ = correctness(model, data, BLENDED["two"], coalition.members)
        np.testing.assert_array_equal(coalition.scores, right.astype(np.float32))


def test_text_is_scored_per_block_and_its_loss_per_token(grow_text):
    model, data = grow_text
    seen = measure(model, data, data.validation)
    with torch.no_grad():
        inputs, targets = data.prepared(data.validation, 0, len(data.validation))
        model.eval()
        logits = model(inputs)
    assert seen.loss == pytest.approx(cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-5)
    right = (logits.argmax(2) == targets).float()
    assert seen.examples == len(data.validation)
    assert seen.accuracy_pp == pytest.approx(100 * right.mean().item(), rel=1e-5)
    np.testing.assert_allclose(seen.coalitions[-1].scores, right.mean(1).numpy(), rtol=1e-6)
    off = seen.coalition_accuracy_pp(frozenset())
    assert off != seen.accuracy_pp


def test_forward_passes_stay_small_where_the_vocabulary_is_large(grow_text, monkeypatch):
    model, data = grow_text
    whole = measure(model, data, data.validation)
    rows = []
    model.host.head.register_forward_hook(lambda _m, _i, out: rows.append(out.numel()))
    limit = 2 * 3 * data.classes * data.example_shape[0]
    monkeypatch.setattr(measurement, "CHUNK_LOGITS", limit)
    assert measure(model, data, data.validation).loss == pytest.approx(whole.loss, rel=1e-6)
    assert len(rows) > 1
    assert max(rows) <= limit
