"""Transactions: golden traces with the optimizer, failures at every point, and error messages."""

import pytest
import torch
from kasmina_builders import (
    READY,
    WORTHY,
    fingerprint,
    germinate,
    grow,
    images,
    make_model,
    make_organism,
    order,
    train,
    wake,
)
from torch import nn

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import Advance, Fossilize, Germinate, Prune, Rules, SetAlphaTarget
from esper_ray.kasmina.model import LifecycleError, MorphogeneticModel
from esper_ray.kasmina.network.records import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.leyline.actions import AlphaCurve, GerminationStyle
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.stages import Stage

GRADMAX = GrowthOptions(initialisation={GerminationStyle.LINEAR_ADD: "gradmax"})
TRACE_A = {
    0: Germinate("r0c0-1", "norm", GerminationStyle.SIGMOID_ADD, 5),
    1: Advance(),
    11: Advance(),
    16: Advance(),
    18: Fossilize(),
}
TRACE_B = {
    0: Germinate("r0c0-1", "norm", GerminationStyle.LINEAR_ADD, 3),
    1: Advance(),
    11: Advance(),
    14: Advance(),
    15: SetAlphaTarget(0.5, 3, AlphaCurve.COSINE),
    20: SetAlphaTarget(1.0, 0),
    22: Prune(3, AlphaCurve.SIGMOID, 12.0),
}
TRACE_C = {0: TRACE_B[0], 1: Advance(), 6: Prune(8)}


@pytest.mark.parametrize(
    ("trace", "last", "frozen", "alphas"),
    [
        (TRACE_A, 20, [], {11: 0.0242, 12: 0.2301, 13: 0.7699, 14: 0.9758, 15: 1.0, 20: 1.0}),
        (TRACE_B, 31, [15, 16, 22, 23], {11: 1 / 3, 13: 1.0, 15: 0.875, 17: 0.5, 20: 1.0, 22: 0.8827, 24: 0.0}),
        (TRACE_C, 13, [], {5: 0.0, 6: 0.0}),
    ],
)
def test_in_the_golden_traces_a_seed_is_frozen_iff_its_amplitude_falls(trace, last, frozen, alphas):
    host = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 8), rules=Rules(GateRules()))
    optimizer, seen = GrowingOptimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9), {}
    rested = []
    for epoch in range(last + 1):
        if epoch in trace:
            assert model.execute("r0c0", trace[epoch], WORTHY), epoch
        model.tick({"r0c0": WORTHY})
        seen[epoch] = model.cell("r0c0").alpha.item()
        parameters = model.cell("r0c0").learnable()
        held = {id(p) for p in optimizer.parameters()}
        assert {(id(p) in held) is p.requires_grad for p in parameters} <= {True}
        rested += [epoch] if any(not p.requires_grad for p in parameters) else []
        model.growth.count_epoch()
    assert rested == frozen
    assert {epoch: seen[epoch] for epoch in alphas} == pytest.approx(alphas, abs=5e-5)


def collapse():
    raise RuntimeError("collapsed")


class Refusing:
    """Listener that accepts the first arrangement only."""

    calls = 0

    def arrange(self, groups):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("no room")


def nan(shape):
    layer = nn.Conv2d(shape.channels, shape.channels, 1)
    nn.init.constant_(layer.weight, float("nan"))
    return layer


class Shouting(nn.Module):
    def forward(self, h):
        raise RuntimeError("probe failed")


FAULTS = {
    "builder": (lambda shape: collapse(), "collapsed"),
    "probe": (lambda shape: Shouting(), "probe failed"),
    "noise": (lambda shape: nn.Sequential(nn.Dropout(), Shouting()), "probe failed"),
    "nan": (nan, "not the identity at birth"),
}


