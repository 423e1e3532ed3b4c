"""Policy network: memory, slots in any number and order, normalizer, critic, initialisation."""

import numpy as np
import pytest
import torch

from esper_policies.network import FeatureNormaliser, PolicyNetwork, parameter_count, state_value
from esper_ray.leyline.actions import ARGUMENT_HEADS, LifecycleOp
from esper_ray.leyline.config.run import PolicyConfig
from esper_ray.leyline.context import CONTEXT_SIZE
from esper_ray.leyline.observation import (
    BASE_CONTINUOUS,
    BASE_SIZE,
    SLOT_CONTINUOUS,
    SLOT_SIZE,
    observation_names,
    observation_size,
)

SMALL = {"feature_size": 16, "memory_size": 16}


def network_of(seed=0, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PolicyNetwork(PolicyConfig(**(SMALL | changes)))


def observations(episodes, steps, slots, seed=0):
    """Random features, about a third of the slots empty, the blueprints that go with them, and random contexts."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(episodes, steps, observation_size(slots), generator=generator)
    occupied = torch.rand(episodes, steps, slots, generator=generator) < 0.7
    rows = features[..., BASE_SIZE:].reshape(episodes, steps, slots, SLOT_SIZE)
    rows[..., 0] = 1.0
    features[..., BASE_SIZE:] = (rows * occupied[..., None]).flatten(2)
    blueprints = torch.randint(13, (episodes, steps, slots), generator=generator)
    context = torch.rand(episodes, steps, slots, CONTEXT_SIZE, generator=generator)
    return features, torch.where(occupied, blueprints, -1), context


def everything(output):
    return {"op": output.logits.op, "slot": output.logits.slot, "q": output.q} | output.logits.arguments


@pytest.mark.parametrize("feature_size", [16, 24])
def test_step_by_step_equals_the_whole_sequence(feature_size):
    network = network_of(feature_size=feature_size)
    features, blueprints, context = observations(3, 7, 2)
    whole = everything(network(features, blueprints, context))
    memory, steps = None, []
    for t in range(7):
        output = network(*(part[:, t : t + 1] for part in (features, blueprints, context)), memory)
        memory = output.memory
        steps.append(everything(output))
    for name, expected in whole.items():
        joined = torch.stack([step[name] for step in steps], dim=1).flatten(0, 1)
        torch.testing.assert_close(joined, expected, atol=1e-5, rtol=1e-5)


def test_outputs_depend_on_earlier_steps():
    """Precondition of the test above."""
    network = network_of()
    features, blueprints, context = observations(1, 4, 2)
    whole = network(features, blueprints, context).logits.op[-1]
    alone = network(features[:, -1:], blueprints[:, -1:], context[:, -1:]).logits.op[0]
    assert (whole - alone).abs().max() > 1e-6


def test_outputs_do_not_depend_on_later_steps():
    network = network_of()
    features, blueprints, context = observations(1, 5, 2)
    before = everything(network(features, blueprints, context))
    features[:, 3:] += 1.0
    after = everything(network(features, blueprints, context))
    for name, expected in before.items():
        assert torch.equal(after[name][:3], expected[:3])
        assert not torch.equal(after[name][3:], expected[3:])


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_permuted_slots_permute_their_outputs_only(order):
    network = network_of()
    features, blueprints, context = observations(2, 4, 3, seed=1)
    expected = network(features, blueprints, context)
    rows = features[..., BASE_SIZE:].reshape(2, 4, 3, SLOT_SIZE)[:, :, order]
    shuffled = torch.cat([features[..., :BASE_SIZE], rows.flatten(2)], dim=-1)
    output = network(shuffled, blueprints[..., order], context[:, :, order])
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(output.logits.op, expected.logits.op, **close)
    torch.testing.assert_close(output.q, expected.q, **close)
    torch.testing.assert_close(output.logits.slot, expected.logits.slot[:, :, order], **close)
    for head in ARGUMENT_HEADS:
        torch.testing.assert_close(output.logits.arguments[head], expected.logits.arguments[head][:, :, order], **close)
    assert not torch.allclose(output.logits.slot, expected.logits.slot, atol=1e-5)


def test_empty_slots_are_told_apart_by_their_context_alone():
    """All slots are empty and have equal features; two have equal contexts."""
    network = network_of()
    features, blueprints = torch.zeros(1, 1, observation_size(3)), torch.full((1, 1, 3), -1)
    context = torch.rand(1, 1, 3, CONTEXT_SIZE, generator=torch.Generator().manual_seed(0))
    context[..., 2, :] = context[..., 0, :]
    scores = network(features, blueprints, context).logits.slot[0, LifecycleOp.GERMINATE]
    assert scores[0] == scores[2]
    assert (scores[0] - scores[1]).abs() > 1e-4


def test_one_set_of_weights_serves_any_number_of_slots():
    """Copies of a slot have equal features, so its outputs do not change."""
    network = network_of()
    features, blueprints, context = observations(2, 3, 1)
    alone = network(features, blueprints, context)
    for slots in (1, 3, 5, 10):
        many = torch.cat([features[..., :BASE_SIZE], features[..., BASE_SIZE:].repeat(1, 1, slots)], dim=-1)
        output = network(many, blueprints.repeat(1, 1, slots), context.repeat(1, 1, slots, 1))
        assert output.logits.slot.shape == (6, 6, slots)
        torch.testing.assert_close(output.logits.op, alone.logits.op, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(output.logits.slot, alone.logits.slot.expand(-1, -1, slots), atol=1e-6, rtol=1e-5)
        tempo = alone.logits.arguments["tempo"].expand(-1, -1, slots, -1)
        torch.testing.assert_close(output.logits.arguments["tempo"], tempo, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("critic", ["q_op", "v"])
def test_new_mean_and_scale_of_values_do_not_change_predictions_in_reward_units(critic):
    network = network_of(critic=critic)
    features, blueprints, context = observations(2, 3, 2)
    before = network(features, blueprints, context).q.detach()
    assert before.std() > 1e-2
    for mean, scale in ((3.0, 8.0), (-40.0, 0.25), (0.5, 2.0)):
        network.renormalise_values(mean, scale)
        output = network(features, blueprints, context).q.detach()
        torch.testing.assert_close(mean + scale * output, before, atol=1e-4, rtol=1e-4)
        assert torch.equal(network.values(output), mean + scale * output)
    assert (float(network.value_mean), float(network.value_scale)) == (0.5, 2.0)


def test_first_mean_and_scale_of_values_leave_the_outputs_of_the_critic():
    """An untrained critic has no unit to preserve: its predictions were 0, whatever its outputs are."""
    network = network_of()
    features, blueprints, context = observations(2, 3, 2)
    before = network(features, blueprints, context).q.detach()
    network.forget_values()
    assert (network.values(before) == 0).all()
    assert (network.normalised_values(torch.tensor([5.0, -7.0])) == 0).all()
    network.renormalise_values(-2.0, 340.0)
    assert torch.equal(network(features, blueprints, context).q, before)
    assert network.normalised_values(torch.tensor([338.0, -2.0])).tolist() == [1.0, 0.0]


def test_equal_returns_have_a_mean_and_no_scale():
    network = network_of()
    network.forget_values()
    network.renormalise_values(7.0, 0.0)
    assert network.values(torch.tensor([-1.0, 3.0])).tolist() == [7.0, 7.0]
    assert (network.normalised_values(torch.tensor([7.0, 7.5])) == 0).all()


def test_every_parameter_is_in_one_group():
    network = network_of()
    groups = network.parameter_groups()
    parameters = [parameter for group in groups for parameter in group]
    assert len(parameters) == len(list(network.parameters()))
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters()}
    assert {id(p) for p in groups.critic} == {id(p) for p in network.critic.parameters()}
    assert any(p is network.lstm.weight_hh_l0 for p in groups.trunk)
    assert any(p is network.argument_heads["tempo"].out.weight for p in groups.policy)


def test_only_continuous_features_are_normalised():
    normaliser = FeatureNormaliser()
    statistics = [np.stack([np.full(size, 3.0), np.full(size, 2.0)]) for size in (BASE_SIZE, SLOT_SIZE)]
    normaliser.set_statistics(*statistics)
    features = torch.full((1, observation_size(2)), 1.0)
    base, slots = normaliser(features)
    assert base[0].tolist() == [-1.0 if continuous else 1.0 for continuous in BASE_CONTINUOUS]
    for slot in slots[0].tolist():
        assert slot == [-1.0 if continuous else 1.0 for continuous in SLOT_CONTINUOUS]
    names = observation_names(["s"])
    scaled = [names[i] for i, value in enumerate([*base[0], *slots[0, 0]]) if value == -1.0]
    assert scaled[:2] == ["val_loss", "val_accuracy"]
    assert "s.contribution" in scaled
    assert "s.alpha" not in scaled
    assert "s.freshness" not in scaled


def test_empty_slots_stay_zero_and_outliers_are_bounded():
    normaliser = FeatureNormaliser()
    statistics = [np.stack([np.full(size, 3.0), np.full(size, 1e-3)]) for size in (BASE_SIZE, SLOT_SIZE)]
    normaliser.set_statistics(*statistics)
    features = torch.full((1, observation_size(2)), 1.0)
    features[:, BASE_SIZE : BASE_SIZE + SLOT_SIZE] = 0.0
    base, slots = normaliser(features)
    assert (slots[0, 0] == 0).all()
    assert slots[0, 1].min() == base.min() == -10.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_features_are_refused(bad):
    network = network_of()
    features, blueprints, context = observations(1, 2, 2)
    features[0, 1, 5] = bad
    with pytest.raises(ValueError, match="not finite"):
        network(features, blueprints, context)


def test_the_untrained_policy_prefers_waiting_and_avoids_pruning():
    network = network_of(wait_logit=1.5, prune_logit=-2.5)
    assert network.op_head[-1].bias.tolist() == [1.5, 0.0, 0.0, -2.5, 0.0, 0.0]
    features, blueprints, context = observations(4, 5, 3)
    logits = network(features, blueprints, context).logits
    assert (logits.op - torch.tensor([1.5, 0.0, 0.0, -2.5, 0.0, 0.0])).abs().max() < 0.3
    for head in ARGUMENT_HEADS:
        assert logits.arguments[head].abs().max() < 0.3


def test_critic_v_has_equal_values_for_all_operations():
    features, blueprints, context = observations(2, 3, 2)
    plain = network_of(critic="v")(features, blueprints, context).q
    assert plain.shape == (6, 6)
    assert torch.equal(plain, plain[:, :1].expand(-1, 6))
    assert plain[:, 0].unique().numel() == 6
    q = network_of(critic="q_op")(features, blueprints, context).q
    assert (q[:, 0] - q[:, LifecycleOp.PRUNE]).abs().min() > 0


def test_the_state_value_is_the_expectation_over_operations():
    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.0, 0.0, 0.0]]).log().clamp_min(-1e9)
    q = torch.tensor([[2.0, 4.0, -8.0, 1e6, 1e6, 1e6]])
    assert state_value(log_probs, q).tolist() == [0.0]


def test_the_number_of_parameters_by_hand():
    """Feature and memory width 16: embedding 56, slots 6976, features 2464, LSTM 2176, norm 32, op 2950, pointer
    5632, argument heads 12173 + 11140 + 10883 + 11011 + 11140 + 11269, critic 6406."""
    assert network_of().parameter_count() == 94_308
    assert network_of(critic="v").parameter_count() == 94_308 - 5 * 257
    assert network_of(feature_size=24).parameter_count() == 94_308 + 8 * (151 + 3) + 24 * 16 + 16


@pytest.mark.parametrize(("features", "memory"), [(512, 512), (24, 16), (16, 48)])
def test_parameter_count_needs_no_network(features, memory):
    config = PolicyConfig(feature_size=features, memory_size=memory)
    network = PolicyNetwork(config, initialise=False)
    assert parameter_count(config) == network.parameter_count() == sum(p.numel() for p in network.parameters())
    assert (network.lstm.hidden_size, network.features[0].out_features) == (memory, features)


def test_the_state_dict_includes_statistics_of_features_and_values():
    trained = network_of(1)
    trained.renormalise_values(-4.0, 3.0)
    trained.normaliser.set_statistics(np.full((2, BASE_SIZE), 2.0), np.full((2, SLOT_SIZE), 2.0))
    copy = network_of(2)
    copy.load_state_dict(trained.state_dict())
    features, blueprints, context = observations(1, 3, 2)
    assert (float(copy.value_mean), float(copy.value_scale)) == (-4.0, 3.0)
    for name, expected in everything(trained(features, blueprints, context)).items():
        assert torch.equal(everything(copy(features, blueprints, context))[name], expected)


def test_slot_logits_depend_on_the_operation_after_training():
    """Slots and arguments have logits for each operation; without training these are equal."""
    network = network_of()
    features, blueprints, context = observations(2, 3, 4)
    plain = network(features, blueprints, context).logits
    assert torch.equal(plain.slot, plain.slot[:, :1].expand_as(plain.slot))
    with torch.no_grad():
        network.slot_head.from_operation.normal_(generator=torch.Generator().manual_seed(0))
    slot = network(features, blueprints, context).logits.slot
    relative = slot - slot.mean(dim=-1, keepdim=True)
    for first in range(len(LifecycleOp)):
        for second in range(first):
            assert (relative[:, first] - relative[:, second]).abs().max() > 1e-4
