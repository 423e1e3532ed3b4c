"""Growth in width within a session: targets, room, folding, saved states."""

import pytest
import torch
from torch import nn

from esper_ray import grow
from esper_ray.growing.room import Room, folded_parameters, price_of_channel
from esper_ray.kasmina import MorphogeneticModel, Rules, find_spans
from esper_ray.kasmina.lifecycle.gates import Gate, GateRules
from esper_ray.kasmina.modules import count_parameters, seeded_initialisation
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.tolaria.assembly import GrowthError, shortest_life

X = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long() + (X[:, 2] > 0).long()


def host(seed=0):
    with seeded_initialisation(seed):
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def session(**options):
    model = host()
    slots = {f"r0c{index}": span for index, span in enumerate(find_spans(model, X[:2]))}
    settings = {"epochs": 30, "slots": slots, "lr": 0.02, "report": len} | options
    return grow(model, (X, Y), **settings)


def trained(growing, epochs=None):
    for step in growing:
        for part in torch.arange(len(X)).split(16):
            growing.train_step((X[part], Y[part]))
        if step.epoch + 1 == epochs:
            break
    return growing


def test_growth_leads_to_the_target_and_does_not_exceed_it():
    growing = trained(session(parameters=150))
    assert max(step.parameters for step in growing.history) <= 150
    assert count_parameters(host()) == 59
    assert growing.model.host_parameters == growing.model.total_parameters == count_parameters(growing.plain()) >= 100
    births = [step for step in growing.history if step.operation == "GERMINATE" and step.success]
    assert len(births) > 1
    assert {step.blueprint.partition("_")[0] for step in births} == {"widen"}


def test_committed_seeds_become_part_of_their_layers_and_the_span_grows_again():
    growing = trained(session(parameters=150))
    committed = [step.slot for step in growing.history if step.operation == "FOSSILIZE" and step.success]
    assert committed
    assert not growing.model.committed_slots
    assert sum(growing.model.cell(slot).added for slot in growing.model.slot_ids) > 0


def test_without_folding_committed_seeds_stay_beside_their_layers():
    growing = trained(session(parameters=150, fold=False))
    assert growing.model.committed_slots
    assert growing.model.host_parameters == 59
    assert count_parameters(growing.plain()) > 59


def test_a_reached_target_allows_no_birth():
    growing = trained(session(parameters=60), epochs=6)
    assert {step.operation for step in growing.history} == {"WAIT"}


@pytest.mark.parametrize("parameters", [58, 0, -1, 2.5, True])
def test_a_target_below_the_host_is_refused(parameters):
    with pytest.raises(ValueError, match="parameters is a whole number, at least the 59 of the model, got"):
        session(parameters=parameters)


def test_the_target_may_be_a_key_of_growth():
    growing = trained(session(growth={"target_parameters": 150}))
    assert 100 <= growing.model.total_parameters <= 150
    with pytest.raises(ValueError, match=r"parameters is 200 and growth\.target_parameters 150; give one of the two"):
        session(parameters=200, growth={"target_parameters": 150})
    with pytest.raises(ValueError, match="parameters is a whole number, at least the 59 of the model, got 58"):
        session(growth={"target_parameters": 58})


def test_frozen_seeds_are_not_folded():
    with pytest.raises(GrowthError, match=r"growth\.freeze_fossils: a frozen seed cannot become part"):
        session(growth={"freeze_fossils": True})
    growing = trained(session(growth={"freeze_fossils": True}, fold=False, parameters=150))
    assert growing.model.committed_slots


def test_spans_and_other_slots_are_not_mixed():
    with pytest.raises(GrowthError, match="slot r0c0 sits on a span and slot r0c1 does not"):
        session(slots={"r0c0": "0 -> 2", "r0c1": "4"})


def test_other_blueprints_and_styles_are_refused_for_spans():
    with pytest.raises(GrowthError, match="blueprint 'norm' does not fit the span 0 -> 2"):
        session(growth={"blueprints": ["norm"]})
    with pytest.raises(GrowthError, match=r"growth\.styles: slot r0c0: seeds that widen a span are added"):
        session(growth={"blueprints": ["norm=widen_half"], "styles": ["linear_multiply"]})
    with pytest.raises(ValueError, match=r"growth\.initialisation\.widen: tiny needs a loss at birth"):
        session(growth={"initialisation": {"widen": "tiny"}})


@pytest.mark.parametrize(
    "rules", [{"widening_births": "hidden"}, {"min_training_epochs": 1}, {"blueprints": ["norm=widen_half"]}]
)
def test_single_keys_of_growth_leave_the_defaults_of_spans(rules):
    growing = session(growth=rules)
    names = {growing.limits.blueprint_name(blueprint) for blueprint in growing.limits.blueprints}
    assert names == ({"widen_half"} if "blueprints" in rules else {"widen_eighth", "widen_quarter", "widen_half"})
    assert {style.operator for style in growing.limits.styles} == {BlendOperator.ADD}


