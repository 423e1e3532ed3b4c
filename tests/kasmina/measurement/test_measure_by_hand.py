"""Measurements by hand: what the gates ask for, from a model, its optimizer and held-out examples."""

import copy
from dataclasses import replace

import pytest
import torch
from growing_builders import Dropping, Small, examples, seeded, vectors, weights_of
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from esper_ray.kasmina import GateRules, GrowingOptimizer, MorphogeneticModel, Rules
from esper_ray.kasmina.measurement.held_out import HeldOut
from esper_ray.kasmina.measurement.objective import Objective
from esper_ray.leyline.records import UNMEASURED
from esper_ray.leyline.stages import Stage

SLOT = "r0c0"


def make(build=Dropping, data=vectors, slots=None, **gates):
    x, y = data()
    rules = Rules(GateRules(**({"min_training_epochs": 1, "min_blending_epochs": 1} | gates)))
    places = slots or {SLOT: "first"}
    model = MorphogeneticModel.wrap(seeded(build), places, x[:2], rules=rules)
    return model, GrowingOptimizer(model, torch.optim.SGD, lr=0.1), (x, y)


def epoch(model, optimizer, data, steps=3):
    x, y = data
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        model.incubate(lambda: cross_entropy(model(x), y))
        optimizer.step()
    model.epoch_elapsed()


@pytest.mark.parametrize("strict", [False, True])
def test_a_whole_life_passes_the_gates_on_measurements_alone(strict):
    """Thresholds that any healthy seed reaches, but for the contribution, whose sign decides."""
    model, optimizer, data = make(
        strict=strict, min_training_improvement_pp=-100.0, min_gradient_ratio=1e-9, min_contribution_pp=-100.0
    )
    model.germinate(SLOT, "norm", tempo=2)
    assert model.advance(SLOT)
    model.measure(data)
    stages = []
    for _ in range(9):
        epoch(model, optimizer, data)
        measured = model.measure(data)[SLOT]
        stage = model.states[SLOT].stage
        if stage is Stage.HOLDING:
            outcome = model.fossilize(SLOT, measured)
            contributes = measured.contribution_pp > (-100.0 if strict else 0.0)
            assert outcome.success is contributes
            stages.append(model.states[SLOT].stage)
            break
        model.advance(SLOT, measured)
        stages.append(model.states[SLOT].stage)
    assert stages[0] is Stage.BLENDING
    assert Stage.HOLDING in stages
    assert not strict or stages[-1] is Stage.FOSSILIZED


def test_a_gate_answers_in_words_what_is_missing():
    model, optimizer, data = make(min_training_epochs=3)
    model.germinate(SLOT, "norm")
    assert str(model.advance(SLOT)) == "done: GERMINATED -> TRAINING"
    epoch(model, optimizer, data)
    assert str(model.advance(SLOT)) == (
        "no effect: epochs in training: 1, needed at least 3; gradients do not explode: not measured yet; "
        "gradient health: not measured yet; model.measure(held_out) measures it"
    )
    outcome = model.advance(SLOT, model.measure(data)[SLOT])
    assert str(outcome) == "no effect: epochs in training: 1, needed at least 3"


def test_contribution_is_the_score_with_minus_without_the_seed():
    model, _, (x, y) = make()
    model.germinate(SLOT, "norm", tempo=1)
    model.advance(SLOT)
    model.growth.count_epoch()
    measured = model.measure((x, y))[SLOT]
    assert (measured.contribution_pp, measured.gradient_norm) == (None, None)
    state = model.growth.record()
    seed = replace(state.states[SLOT], stage=Stage.HOLDING, previous_stage=Stage.BLENDING)
    seed = replace(seed, alpha=replace(seed.alpha, alpha=1.0, start=1.0, target=1.0))
    record = replace(state, states={SLOT: seed})
    model.growth.adopt(record, model.growth.rebuild(record))
    with torch.no_grad():
        model.cell(SLOT).seed.scale.copy_(torch.linspace(-9.0, 9.0, 6))
    model.eval()
    with torch.no_grad():
        on = (model(x).argmax(dim=1) == y).float()
        hook = model.host.first._forward_hooks.popitem()
        off = (model(x).argmax(dim=1) == y).float()
        model.host.first._forward_hooks[hook[0]] = hook[1]
    measured = model.measure((x, y))[SLOT]
    assert measured.contribution_pp == pytest.approx(100.0 * (on - off).mean().item())
    assert measured.contribution_error_pp == pytest.approx(100.0 * (on - off).std(correction=0).item() / 24**0.5)
    assert model.measurer.last.accuracy_pp == pytest.approx(100.0 * on.mean().item())


def test_gradients_are_those_of_the_steps_since_the_last_call():
    model, optimizer, data = make()
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    epoch(model, optimizer, data, steps=2)
    assert model.measure(data)[SLOT].gradient_norm > 0.0
    assert model.measure(data)[SLOT].gradient_norm is None
    norms, (x, y) = [], data
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        model.incubate(lambda: cross_entropy(model(x), y))
        parts = [p.grad.norm() for p in optimizer.group(SLOT) if p.grad is not None]
        norms.append(torch.stack(parts).norm().item())
        optimizer.step()
    assert model.measure(data)[SLOT].gradient_norm == pytest.approx(sum(norms) / 2)


def test_measuring_changes_neither_the_model_nor_its_mode():
    model, optimizer, data = make()
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    epoch(model, optimizer, data)
    model.train()
    before, random = weights_of(model.host), torch.get_rng_state()
    model.measure(data)
    assert weights_of(model.host) == before
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)


