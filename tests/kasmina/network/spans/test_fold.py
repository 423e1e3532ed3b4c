"""Seeds that become part of their layers: values, optimizer state, files, refusals."""

import copy
import itertools

import pytest
import torch
from kasmina_builders import WORTHY, named
from span_builders import awaken, lead_to, on_spans, train_steps
from torch import nn

from esper_ray.kasmina import GrowingOptimizer, GrowthOptions, LifecycleError, MorphogeneticModel, Organism
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.filterwarnings("ignore:incubation clips the gradient")
PLACES = {"r0c0": "a -> b", "r0c1": "b -> c"}
X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
}


def chain(seed=0):
    with seeded_initialisation(seed):
        return named(
            a=nn.Conv2d(3, 4, 3, padding=1),
            norm=nn.BatchNorm2d(4),
            act=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(2),
            b=nn.Conv2d(4, 6, 3, groups=2),
            gelu=nn.GELU(),
            flat=nn.Flatten(),
            c=nn.Linear(24, 3),
        )


def make_model(**options):
    return on_spans(chain(), PLACES, X, **options)


def committed(slots=("r0c0", "r0c1"), optimizer="sgd", **options):
    """A model with committed seeds of four channels, and its optimizer after some steps."""
    model = make_model(**options)
    kind, settings = OPTIMIZERS[optimizer]
    growing = GrowingOptimizer(model, kind, **settings)
    train_steps(model, growing, X, 3)
    for slot in slots:
        lead_to(model, slot, Stage.FOSSILIZED, channels=4)
        awaken(model, slot)
    train_steps(model, growing, X, 2)
    return model.eval(), growing


def output(model):
    with torch.no_grad():
        return model.eval()(X)


def test_weights_of_a_folded_span_by_hand():
    host = named(a=nn.Linear(1, 1), act=nn.ReLU(), b=nn.Linear(1, 1))
    model = on_spans(host, {"r0c0": "a -> b"}, torch.ones(2, 1))
    lead_to(model, "r0c0", Stage.FOSSILIZED, channels=2)
    seed = model.cell("r0c0").seed
    with torch.no_grad():
        for tensor, values in (
            (host.a.weight, [[2.0]]),
            (host.a.bias, [1.0]),
            (host.b.weight, [[3.0]]),
            (host.b.bias, [0.5]),
            (seed.producer.weight, [[-1.0], [4.0]]),
            (seed.producer.bias, [2.0, 0.0]),
            (seed.consumer.weight, [[10.0, 100.0]]),
        ):
            tensor.copy_(torch.tensor(values))
    # 3 * relu(2 + 1) + 0.5 + 10 * relu(-1 + 2) + 100 * relu(4)
    assert model(torch.ones(1, 1)).item() == 419.5
    assert model.fold("r0c0")
    assert host.a.weight.tolist() == [[2.0], [-1.0], [4.0]]
    assert host.a.bias.tolist() == [1.0, 2.0, 0.0]
    assert host.b.weight.tolist() == [[3.0, 10.0, 100.0]]
    assert (host.a.out_features, host.b.in_features) == (3, 3)
    assert model(torch.ones(1, 1)).item() == 419.5


def test_groups_keep_their_own_channels():
    host = named(a=nn.Conv1d(2, 4, 1, groups=2, bias=False), b=nn.Conv1d(4, 2, 1, groups=2, bias=False))
    model = on_spans(host, {"r0c0": "a -> b"}, torch.ones(2, 2, 4))
    lead_to(model, "r0c0", Stage.FOSSILIZED, channels=2)
    seed = model.cell("r0c0").seed
    with torch.no_grad():
        host.a.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None])
        seed.producer.weight.copy_(torch.tensor([10.0, 20.0])[:, None, None])
        seed.consumer.weight.copy_(torch.tensor([5.0, 6.0])[:, None, None])
    assert model.fold("r0c0")
    assert host.a.weight.flatten().tolist() == [1.0, 2.0, 10.0, 3.0, 4.0, 20.0]
    assert host.b.weight[:, 2, 0].tolist() == [5.0, 6.0]
    assert host.b.weight.shape == (2, 3, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(PLACES)), ids=" ".join)
