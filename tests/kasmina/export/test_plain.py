"""Export of grown networks as ordinary modules."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from kasmina_builders import READY, WORTHY, grow, images, make_organism, named, wake
from torch import nn

from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.stages import Stage

EXAMPLES = {"images": torch.zeros(2, 1, 6, 6), "sequences": torch.zeros(2, 5, 4), "features": torch.zeros(2, 4)}
ONE_BY_DAY = ["images", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("sequences", "features"))]
BLUEPRINT = {"images": "conv_light", "sequences": "attention", "features": "mlp_small"}
STYLES = ("linear_add", "linear_multiply", "gated_gate")
WITHOUT_PACKAGE = """
import sys, torch
sys.modules["esper_ray"] = None
plain = torch.load(sys.argv[1], weights_only=False)
x = torch.load(sys.argv[2], weights_only=True)
torch.save(plain(x).detach(), sys.argv[3])
"""


def host_for(topology):
    torch.manual_seed(4)
    if topology == "images":
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3))


def commit(model, slot, blueprint, style="linear_add", to=Stage.FOSSILIZED):
    assert model.germinate(slot, blueprint, style=style, tempo=1)
    wake(model.cell(slot).seed)
    if model.cell(slot).gate is not None:
        nn.init.normal_(model.cell(slot).gate.output.weight)
    model.advance(slot)
    model.advance(slot, WORTHY)
    model.tick()
    assert model.advance(slot, WORTHY)
    if to is Stage.FOSSILIZED:
        assert model.fossilize(slot, WORTHY)


def grown(topology, style="linear_add", causal=True):
    """Two committed seeds and the input to compare on."""
    x = torch.randn(3, *EXAMPLES[topology].shape[1:], generator=torch.Generator().manual_seed(6))
    slots = {"r0c0": "0", "r0c1": "1"}
    model = MorphogeneticModel.wrap(host_for(topology), slots, EXAMPLES[topology], rules=READY, causal=causal)
    commit(model, "r0c0", BLUEPRINT[topology], style)
    commit(model, "r0c1", "norm", style)
    return model, x


def ours(module):
    return [name for name, m in module.named_modules() if type(m).__module__.startswith("esper_ray")]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("topology", EXAMPLES)
@pytest.mark.parametrize("training", [True, False])
def test_a_plain_module_computes_what_the_grown_model_does(topology, style, training):
    model, x = grown(topology, style)
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    plain = model.plain()
    assert {m.training for m in plain.modules()} == {training}
    assert torch.allclose(plain(x), model(x), rtol=0, atol=1e-6)
    assert not torch.allclose(plain.eval()(x), host_for(topology).eval()(x), atol=1e-3)
    assert ours(plain) == []
    if not training:
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("blueprint", ["flex_attention", "attention", "lora", "mlp", "norm"])
@pytest.mark.parametrize("causal", [True, False])
def test_every_kind_of_sequence_seed_is_exported_for_other_lengths(blueprint, causal):
    x = torch.randn(2, 9, 4)
    model = MorphogeneticModel.wrap(
        host_for("sequences"), {"r0c0": "0"}, EXAMPLES["sequences"], rules=READY, causal=causal
    )
    commit(model, "r0c0", blueprint)
    assert torch.allclose(model.plain()(x), model(x), rtol=0, atol=1e-6)


def test_uncommitted_seeds_are_left_out():
    model, x = grown("features")
    both = model.plain()
    fresh = MorphogeneticModel.wrap(host_for("features"), {"r0c0": "0"}, EXAMPLES["features"], rules=READY)
    commit(fresh, "r0c0", "mlp_small", to=Stage.HOLDING)
    with pytest.warns(UserWarning, match=r"leaves out the seed in r0c0: mlp_small is HOLDING, .* \+2.00 points"):
        plain = fresh.plain()
    assert torch.equal(plain(x), host_for("features")(x))
    assert not torch.equal(fresh(x), plain(x))
    assert not torch.equal(both(x), host_for("features")(x))


def test_a_plain_module_is_an_independent_trainable_copy():
    model, x = grown("images")
    before = [p.detach().clone() for p in model.parameters()]
    plain = model.plain().train()
    shared = {id(p) for p in plain.parameters()} & {id(p) for p in model.parameters()}
    assert shared == set()
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    plain(x).square().mean().backward()
    assert all(p.grad is not None for p in plain.parameters())
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_nested_slots_and_named_arguments_are_exported():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, input, factor=2.0, *, shift=0.0):
            return self.inner(input) * factor + shift

    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Scaled()

        def forward(self, x):
            return self.body(x, shift=1.0) + x

    torch.manual_seed(1)
    model = MorphogeneticModel.wrap(Host(), {"r0c0": "body", "r0c1": "body.inner"}, torch.zeros(2, 4), rules=READY)
    commit(model, "r0c0", "norm")
    commit(model, "r0c1", "lora", "gated_gate")
    x = torch.randn(3, 4)
    assert torch.allclose(model.plain()(x), model(x), rtol=0, atol=1e-6)
    assert type(model.plain()).__name__ == "Host"


class Star(nn.Linear):
    """A block of the user with arguments of any number, whose first output of two is features."""

    kind = "star"

    def forward(self, *inputs, **options):
        h = super().forward(*inputs) * options["factor"]
        return {
            "tuple": (h, 1),
            "named": Output(h, 1),
            "list": [h, 1],
            "mapping": {"h": h, "factor": 1},
            "tensor": h,
        }[options["container"]]


class Output(NamedTuple):
    h: torch.Tensor
    factor: int


class Stars(nn.Module):
    def __init__(self, container):
        super().__init__()
        self.block, self.container = Star(4, 4), container

    def forward(self, x):
        assert self.block.kind == "star"
        output = self.block(x, factor=2.0, container=self.container)
        assert not isinstance(output, Output) or output.factor == 1
        return output if self.container == "tensor" else next(iter(output.values() if self.mapped else output))

    @property
    def mapped(self):
        return self.container == "mapping"


@pytest.mark.parametrize("container", ["tensor", "tuple", "named", "list", "mapping"])
def test_blocks_with_starred_arguments_and_several_outputs_are_exported(container, tmp_path):
    model = MorphogeneticModel.wrap(Stars(container), {"r0c0": "block"}, torch.zeros(2, 4), rules=READY)
    commit(model, "r0c0", "lora")
    x = torch.randn(3, 4)
    plain = model.plain()
    assert torch.allclose(plain(x), model(x), rtol=0, atol=1e-6)
    assert not torch.allclose(plain(x), 2.0 * nn.functional.linear(x, *model.host.block.parameters()), atol=1e-3)
    assert isinstance(plain.block, Star)
    assert plain.state_dict().keys() > model.host.state_dict().keys()
    assert torch.equal(pickle.loads(pickle.dumps(plain))(x), plain(x))
    assert torch.equal(torch.export.export(plain, (x,)).module()(x), plain(x))


class Iterating(nn.ModuleDict):
    """A container that calls each of its children itself, as dense blocks do."""

    def forward(self, x):
        for child in self.values():
            x = x + child(x)
        return x


def test_a_place_that_calls_its_children_itself_is_exported_as_a_chain():
    host = named(body=Iterating({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)}), head=nn.Linear(4, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "body"}, torch.zeros(2, 4), rules=READY)
    assert model.attachments["r0c0"].way == "chain"
    commit(model, "r0c0", "norm")
    x = torch.randn(3, 4)
    assert torch.allclose(model.plain()(x), model(x), rtol=0, atol=1e-6)


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")


def test_a_host_that_cannot_be_copied_is_refused_when_it_is_wrapped():
    host = nn.Sequential(Uncopied(4, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"plain\(\) copies Sequential, which fails: one of a kind"):
        MorphogeneticModel.wrap(host, {"r0c0": "1"}, torch.zeros(2, 4), rules=READY)
    assert not host[1]._forward_hooks


class Picky(nn.Module):
    """A host whose block can be neither hooked nor replaced."""

    def __init__(self):
        super().__init__()
        self.block = Iterating({"one": nn.Linear(4, 4)})

    def forward(self, x):
        if not isinstance(self.block, Iterating):
            raise TypeError("this block is not mine")
        return self.block(x)


def test_a_place_behind_which_nothing_can_be_built_is_refused_by_name():
    host = Picky()
    with pytest.raises(ValueError, match=r"slot r0c0: .* behind 'block' \(Iterating\): .* this block is not mine"):
        MorphogeneticModel.wrap(host, {"r0c0": "block"}, torch.zeros(2, 4), rules=READY)
    assert not host.block._forward_hooks


def test_a_weight_norm_host_is_copied_and_exported_after_training():
    with pytest.warns(FutureWarning):
        host = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4), rules=READY)
    commit(model, "r0c0", "norm")
    x = torch.randn(3, 4)
    model(x).sum().backward()
    assert torch.allclose(model.plain()(x), model(x), rtol=0, atol=1e-6)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_an_encoder_of_torch_reads_the_attributes_of_its_grown_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    host = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = MorphogeneticModel.wrap(host, {"r0c0": "layers.0"}, torch.zeros(2, 5, 8), rules=READY, causal=False)
    commit(model, "r0c0", "mlp_small")
    plain, x = model.eval().plain(), torch.randn(2, 5, 8)
    assert plain.layers[0].self_attn.batch_first
    assert torch.allclose(plain(x), model(x), rtol=0, atol=1e-5)


def test_submodules_keep_their_own_modes_and_shared_ones_stay_shared():
    host = named(norm=nn.BatchNorm1d(4), body=nn.Linear(4, 4), again=nn.Dropout(0.5))
    model = MorphogeneticModel.wrap(host, {"r0c0": "body"}, torch.zeros(2, 4), rules=READY)
    commit(model, "r0c0", "norm")
    model.train()
    host.norm.eval()
    plain = model.plain()
    assert (plain.training, plain.norm.training, plain.body.training, plain.again.training) == (True, False, True, True)
    assert host.norm.training is False
    assert host.again.training is True


def test_a_built_in_host_is_exported_without_our_classes():
    organism = make_organism()
    grow(organism, "r0c0", Stage.FOSSILIZED)
    grow(organism, "r1c0", Stage.FOSSILIZED, "bottleneck")
    for slot in ("r0c0", "r1c0"):
        wake(organism.model.cell(slot).seed)
    plain, x = organism.model.plain(), images(5)
    assert ours(plain) == []
    assert torch.allclose(plain.eval()(x), organism.model.eval()(x), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ONE_BY_DAY)
@pytest.mark.nightly
def test_a_saved_plain_module_runs_without_this_package(topology, tmp_path):
    model, x = grown(topology, "gated_gate")
    model.eval()
    torch.save(model.plain(), tmp_path / "plain")
    torch.save(x, tmp_path / "x")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, tmp_path / "plain", tmp_path / "x", tmp_path / "y"],
        cwd=Path("/"),
        check=True,
    )
    assert torch.equal(torch.load(tmp_path / "y", weights_only=True), model.plain()(x))
    assert torch.allclose(torch.load(tmp_path / "y", weights_only=True), model(x), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("topology", EXAMPLES)
def test_a_plain_module_can_be_exported(topology):
    model, x = grown(topology, "gated_gate")
    exported = torch.export.export(model.eval().plain(), (x,)).module()
    assert torch.allclose(exported(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("topology", ONE_BY_DAY)
def test_a_plain_module_runs_under_onnx(topology, tmp_path):
    for need in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(need, reason=f"{need} is not installed")
    import onnxruntime

    model, x = grown(topology, "gated_gate")
    torch.onnx.export(model.eval().plain(), (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(y), model(x), rtol=0, atol=1e-5)
