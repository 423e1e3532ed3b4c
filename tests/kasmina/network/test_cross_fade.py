"""Cross-fades between blend operators of a seed cell."""

import pytest
import torch
from cell_builders import (
    ADD,
    FEATURES,
    GATE,
    IMAGES,
    MULTIPLY,
    SEQUENCES,
    STYLE_OF,
    awaken,
    backward,
    case_id,
    features,
    gradients,
    inputs,
    lead,
    make_model,
)
from torch import nn

from esper_ray.leyline.actions import BlendOperator
from esper_ray.leyline.stages import Stage

PAIRS = [(a, b) for a in BlendOperator for b in BlendOperator if a is not b]


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=case_id)
@pytest.mark.parametrize("topology", [IMAGES, SEQUENCES, FEATURES], ids=case_id)
def test_operators_cross_fade_linearly_along_the_ramp(topology, old, new):
    model, x = make_model(topology), inputs(topology)
    cell = awaken(lead(model, Stage.BLENDING, "norm", old, alpha=0.37))
    model.eval()
    before = model(x)
    assert model.retarget("r0c0", 0.37, ticks=4, style=STYLE_OF[new])
    assert torch.equal(model(x), before)
    h = features(topology)
    start, steps = cell(h), []
    for _ in range(4):
        model.tick()
        steps.append(cell(h))
    end = steps[-1]
    assert (start - end).abs().max() > 1e-3
    for share, step in zip((0.25, 0.5, 0.75), steps, strict=False):
        assert torch.allclose(step, start + share * (end - start), atol=1e-6)
    assert (cell.operator, cell.outgoing) == (new, None)
    assert cell.operator_share.item() == 1.0
    assert (cell.gate is None) == (new is not GATE)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=case_id)
def test_a_cross_fade_ends_at_the_output_of_the_new_operator(old, new):
    model, reference, x = make_model(IMAGES), make_model(IMAGES), inputs(IMAGES)
    awaken(lead(model, Stage.BLENDING, "norm", old, alpha=0.37))
    model.retarget("r0c0", 1.0, ticks=2, style=STYLE_OF[new])
    model.tick()
    model.tick()
    awaken(lead(reference, Stage.BLENDING, "norm", new, alpha=1.0))
    if new is GATE:  # a gate that comes later is newborn
        nn.init.zeros_(reference.cell("r0c0").gate.output.weight)
        nn.init.constant_(reference.cell("r0c0").gate.output.bias, 3.0)
    assert torch.allclose(model.eval()(x), reference.eval()(x), atol=1e-6)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=case_id)
def test_a_retarget_of_zero_ticks_changes_the_operator_at_once(old, new):
    model = make_model(FEATURES)
    cell = awaken(lead(model, Stage.BLENDING, "norm", old, alpha=0.37))
    h = features(FEATURES)
    before = cell(h)
    model.retarget("r0c0", 0.37, ticks=0, style=STYLE_OF[new])
    d = cell.seed(h)
    wanted = {ADD: h + 0.37 * d, MULTIPLY: h * (1 + 0.37 * d.tanh()), GATE: h + 0.37 * 0.9525741 * d}[new]
    assert torch.allclose(cell(h), wanted, atol=1e-6)
    assert not torch.allclose(before, wanted, atol=1e-4)
    assert cell.outgoing is None


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=case_id)
def test_seed_and_gate_learn_during_a_cross_fade(old, new):
    model, x = make_model(FEATURES), inputs(FEATURES)
    cell = awaken(lead(model, Stage.BLENDING, "norm", old, alpha=0.37))
    model.retarget("r0c0", 0.37, ticks=2, style=STYLE_OF[new])
    model.tick()
    backward(model, x)
    silent = {name for name, g in gradients(cell).items() if g is None or g.abs().max() == 0}
    assert silent == ({"gate.hidden.weight", "gate.hidden.bias"} if new is GATE else set())  # behind a zero layer yet