@pytest.mark.parametrize("fault", [*FAULTS, "loss", "no loss", "second listener"])
def test_a_germination_that_fails_at_any_point_changes_nothing(fault):
    build, message = FAULTS.get(fault, (None, {"loss": "collapsed", "no loss": "needs a loss"}.get(fault, "no room")))
    organism = make_organism(options=GRADMAX if "loss" in fault else GrowthOptions())
    grow(organism, "r0c1", Stage.TRAINING, "depthwise") if "loss" not in fault else None
    train(organism, 2)
    model = organism.model
    if fault == "second listener":
        model.growth.subscribe(Refusing())
    if build:
        register_blueprint("own", Topology.IMAGES, build)
    model.host.blocks[1].eval()
    before, rng, modes = fingerprint(organism), torch.get_rng_state(), [m.training for m in model.modules()]
    modules, events, grads = list(model.modules()), list(model.events), [p.grad for p in model.parameters()]
    closure = (lambda: model(torch.rand(2, 1, 8, 8)).sum() + collapse()) if fault == "loss" else None
    try:
        with pytest.raises((RuntimeError, ValueError), match=message):
            model.germinate("r0c0", "own" if build else "conv_light", style="linear_add", closure=closure)
    finally:
        unregister_blueprint("own", Topology.IMAGES)
    assert fingerprint(organism) == before
    assert (list(model.modules()), model.events, [m.training for m in model.modules()]) == (modules, events, modes)
    assert all(new is old for new, old in zip([p.grad for p in model.parameters()], grads, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.growth.next_seed_id("r0c0") == "r0c0-1"
    assert model.cell("r0c0").tap is None


def test_a_body_that_draws_random_numbers_leaves_the_generator_unchanged():
    register_blueprint("noisy", Topology.IMAGES, lambda shape: nn.Dropout(0.5))
    try:
        model, rng = make_model(), torch.get_rng_state()
        model.germinate("r0c0", "noisy")
        assert torch.equal(torch.get_rng_state(), rng)
    finally:
        unregister_blueprint("noisy", Topology.IMAGES)


@pytest.mark.parametrize("training", [True, False])
def test_a_gradmax_seed_has_the_mode_of_the_model_and_keeps_the_output(training):
    model, x = make_model(options=GRADMAX).train(training), images(4)
    plain = model.eval()(x)
    model.train(training)
    model.germinate("r0c0", "conv_light", style="linear_add", closure=lambda: model(x).square().sum())
    assert {module.training for module in model.modules()} == {training}
    assert torch.equal(model.eval()(x), plain)


def test_a_cross_fade_moves_the_output_from_one_operator_to_the_other():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    model, x = organism.model.eval(), images(3)
    wake(model.cell("r0c0").seed)
    added = model(x)
    assert model.retarget("r0c0", 1.0, ticks=4, style="gated_gate")
    nn.init.constant_(model.cell("r0c0").gate.output.bias, 0.0)  # gate of 0.5
    h = torch.zeros(2, 4, 3, 3)
    change = model.cell("r0c0").seed(h)
    shares = []
    for _ in range(4):
        shares.append(model.cell("r0c0").operator_share.item())
        expected = h + change * (1.0 - 0.5 * shares[-1])
        assert torch.allclose(model.cell("r0c0").blended(h), expected, atol=1e-6)
        assert torch.equal(model(x), added) is (shares[-1] == 0.0)
        model.tick()
    assert shares == [0.0, 0.25, 0.5, 0.75]
    assert torch.allclose(model.cell("r0c0").blended(h), h + 0.5 * change, atol=1e-6)
    assert model.advance("r0c0", WORTHY)
    assert model.states["r0c0"].stage is Stage.HOLDING


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m: m.germinate("r0c0", "norm"), LifecycleError, "slot r0c0: slot is occupied by r0c0-1"),
        (lambda m: m.germinate("r0c9", "norm"), ValueError, "unknown slot 'r0c9'; did you mean"),
        (lambda m: m.germinate("r0c1", "nrom"), ValueError, "unknown blueprint 'nrom'; did you mean 'norm'"),
        (lambda m: m.germinate("r0c1", "norm", style="sigmoid"), ValueError, "unknown style 'sigmoid'"),
        (lambda m: m.germinate("r0c1", "norm", target=0.0), ValueError, r"\(0, 1\], got 0.0"),
        (lambda m: m.germinate("r0c1", "norm", target=1.1), ValueError, r"\(0, 1\], got 1.1"),
        (
            lambda m: m.germinate("r0c1", "norm", tempo=-1),
            ValueError,
            "tempo must be a whole number of at least 0 ticks, got -1",
        ),
        (lambda m: m.germinate("r0c1", "norm", tempo=2.5), ValueError, "tempo must be a whole number .* got 2.5"),
        (lambda m: m.germinate("r0c1", "norm", tempo=float("nan")), ValueError, "whole number .* got nan"),
        (lambda m: m.germinate("r0c1", "norm", tempo="a"), ValueError, "whole number .* got 'a'"),
        (
            lambda m: m.germinate("r0c1", "norm", style=3.0),
            ValueError,
            "a style must be a GerminationStyle or .* got 3.0",
        ),
        (lambda m: m.germinate("r0c1", None), ValueError, "a blueprint is a Blueprint or .* got None"),
        (lambda m: m.retarget("r0c0", 0.5, ticks=float("inf")), ValueError, "ramp length must be .* got inf"),
        (lambda m: m.retarget("r0c0", 0.5, curve="cosine"), ValueError, "curve must be one of .* got 'cosine'"),
        (lambda m: m.prune("r0c0", ticks=-1), ValueError, "ramp length must be .* got -1"),
        (lambda m: m.prune("r1c0", ticks=float("nan")), ValueError, "ramp length must be .* got nan"),
        (lambda m: m.advance("r0c1"), LifecycleError, "slot r0c1: slot is empty"),
        (lambda m: m.advance("r0c0"), LifecycleError, "a HOLDING seed does not advance"),
        (lambda m: m.fossilize("r0c1", WORTHY), LifecycleError, "slot r0c1: slot is empty"),
        (lambda m: m.prune("r0c1"), LifecycleError, "slot r0c1: slot is empty"),
        (lambda m: m.retarget("r0c0", 0.0), ValueError, "got 0.0; removal is Prune"),
        (
            lambda m: m.retarget("r0c0", 0.5, ticks=-1),
            ValueError,
            "ramp length must be a whole number of at least 0 ticks, got -1",
        ),
        (lambda m: m.retarget("r0c0", 0.5, steepness=float("inf")), ValueError, "steepness must be finite, got inf"),
        (lambda m: m.retarget("r1c0", 0.5), LifecycleError, "a GERMINATED seed has no amplitude to retarget"),
        (lambda m: m.fossilize("r1c0", WORTHY), LifecycleError, "only a HOLDING seed can be fossilized"),
    ],
)
def test_misuse_is_an_error_with_value_and_constraint_and_changes_nothing(act, error, message):
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    germinate(organism, "r1c0")
    before, events = fingerprint(organism), list(organism.model.events)
    with pytest.raises(error, match=message):
        act(organism.model)
    assert fingerprint(organism) == before
    assert [str(e) for e in organism.model.events][: len(events)] == [str(e) for e in events]