@pytest.mark.parametrize("births", ["live", "hidden"])
def test_a_session_is_resumed_bit_for_bit_after_a_fold(births):
    rules = {"growth": {"widening_births": births}}
    straight, interrupted = trained(session(parameters=150, **rules)), session(parameters=150, **rules)
    trained(interrupted, epochs=14)
    assert sum(interrupted.model.cell(slot).added for slot in interrupted.model.slot_ids)
    blob = interrupted.save_state()
    resumed = session(parameters=150, **rules)
    resumed.load_state(blob)
    trained(resumed)
    assert [str(step) for step in resumed.history] == [str(step) for step in straight.history]
    expected = straight.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_a_rollback_restores_the_widths_of_before():
    growing = session(parameters=150)
    widths = []
    for step in growing:
        poisoned = step.operation == "FOSSILIZE" and step.success and not widths  # its seed was folded just now
        if poisoned:
            widths.append(growing.model.host_parameters)
        for part in torch.arange(len(X)).split(16):
            growing.train_step((X[part], Y[part]))
        if poisoned:
            with torch.no_grad():
                growing.model.host[0].weight.fill_(float("nan"))
        elif widths:
            break
    assert [step.operation for step in growing.history[-2:]] == ["FOSSILIZE", "FOSSILIZE"]
    assert growing.history[-1].restored is not None
    assert growing.model.host_parameters == widths[0]
    assert all(bool(parameter.isfinite().all()) for parameter in growing.model.parameters())


def test_the_shortest_life_follows_the_gates():
    gates = {"min_training_epochs": 4, "min_blending_epochs": 6}
    for place, live in (("0", True), ("0 -> 2", False)):
        for rules, life in (
            (Rules(GateRules(**gates), live_widenings=live), 4 + 3 + 2),
            (Rules(GateRules(**gates), frozenset({Gate.G1, Gate.G3}), live_widenings=live), 4 + 3),
            (Rules(GateRules(**gates, strict=True), frozenset(Gate), live_widenings=live), 4 + 7),
        ):
            assert shortest_life(MorphogeneticModel.wrap(host(), {"r0c0": place}, X[:2], rules=rules)) == life
    live = MorphogeneticModel.wrap(host(), {"r0c0": "0 -> 2"}, X[:2], rules=Rules(live_widenings=True))
    assert shortest_life(live) == 2


def test_no_seed_is_born_that_could_not_be_finished():
    growing = session()
    room = Room(None, growing.limits, 30)
    life = shortest_life(growing.model)
    assert not room.limits_before(growing.model, 30 - life).closed
    assert room.limits_before(growing.model, 31 - life).closed == {"r0c0", "r0c1"}


def test_a_slot_in_which_nothing_fits_is_closed_and_others_are_not():
    """A channel costs 10 parameters in r0c0 and 8 in r0c1."""
    growing = session(parameters=59 + 9)
    assert Room(59 + 9, growing.limits, 30).limits_before(growing.model, 5).closed == {"r0c0"}
    assert Room(59 + 10, growing.limits, 30).limits_before(growing.model, 5).closed == frozenset()
    assert trained(growing).model.total_parameters == 59 + 8


def test_blueprints_that_fit_nowhere_are_not_offered():
    """A norm has 12 parameters, the smallest MLP 80."""
    growing = session(slots={"r0c0": "1"}, parameters=59 + 20, growth={"blueprints": ["mlp_small", "norm"]})
    assert growing.view().masks.arguments["blueprint"].nonzero()[0].tolist() == [int(Blueprint.NORM)]
    births = [step for step in trained(growing).history if step.operation == "GERMINATE"]
    assert births
    assert all(step.success and step.blueprint == "norm" for step in births)


def test_the_price_of_a_channel_counts_what_joins_it_to_living_neighbours():
    growing = session(parameters=400)
    model = growing.model
    free = {slot: price_of_channel(model, model.cell(slot)) for slot in model.slot_ids}
    assert free == {"r0c0": 5 + 1 + 4, "r0c1": 4 + 1 + 3}
    model.germinate("r0c0", "widen", channels=3)
    assert price_of_channel(model, model.cell("r0c1")) == 8 + 3
    model.germinate("r0c1", "widen", channels=2)
    assert model.total_parameters == 59 + 3 * 10 + 2 * 8
    assert folded_parameters(model) == 59 + 3 * 10 + 2 * 8 + 3 * 2


def test_a_missed_target_is_told():
    lines = []
    trained(session(parameters=150, report=lines.append))
    assert not any("should lead to" in line for line in lines)
    trained(session(parameters=5000, epochs=4, report=lines.append))
    assert lines[-1].endswith("parameters, fewer than the 5,000 that growth should lead to")


def test_slots_are_a_mapping():
    with pytest.raises(ValueError, match=r"slots maps slot ids to places, .* got a list"):
        session(slots=["0 -> 2"])