def test_spans_fold_in_any_order_without_a_change_of_the_output(order):
    model, _ = committed()
    expected = output(model)
    for slot in order:
        assert model.fold(slot)
        assert model.states[slot] is None
        torch.testing.assert_close(output(model), expected)
    assert [model.host.a.out_channels, model.host.norm.num_features, model.host.b.in_channels] == [8, 8, 8]
    assert [model.host.b.out_channels, model.host.c.in_features] == [10, 40]
    assert not list(model.cells["r0c0"].parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_channels_keep_their_optimizer_state(optimizer):
    model, growing = committed(("r0c0",), optimizer)
    before = growing.state_by_name()
    model.fold("r0c0")
    after = growing.state_by_name()
    assert after.keys() == {name for name in before if name.startswith("host.")}
    for name in ("host.c.weight", "host.c.bias", "host.b.bias"):
        assert all(torch.equal(value, before[name][key]) for key, value in after[name].items())
    # channels of `a` are interleaved in two blocks of two: old 0 1, new 0 1, old 2 3, new 2 3
    old, new = [0, 1, 4, 5], [2, 3, 6, 7]
    corrections = {"momentum_buffer": 1.0, "exp_avg": (1 - 0.9**5) / (1 - 0.9**2), "exp_avg_sq": None}
    corrections["exp_avg_sq"] = (1 - 0.999**5) / (1 - 0.999**2)
    for layer, seed in (("a.weight", "producer.weight"), ("norm.bias", "between.layers.step0.bias")):
        mine, others = before[f"host.{layer}"], before[f"cells.r0c0.seed.{seed}"]
        for key, value in after[f"host.{layer}"].items():
            if value.dim():
                assert torch.equal(value[old], mine[key])
                torch.testing.assert_close(value[new], others[key] * corrections[key])
            else:
                assert torch.equal(value, mine[key])
    members = {id(parameter) for group in growing.param_groups for parameter in group["params"]}
    assert members == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_fold_does_not_change_later_steps(optimizer):
    """New channels that the optimizer has updated as often as the old ones are trained on as before."""
    model = make_model().double()
    x = X.double()
    kind, settings = OPTIMIZERS[optimizer]
    growing = GrowingOptimizer(model, kind, **settings)
    lead_to(model, "r0c0", Stage.FOSSILIZED, channels=4)
    awaken(model, "r0c0")
    train_steps(model, growing, x, 3)
    folded_growing = copy.deepcopy(growing)
    folded = folded_growing.model
    assert folded.fold("r0c0")
    for growing_model, its_optimizer in ((model, growing), (folded, folded_growing)):
        train_steps(growing_model, its_optimizer, x, 4)
        growing_model.eval()
    torch.testing.assert_close(folded(x), model(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", [("r0c0", "r0c1"), ("r0c1", "r0c0")], ids=["forward", "backward"])
def test_weights_that_join_two_folded_spans_take_no_long_first_step(order):
    """With mean squares of zero Adam's first step would be three times the learning rate, after many steps."""
    model, growing = committed(optimizer="adamw")
    train_steps(model, growing, X, 60)
    for slot in order:
        model.fold(slot)
    weight = model.host.b.weight
    joining = weight == 0.0
    assert int(joining.sum()) == 2 * 2 * 2 * 9  # in each of two groups: two new outputs read two new inputs
    assert bool((growing.parameter_state(weight)["exp_avg_sq"] > 0.0).all())
    before = weight.detach().clone()
    train_steps(model, growing, X, 1)
    assert 0.0 < float((weight.detach() - before)[joining].abs().max()) < 1.5 * OPTIMIZERS["adamw"][1]["lr"]


def test_layers_keep_channels_last():
    model = on_spans(chain().to(memory_format=torch.channels_last), PLACES, X)
    for slot in PLACES:
        model.germinate(slot, "widen", channels=4, tempo=0)
        assert model.cell(slot).seed.producer.weight.is_contiguous(memory_format=torch.channels_last)
    for slot in PLACES:
        model.fossilize(slot, WORTHY)
        model.fold(slot)
    for layer in (model.host.a, model.host.b, model.plain().b):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.is_contiguous()


def test_a_folded_span_is_widened_again():
    model, growing = committed(("r0c0",))
    model.fold("r0c0")
    expected = output(model)
    assert model.germinate("r0c0", "widen", channels=2, tempo=1)
    assert torch.equal(output(model), expected)
    assert model.cell("r0c0").seed.producer.weight.shape == (2, 3, 3, 3)
    train_steps(model, growing, X)
    for _ in range(2):
        assert model.advance("r0c0", WORTHY)
    model.tick()
    assert model.advance("r0c0", WORTHY)
    assert model.fossilize("r0c0", WORTHY)
    expected = output(model)
    assert model.fold("r0c0")
    torch.testing.assert_close(output(model), expected)
    assert model.host.a.out_channels == 10


def test_a_living_neighbour_computes_what_it_did():
    model, growing = committed(("r0c0",))
    lead_to(model, "r0c1", Stage.HOLDING, channels=4)
    awaken(model, "r0c1")
    expected = output(model)
    model.fold("r0c0")
    torch.testing.assert_close(output(model), expected)
    train_steps(model, growing, X)
    assert model.cell("r0c1").seed.producer.weight.grad is not None


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED])
def test_a_file_holds_folded_and_living_seeds_in_every_stage(tmp_path, stage):
    model, growing = committed(("r0c0",))
    model.fold("r0c0")
    lead_to(model, "r0c0", stage, channels=2)
    lead_to(model, "r0c1", Stage.TRAINING)
    train_steps(model, growing, X)
    model.save(tmp_path / "model.safetensors")
    other = make_model()
    other_growing = GrowingOptimizer(other, torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
    other.load(tmp_path / "model.safetensors")
    other_growing.load_state_dict(copy.deepcopy(growing.state_dict()))
    assert torch.equal(output(other), output(model))
    assert other.drawing() == model.drawing()
    for each, its_optimizer in ((model, growing), (other, other_growing)):
        train_steps(each, its_optimizer, X)
    assert torch.equal(output(other), output(model))


def test_a_folded_model_returns_to_a_state_of_before():
    model, growing = committed()
    organism = Organism(model, growing)
    snapshot, expected = organism.snapshot(), output(model)
    model.fold("r0c1")
    train_steps(model, growing, X)
    model.fold("r0c0")
    organism.restore(snapshot)
    assert torch.equal(output(model), expected)
    assert model.host.a.out_channels == 4
    assert organism.snapshot().tensors.keys() == snapshot.tensors.keys()
    train_steps(model, growing, X)


def test_a_refused_state_leaves_widths_and_values():
    model, _ = committed()
    model.fold("r0c0")
    state = {**model.state_dict(), "host.c.bias": torch.zeros(4)}
    other = make_model()
    expected = output(other)
    with pytest.raises(ValueError, match=r"host\.c\.bias has shape \(4,\)"):
        other.load_state_dict(state)
    assert torch.equal(output(other), expected)
    assert other.host.a.out_channels == 4
    assert other.drawing() == make_model().drawing()


def test_coalitions_of_a_chain_equal_single_passes():
    model, _ = committed()
    slots = frozenset(PLACES)
    with torch.no_grad(), model.branching(slots) as blocks:
        joint = model(X).chunk(len(blocks))
    for members, rows in zip(blocks, joint, strict=True):
        with torch.no_grad(), model.branching(slots, [members]):
            torch.testing.assert_close(rows, model(X))
    assert {at.passes for at in model.attachments.values()} == {"forked"}


def test_a_copy_is_independent():
    model, _ = committed()
    twin, expected = copy.deepcopy(model), output(model)
    assert twin.fold("r0c0")
    assert model.host.a.out_channels == 4
    assert torch.equal(output(model), expected)
    torch.testing.assert_close(output(twin), expected)


def test_what_cannot_be_folded_is_refused_and_nothing_changes():
    model, _ = committed(("r0c0",))
    expected = output(model)
    with pytest.raises(LifecycleError, match="slot r0c1: slot is empty"):
        model.fold("r0c1")
    lead_to(model, "r0c1", Stage.HOLDING)
    with pytest.raises(LifecycleError, match="only a committed seed can be folded, this one is HOLDING"):
        model.fold("r0c1")
    frozen, _ = committed(("r0c0",), options=GrowthOptions(freeze_fossils=True))
    with pytest.raises(ValueError, match="a frozen seed cannot become part of layers that train"):
        frozen.fold("r0c0")
    assert frozen.states["r0c0"].stage is Stage.FOSSILIZED
    plain = MorphogeneticModel.wrap(chain(), {"r0c0": "pool"}, X[:2], rules=model.growth.rules)
    plain.germinate("r0c0", "norm", tempo=1)
    for _ in range(2):
        assert plain.advance("r0c0", WORTHY)
    plain.tick()
    assert plain.advance("r0c0", WORTHY)
    assert plain.fossilize("r0c0", WORTHY)
    with pytest.raises(ValueError, match="slot r0c0 does not sit on a span"):
        plain.fold("r0c0")
    assert torch.equal(output(model), expected)


def test_a_failing_listener_takes_the_fold_back():
    model, growing = committed(("r0c0",))

    class Refusing:
        def arrange(self, groups):
            if model.states["r0c0"] is None:
                raise RuntimeError("no")

        def replace(self, parameters):
            pass

    model.growth.subscribe(Refusing())
    expected = output(model)
    with pytest.raises(RuntimeError, match="no"):
        model.fold("r0c0")
    assert torch.equal(output(model), expected)
    assert model.host.a.out_channels == 4
    assert model.states["r0c0"].stage is Stage.FOSSILIZED
    members = {id(parameter) for group in growing.param_groups for parameter in group["params"]}
    assert members == {id(parameter) for parameter in model.parameters()}


class TestBirth:
    @pytest.mark.parametrize("channels", [0, -1, True, 1.5])
    def test_channels_are_whole_and_positive(self, channels):
        with pytest.raises(ValueError, match="at least 1 channel, a whole number, got"):
            make_model().germinate("r0c0", "widen", channels=channels)

    def test_channels_fit_the_groups(self):
        with pytest.raises(ValueError, match="a multiple of 2 channels, because of the groups of its layers, got 3"):
            make_model().germinate("r0c0", "widen", channels=3)

    def test_channels_are_of_widen_alone(self):
        with pytest.raises(ValueError, match="channels are chosen with the blueprint 'widen', got 2 with 'norm'"):
            make_model().germinate("r0c0", "norm", channels=2)

    def test_blueprints_fit_their_places(self):
        with pytest.raises(ValueError, match="blueprint 'norm' does not fit the span a -> b; its blueprint is 'widen'"):
            make_model().germinate("r0c0", "norm")
        model = MorphogeneticModel.wrap(chain(), {"r0c0": "pool"}, X[:2])
        with pytest.raises(ValueError, match="'widen_quarter' widens a span, but this slot sits on the output"):
            model.germinate("r0c0", "widen_quarter")

    @pytest.mark.parametrize(("share", "channels"), [("eighth", 2), ("quarter", 2), ("half", 2)])
    def test_a_share_is_rounded_to_the_step(self, share, channels):
        model = make_model()
        assert model.germinate("r0c0", f"widen_{share}")
        assert model.cell("r0c0").seed.channels == channels

    def test_seeds_are_added_alone(self):
        model = make_model()
        with pytest.raises(ValueError, match="seeds that widen a span are added, style 'gated_gate' is not"):
            model.germinate("r0c0", "widen", style="gated_gate")
        lead_to(model, "r0c0", Stage.HOLDING)
        with pytest.raises(ValueError, match="style 'linear_multiply' is not"):
            model.retarget("r0c0", 0.5, style="linear_multiply")
        assert model.states["r0c0"].stage is Stage.HOLDING


class TimeFirst(nn.Module):
    """Tokens (B, T, D) whose layers see (T, B, D)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.c(self.b(self.a(x.transpose(0, 1)).relu()).tanh()).mean(0)


def test_spans_whose_layers_see_time_first_live_and_fold():
    x = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(2))
    with seeded_initialisation(0):
        host = TimeFirst()
    model = on_spans(host, {"r0c0": "a -> b", "r0c1": "b -> c"}, x)
    assert {at.layout.value for at in model.attachments.values()} == {"TBD"}
    growing = GrowingOptimizer(model, torch.optim.SGD, lr=0.05)
    for slot in PLACES:
        lead_to(model, slot, Stage.FOSSILIZED, channels=3)
        awaken(model, slot)
    train_steps(model, growing, x)
    model.eval()
    slots = frozenset(PLACES)
    with torch.no_grad(), model.branching(slots) as blocks:
        joint = model(x).chunk(len(blocks))
    for members, rows in zip(blocks, joint, strict=True):
        with torch.no_grad(), model.branching(slots, [members]):
            torch.testing.assert_close(rows, model(x))
    expected = model(x)
    torch.testing.assert_close(model.plain()(x), expected)
    for slot in PLACES:
        assert model.fold(slot)
        torch.testing.assert_close(model(x), expected)