def test_a_scheduled_learning_rate_survives_a_fade():
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    organism.optimizer.param_groups[1]["lr"] = 0.001
    order(organism, "r0c0", SetAlphaTarget(0.5, 1))
    assert organism.optimizer.group_names == ["host"]
    organism.model.tick()
    assert organism.optimizer.group_names == ["host", "r0c0"]
    assert organism.optimizer.param_groups[1]["lr"] == 0.001
    order(organism, "r0c0", Prune(0))
    for _ in range(7):
        organism.model.tick()
        organism.model.growth.count_epoch()
    germinate(organism, "r0c0")
    assert organism.optimizer.param_groups[1]["lr"] == 0.001


class HalfFrozen(nn.Module):
    """A frozen pretrained layer and a trainable layer."""

    def __init__(self, width):
        super().__init__()
        self.pretrained = nn.Conv2d(width, width, 1).requires_grad_(False)
        self.learned = nn.Conv2d(width, width, 1)

    def forward(self, h):
        return self.learned(self.pretrained(h))


def test_frozen_parameters_of_an_own_blueprint_stay_frozen():
    register_blueprint("half_frozen", Topology.IMAGES, lambda shape: HalfFrozen(shape.channels))
    try:
        organism = make_organism()
        model = organism.model
        grow(organism, "r0c0", Stage.HOLDING, "half_frozen")
        body = model.cell("r0c0").seed.body
        before = body.pretrained.weight.clone()
        for act in (lambda: None, lambda: model.prune("r0c1"), lambda: organism.restore(organism.snapshot())):
            act()
            body = model.cell("r0c0").seed.body
            flags = {name: p.requires_grad for name, p in model.cell("r0c0").seed.named_parameters()}
            assert [name for name, trained in flags.items() if not trained] == [
                "body.pretrained.weight",
                "body.pretrained.bias",
            ]
            assert not {id(p) for p in body.pretrained.parameters()} & {id(p) for p in organism.optimizer.parameters()}
            train(organism, 1, seed=0)
            if act.__name__ != "<lambda>" or model.states["r0c1"] is None:
                grow(organism, "r0c1", Stage.TRAINING)
        assert torch.equal(body.pretrained.weight, before)
        assert model.prune("r0c0", ticks=3)
        assert not any(p.requires_grad for p in model.cell("r0c0").seed.parameters())
    finally:
        unregister_blueprint("half_frozen", Topology.IMAGES)


def test_initialisation_is_given_by_style_or_by_its_name():
    assert GrowthOptions(initialisation={"linear_add": "gradmax"}) == GRADMAX
    with pytest.raises(ValueError, match="unknown style 'linear'"):
        GrowthOptions(initialisation={"linear": "gradmax"})


class HalfPrecise(nn.Module):
    """A host whose middle works in half precision."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.middle = nn.Linear(8, 8).bfloat16()
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.middle(self.first(x).bfloat16()).float())


def test_a_seed_has_the_precision_of_the_features_at_its_slot():
    model = MorphogeneticModel.wrap(HalfPrecise(), {"r0c0": "middle", "r0c1": "last"}, torch.zeros(2, 4), rules=READY)
    for slot, dtype in {"r0c0": torch.bfloat16, "r0c1": torch.float32}.items():
        assert model.germinate(slot, "mlp")
        assert {p.dtype for p in model.cell(slot).seed.parameters()} == {dtype}
        model.advance(slot, WORTHY)
        model.advance(slot, WORTHY)
        model.tick()
    output = model(torch.randn(3, 4))
    assert output.dtype is torch.float32
    output.sum().backward()
