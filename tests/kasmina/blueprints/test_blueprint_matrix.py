"""Every blueprint with every operator on every topology: identity at birth, learning, causality."""

import pytest
import torch
from cell_builders import (
    ADD,
    CALM,
    CHANNELS,
    FEATURES,
    GATE,
    IMAGES,
    LEARNING,
    MATRIX,
    MULTIPLY,
    SEQUENCES,
    awaken,
    case_id,
    gradients,
    inputs,
    lead,
    loss,
    make_host,
    make_model,
    noise,
    same_tensors,
)
from variants import rest_at_night

from esper_ray.kasmina.network.cell import Incubation, SeedCell
from esper_ray.kasmina.network.operators import GateNetwork
from esper_ray.leyline.actions import BlendOperator, Blueprint
from esper_ray.leyline.blueprints import BLUEPRINTS_OF_TOPOLOGY
from esper_ray.leyline.stages import Stage

ALL = pytest.mark.parametrize(("topology", "blueprint", "operator"), MATRIX, ids=case_id)
LEARNING_MOST_SLOWLY = pytest.mark.parametrize(
    ("topology", "blueprint", "operator"),
    [case if case[2] is GATE else pytest.param(*case, marks=pytest.mark.slow) for case in LEARNING],
    ids=case_id,
)
ALL_LEARNING = pytest.mark.parametrize(("topology", "blueprint", "operator"), LEARNING, ids=case_id)
MOST_SLOWLY = pytest.mark.parametrize(
    ("topology", "blueprint", "operator"),
    [case if case[2] is ADD else pytest.param(*case, marks=pytest.mark.slow) for case in MATRIX],
    ids=case_id,
)
STRAIGHT = Incubation("straight_through")
EXTENTS = {
    IMAGES: [((4, 4), 1), ((4, 4), 4), ((7, 5), 4), ((16, 16), 1)],
    SEQUENCES: [((1,), 1), ((1,), 4), ((5,), 1), ((17,), 4)],
    FEATURES: [((), 1), ((), 4)],
}
"""Height and width, or length; and the batch."""
SIZES = [(*case, *size) for case in MATRIX for size in EXTENTS[case[0]]]
TOKENS = BLUEPRINTS_OF_TOPOLOGY[SEQUENCES]


def others_at_night(cases):
    """Cases whose operator is not ADD, and all but the first size, are run at night."""

    def by_day(case):
        return case[2] is ADD and case[3:] == EXTENTS[case[0]][0]

    return [case if by_day(case) else pytest.param(*case, marks=pytest.mark.nightly) for case in cases]


def silent_after(model, x, steps, before_step=lambda model, x: None):
    """Names of the cell's parameters that got no gradient in any of ``steps`` SGD steps, and finiteness of all."""
    cell = model.cell("r0c0")
    silent = {name for name, _ in cell.named_parameters()}
    for _ in range(steps):
        model.zero_grad()
        loss(model(x)).backward()
        before_step(model, x)
        reached = {name: g for name, g in gradients(cell).items() if g is not None and g.abs().max() > 0}
        assert all(torch.isfinite(g).all() for g in gradients(model).values() if g is not None)
        silent -= set(reached)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
    return silent


def shadow(model, x):
    model.incubate(lambda: loss(model(x)))


GATE_HIDDEN = {"gate.hidden.weight", "gate.hidden.bias"}
GATE_ALL = GATE_HIDDEN | {"gate.output.weight", "gate.output.bias"}


def identity(topology, blueprint, operator, x, to=lambda module: module):
    """Whether a newborn seed leaves the output as it is, bit by bit, in every stage."""
    host = to(make_host(topology))
    host.norm.eval()  # so that passes do not depend on each other
    wanted = host(x)
    for stage, alpha in ((Stage.TRAINING, 0.0), (Stage.BLENDING, 0.37), (Stage.BLENDING, 1.0)):
        for incubation in (Incubation(), STRAIGHT) if stage is Stage.TRAINING else (None,):
            model = to(make_model(topology, incubation=incubation))
            lead(model, stage, blueprint, operator, alpha=alpha)
            assert model.cell("r0c0").alpha.item() == pytest.approx(alpha)
            model.host.norm.eval()
            if not torch.equal(model(x), wanted):
                return False
    return True