def test_an_empty_slot_is_unmeasured_and_the_improvement_needs_an_earlier_call():
    model, optimizer, data = make(slots={SLOT: "first", "r0c1": "second"})
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    epoch(model, optimizer, data)
    first = model.measure(data)
    assert (first["r0c1"], first[SLOT].improvement_pp) == (UNMEASURED, None)
    model, optimizer, data = make()
    before = model.measure(data) and model.measurer.last.accuracy_pp
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    epoch(model, optimizer, data, steps=20)
    measured = model.measure(data)[SLOT]
    assert measured.improvement_pp == model.measurer.last.accuracy_pp - before


def test_an_elapsed_epoch_counts_and_ticks_once():
    model, _, _ = make()
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    model.prune(SLOT)
    stages = []
    for _ in range(8):
        events = model.epoch_elapsed()
        stages.append(None if model.states[SLOT] is None else model.states[SLOT].stage)
        assert set(events) <= {SLOT}
    assert stages == [*[Stage.EMBARGOED] * 5, Stage.RESETTING, None, None]
    assert model.growth.epoch == 8


def test_a_copied_model_measures_on_its_own():
    model, optimizer, data = make()
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    epoch(model, optimizer, data)
    twin, optimizer_of_twin = copy.deepcopy((model, optimizer))
    assert twin.measure(data)[SLOT].gradient_norm is None
    epoch(twin, optimizer_of_twin, data)
    assert twin.measure(data)[SLOT].gradient_norm > 0.0
    assert model.measure(data)[SLOT].gradient_norm > 0.0


def test_another_optimizer_leaves_gradients_unmeasured():
    model, _, (x, y) = make()
    model.germinate(SLOT, "norm")
    model.advance(SLOT)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    cross_entropy(model(x), y).backward()
    other.step()
    assert model.measure((x, y))[SLOT].gradient_health is None


# Held-out examples


class Outputs(Small):
    """The logits within a mapping."""

    def forward(self, x, labels=None):
        logits = super().forward(x)
        loss = None if labels is None else cross_entropy(logits, labels)
        return {"logits": logits} | ({} if loss is None else {"loss": loss})


def grown(build, example):
    """A model with two seeds that change its output."""
    model = MorphogeneticModel.wrap(seeded(build), {SLOT: "first", "r0c1": "second"}, example)
    for slot in model.slot_ids:
        model.germinate(slot, "norm")
    state = model.growth.record()
    seeds = {
        slot: replace(
            seed,
            stage=Stage.HOLDING,
            previous_stage=Stage.BLENDING,
            alpha=replace(seed.alpha, alpha=1.0, start=1.0, target=1.0),
        )
        for slot, seed in state.states.items()
    }
    record = replace(state, states=seeds)
    model.growth.adopt(record, model.growth.rebuild(record))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for slot in model.slot_ids:
            scale = model.cell(slot).seed.scale
            scale.copy_(9.0 * torch.randn(scale.shape, generator=generator))
        model.host.head.weight.copy_(torch.randn(3, 4, generator=generator))
        model.host.head.bias.zero_()
        model.host.second.weight.copy_(torch.randn(4, 3, 1, 1, generator=generator))
    return model


def test_single_passes_of_a_mapping_equal_joint_passes_of_a_tensor():
    x, y = examples()
    tensor, mapping = grown(Small, x[:2]), grown(Outputs, {"x": x[:2]})
    first = tensor.measure((x, y))
    second = mapping.measure({"x": x, "labels": y})
    assert second == first
    assert [c.members for c in mapping.measurer.last.coalitions] == [c.members for c in tensor.measurer.last.coalitions]
    assert mapping.measurer.last.loss == pytest.approx(tensor.measurer.last.loss)
    assert first[SLOT].interaction_pp != 0.0  # the coalitions differ


def test_scores_from_losses_keep_the_unit_of_the_first_call():
    x, _ = vectors()
    y = x.sum(dim=1, keepdim=True)
    model = MorphogeneticModel.wrap(seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))), {SLOT: "0"}, x[:2])
    model.measure((x, y), loss=mse_loss)
    before, first = model.measurer.last, mse_loss(model(x), y).item()
    with torch.no_grad():
        model.host[1].weight.zero_()
        model.host[1].bias.zero_()
    model.measure((x.clone(), y), loss=mse_loss)
    each = 1.0 / (1.0 + y.square().squeeze(1) / first)
    assert before.loss == pytest.approx(first)
    assert model.measurer.last.accuracy_pp == pytest.approx(100.0 * each.mean().item(), rel=1e-5)


def test_held_out_batches_of_different_lengths_are_measured_together():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    tokens = [torch.randint(0, 5, (3, length), generator=torch.Generator().manual_seed(length)) for length in (4, 6, 4)]
    held_out = HeldOut([(part, part) for part in tokens], model)
    assert held_out.examples == 9
    assert held_out.classes == 5
    grown_model = MorphogeneticModel.wrap(model, {SLOT: "0"}, tokens[0])
    grown_model.measure([(part, part) for part in tokens])
    losses = [cross_entropy(model(part).flatten(0, 1), part.flatten()) for part in tokens]
    expected = (4 * losses[0] + 6 * losses[1] + 4 * losses[2]) / 14
    assert grown_model.measurer.last.loss == pytest.approx(expected.item(), rel=1e-5)


def test_the_fingerprint_depends_on_every_value():
    x, y = examples()
    model = Small()
    first = HeldOut((x, y), model).fingerprint
    assert HeldOut([(x[:9], y[:9]), (x[9:], y[9:])], model).fingerprint == first
    changed = x.clone()
    changed[-1, 0, 0, 0] += 1e-6
    assert HeldOut((changed, y), model).fingerprint != first
    assert HeldOut((x, (y + 1) % 3), model).fingerprint != first
    assert HeldOut((x, y), model, Objective(), limit=23).fingerprint != first