@MOST_SLOWLY
def test_a_newborn_seed_leaves_the_output_as_it_is(topology, blueprint, operator):
    assert identity(topology, blueprint, operator, inputs(topology))


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "blueprint", "operator", "extent", "batch"), others_at_night(SIZES), ids=case_id)
def test_a_newborn_seed_leaves_the_output_as_it_is_at_every_size(topology, blueprint, operator, extent, batch):
    assert identity(topology, blueprint, operator, inputs(topology, batch, extent))


@pytest.mark.slow
@ALL
def test_a_seed_with_nonzero_scale_changes_the_output(topology, blueprint, operator):
    model, x = make_model(topology), inputs(topology)
    awaken(lead(model, Stage.BLENDING, blueprint, operator, alpha=0.37))
    moved = (model.eval()(x) - make_host(topology).eval()(x)).abs().max()
    assert (moved > 1e-4) == (blueprint is not Blueprint.NOOP)


@LEARNING_MOST_SLOWLY
def test_every_parameter_of_a_blending_seed_learns_within_two_steps(topology, blueprint, operator):
    model, x = make_model(topology), inputs(topology)
    lead(model, Stage.BLENDING, blueprint, operator, alpha=0.37)
    assert silent_after(model, x, 2) == (GATE_HIDDEN if operator is GATE else set())
    assert silent_after(model, x, 1) == set()


@pytest.mark.slow
@ALL_LEARNING
def test_every_parameter_of_a_shadowed_seed_learns_within_two_steps(topology, blueprint, operator):
    model, x = make_model(topology), inputs(topology)
    lead(model, Stage.TRAINING, blueprint, operator)
    assert silent_after(model, x, 2, shadow) == (GATE_HIDDEN if operator is GATE else set())
    assert silent_after(model, x, 1, shadow) == set()


@pytest.mark.slow
@ALL_LEARNING
def test_every_parameter_of_a_straight_through_seed_learns_within_two_steps(topology, blueprint, operator):
    model, x = make_model(topology, incubation=STRAIGHT), inputs(topology)
    lead(model, Stage.TRAINING, blueprint, operator)
    assert silent_after(model, x, 2) == (GATE_ALL if operator is GATE else set())  # no gate straight through


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "blueprint", "operator", "extent", "batch"),
    others_at_night(case for case in SIZES if case[1] is not Blueprint.NOOP),
    ids=case_id,
)
def test_every_parameter_learns_at_every_size(topology, blueprint, operator, extent, batch):
    x = inputs(topology, batch, extent)
    blending = make_model(topology)
    lead(blending, Stage.BLENDING, blueprint, operator, alpha=0.37)
    assert silent_after(blending, x, 3) == set()
    shadowed = make_model(topology)
    lead(shadowed, Stage.TRAINING, blueprint, operator)
    assert silent_after(shadowed, x, 3, shadow) == set()
    straight = make_model(topology, incubation=STRAIGHT)
    lead(straight, Stage.TRAINING, blueprint, operator)
    assert silent_after(straight, x, 2) == (GATE_ALL if operator is GATE else set())


# Causality


def first_changed(cell, position):
    """The earliest of 9 output tokens that changes with the input at ``position``."""
    h = noise(2, 9, CHANNELS)
    moved = h.clone()
    moved[:, position] += 1.0
    changed = (cell(moved) - cell(h)).abs().amax((0, 2)) > 1e-7
    return int(changed.nonzero().min())


@pytest.mark.parametrize("blueprint", TOKENS, ids=case_id)
@pytest.mark.parametrize("operator", list(BlendOperator), ids=case_id)
@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_token_of_a_causal_slot_depends_on_a_later_one(blueprint, operator, causal):
    model = make_model(SEQUENCES, causal=causal)
    cell = awaken(lead(model, Stage.BLENDING, blueprint, operator))
    sees_all = blueprint in (Blueprint.ATTENTION, Blueprint.FLEX_ATTENTION)
    sees_all |= operator is GATE and blueprint is not Blueprint.NOOP  # through the mean that the gate sees
    with torch.no_grad():
        for position in (0, 4, 8):
            assert first_changed(cell, position) == (position if causal or not sees_all else 0)


@pytest.mark.parametrize("causal", [True, False])
def test_a_gate_network_of_a_causal_slot_depends_on_its_own_token_only(causal):
    cell: SeedCell = awaken(lead(make_model(SEQUENCES, causal=causal), Stage.BLENDING, Blueprint.NORM, GATE))
    assert isinstance(cell.gate, GateNetwork)
    h = noise(2, 9, CHANNELS)
    moved = h.clone()
    moved[:, 4] += 1.0
    changed = (cell.gate(moved) - cell.gate(h)).abs().amax((0, 2)) > 1e-7
    assert changed.tolist() == ([t == 4 for t in range(9)] if causal else [True])


# Layouts and types


def channels_last(module):
    return module.to(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize("blueprint", BLUEPRINTS_OF_TOPOLOGY[IMAGES], ids=case_id)
@pytest.mark.parametrize("operator", rest_at_night(BlendOperator), ids=case_id)
def test_channels_last_hosts_and_inputs_give_the_same_outputs_and_gradients(blueprint, operator):
    x = inputs(IMAGES, 4, (7, 5))
    last = x.to(memory_format=torch.channels_last)
    assert identity(IMAGES, blueprint, operator, last, channels_last)
    for stage, method in ((Stage.BLENDING, None), (Stage.TRAINING, Incubation()), (Stage.TRAINING, STRAIGHT)):
        seen = []
        for images, to in ((x, lambda module: module), (last, channels_last)):
            model = make_model(IMAGES, incubation=method)
            awaken(lead(model, stage, blueprint, operator, alpha=0.37))
            to(model)
            output = model(images)
            loss(output).backward()
            shadow(model, images)
            seen.append((output, gradients(model)))
        assert torch.allclose(seen[0][0], seen[1][0], atol=1e-5)
        for name, gradient in seen[0][1].items():
            channels_last_gradient = seen[1][1][name]
            assert (gradient is None) == (channels_last_gradient is None), name
            assert gradient is None or torch.allclose(gradient, channels_last_gradient, atol=1e-4), name


@pytest.mark.parametrize("blueprint", BLUEPRINTS_OF_TOPOLOGY[IMAGES], ids=case_id)
def test_channels_last_features_without_gradient_do_not_crash_the_backward_pass(blueprint):
    model, x = make_model(IMAGES, incubation=STRAIGHT), inputs(IMAGES).to(memory_format=torch.channels_last)
    channels_last(model).host.requires_grad_(False)
    cell = lead(model, Stage.BLENDING, blueprint, ADD)
    model.host.head.requires_grad_(True)
    loss(model(x)).backward()
    assert blueprint is Blueprint.NOOP or cell.seed.scale.grad.abs().max() > 0


@pytest.mark.slow
@ALL
def test_in_bfloat16_autocast_the_identity_holds_and_gradients_are_finite(topology, blueprint, operator):
    x, seen = inputs(topology), {}
    for stage, alpha in ((Stage.TRAINING, 0.0), (Stage.BLENDING, 0.37), (Stage.BLENDING, 1.0)):
        host, model = make_host(topology), make_model(topology, {"r0c0": "deep"}, incubation=STRAIGHT)
        lead(model, stage, blueprint, operator, alpha=alpha)
        model.host.deep.register_forward_hook(lambda _m, _i, output: seen.update(after=output))
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
            assert torch.equal(output, host(x))
        assert seen["after"].dtype is torch.bfloat16
        loss(output).backward()
        reached = gradients(model)
        assert all(torch.isfinite(g).all() for g in reached.values() if g is not None)
        if blueprint is not Blueprint.NOOP:
            assert reached["cells.r0c0.seed.scale"].abs().max() > 0


@pytest.mark.slow
@ALL_LEARNING
@pytest.mark.parametrize("incubation", [Incubation(), STRAIGHT], ids=["shadow", "straight"])
def test_in_bfloat16_autocast_seeds_learn_and_the_host_is_unchanged(topology, blueprint, operator, incubation):
    x = inputs(topology)
    plain, model = make_host(topology), make_model(topology, {"r0c0": "deep"}, incubation=incubation)
    cell = awaken(lead(model, Stage.TRAINING, blueprint, operator))
    for module in (plain, model):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(module(x))
        value.backward()
    with torch.autocast("cpu", torch.bfloat16):
        shadow(model, x)
    assert same_tensors(gradients(plain), gradients(model.host))
    for name, gradient in gradients(cell.seed).items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


# Compilation

COMPILED = [
    (IMAGES, "conv_light", ADD, Incubation()),
    (IMAGES, "attention", GATE, STRAIGHT),
    (SEQUENCES, "flex_attention", GATE, STRAIGHT),
    (FEATURES, "mlp_small", MULTIPLY, Incubation()),
]


def agree(eager, model, compiled, x):
    """Assert that ``compiled`` gives ``model`` the outputs and gradients of ``eager``; returns the output."""
    for module in (eager, model):
        module.zero_grad()
    wanted, output = eager(x), compiled(x)
    loss(wanted).backward()
    loss(output).backward()
    shadow(eager, x)
    model.incubate(lambda: loss(compiled(x)))
    assert torch.allclose(output, wanted, atol=1e-6)
    for (name, expected), actual in zip(gradients(eager).items(), gradients(model).values(), strict=True):
        assert (expected is None) == (actual is None), name
        assert expected is None or torch.allclose(expected, actual, atol=1e-5), name
    return output.detach()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "blueprint", "operator", "incubation"),
    [COMPILED[0], *(pytest.param(*case, marks=pytest.mark.nightly) for case in COMPILED[1:])],
    ids=case_id,
)
def test_a_compiled_model_equals_the_eager_one_in_every_stage(topology, blueprint, operator, incubation):
    other_style = "gated_gate" if operator is ADD else "linear_add"
    commands = {
        "empty": lambda m: None,
        "training": lambda m: awaken(lead(m, Stage.TRAINING, blueprint, operator, alpha=0.37)),
        "blending": lambda m: (m.advance("r0c0", CALM), m.tick()),
        "fading": lambda m: (m.retarget("r0c0", 1.0, ticks=2, style=other_style), m.tick()),
        "pruned": lambda m: m.prune("r0c0"),
    }
    x, outputs = inputs(topology), {}
    eager, model = (make_model(topology, incubation=incubation) for _ in range(2))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=32):  # 8 are too few for these stages and their shadow passes
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        for stage, command in commands.items():
            command(eager)
            command(model)
            outputs[stage] = agree(eager, model, compiled, x)
    for stage in ("training", "pruned"):
        assert torch.allclose(outputs[stage], outputs["empty"], atol=1e-6)
    assert (outputs["blending"] - outputs["empty"]).abs().max() > 1e-4
    assert (outputs["fading"] - outputs["blending"]).abs().max() > 1e-4


@pytest.mark.slow
def test_a_moving_amplitude_does_not_recompile():
    torch._dynamo.reset()
    compiled_graphs = []

    def count(graph, _inputs):
        compiled_graphs.append(graph)
        return graph.forward

    model, x = make_model(IMAGES).eval(), inputs(IMAGES)
    awaken(lead(model, Stage.TRAINING, "conv_light", alpha=1.0))
    model.advance("r0c0", CALM)
    compiled = torch.compile(model, backend=count, fullgraph=True)
    outputs = []
    with torch.no_grad():
        for alpha in (0.25, 0.5, 0.75):
            model.cell("r0c0").open = True
            model.cell("r0c0").alpha.fill_(alpha)
            outputs.append(compiled(x))
            assert torch.allclose(outputs[-1], model(x), atol=1e-6)
    assert len(compiled_graphs) == 1
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-4)
