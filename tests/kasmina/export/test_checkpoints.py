"""Grown networks on disk: round trips, other processes, and files that do not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kasmina_builders import SLOTS, fingerprint, germinate, grow, images, make_model, make_organism, named, order, train
from safetensors.torch import save_file
from torch import nn

from esper_ray.kasmina.blueprints import register_blueprint, unregister_blueprint
from esper_ray.kasmina.export.checkpoints import MODEL_FILE, TopologyError
from esper_ray.kasmina.export.differences import EXTRA_STATE
from esper_ray.kasmina.lifecycle.reducer import Fossilize, Prune, SetAlphaTarget
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.actions import GerminationStyle
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.stages import Stage

RESUME = """
import json, sys, torch
torch.set_num_threads(1)
from kasmina_builders import fingerprint, images, make_organism, train
organism = make_organism(seed=3, host_seed=9)
organism.model.load(sys.argv[1])
organism.optimizer.load_state_by_name(torch.load(sys.argv[2], weights_only=True))
output = organism.model.eval()(images(4)).tolist()
state = fingerprint(organism)["optimizer"]
train(organism, 3, seed=11)
organism.model.tick()
tensors = fingerprint(organism)["tensors"]
print(json.dumps({"output": output, "optimizer": state, "tensors": tensors}))
"""


def grown_organism():
    """A fossil, a seed that changes its operator, and a removed one; all trained."""
    organism = make_organism()
    grow(organism, "r0c0", Stage.HOLDING)
    train(organism, 2)
    order(organism, "r0c0", Fossilize())
    grow(organism, "r1c0", Stage.HOLDING, "norm")
    germinate(organism, "r0c1", "depthwise")
    order(organism, "r0c1", Prune(0))
    train(organism, 2)
    order(organism, "r1c0", SetAlphaTarget(0.5, 5, style=GerminationStyle.GATED_GATE))
    organism.model.tick()
    train(organism, 2)
    organism.model.growth.count_epoch()
    return organism


def assert_refused(model, act, error=TopologyError, match=None):
    """``act`` raises and does not change ``model``; returns the message."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules, states = list(model.modules()), dict(model.states)
    with pytest.raises(error, match=match) as raised:
        act()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (list(model.modules()), dict(model.states)) == (modules, states)
    return str(raised.value)


@pytest.fixture
def own_body():
    def register():
        register_blueprint("own", Topology.IMAGES, lambda shape: nn.Conv2d(shape.channels, shape.channels, 1))

    register()
    yield register
    unregister_blueprint("own", Topology.IMAGES)


@pytest.mark.parametrize("training", [True, False])
def test_a_fresh_model_with_a_loaded_state_computes_the_same(training):
    grown, fresh = grown_organism().model, make_model(host_seed=5)
    x = images(4)
    fresh.train(training)
    assert fresh.load_state_dict(grown.state_dict()).missing_keys == []
    assert {m.training for m in fresh.modules()} == {training}
    assert fresh.states == grown.states
    assert torch.equal(fresh.eval()(x), grown.eval()(x))
    assert fresh.growth.record() == grown.growth.record()


def test_loading_rebuilds_the_optimizer_groups():
    grown, fresh = grown_organism(), make_organism(host_seed=5)
    germinate(fresh, "r0c1", "bottleneck")
    train(fresh, 1)
    fresh.model.load_state_dict(grown.model.state_dict())
    fresh.optimizer.load_state_by_name(grown.optimizer.state_by_name())
    assert fingerprint(fresh) == fingerprint(grown)


def test_training_after_a_round_trip_equals_uninterrupted_training(tmp_path):
    uninterrupted, stored, fresh = grown_organism(), grown_organism(), make_organism(host_seed=5, seed=1)
    stored.model.save(tmp_path / "deep" / "model.safetensors")
    fresh.model.load(tmp_path / "deep" / "model.safetensors")
    fresh.optimizer.load_state_by_name(stored.optimizer.state_by_name())
    futures = []
    for organism in (uninterrupted, fresh):
        losses = train(organism, 2, seed=8)
        for _ in range(8):
            organism.model.tick()
            organism.model.growth.count_epoch()
        germinate(organism, "r0c1", "conv_small")
        futures.append((losses, train(organism, 2, seed=9), fingerprint(organism)))
    assert futures[0] == futures[1]


@pytest.mark.nightly
@pytest.mark.slow
def test_a_fresh_process_resumes_bit_for_bit(tmp_path):
    organism = grown_organism()
    organism.model.save(tmp_path / "m")
    torch.save(organism.optimizer.state_by_name(), tmp_path / "o")
    stdout = subprocess.run(
        [sys.executable, "-c", RESUME, tmp_path / "m", tmp_path / "o"],
        cwd=Path(__file__).parents[2] / "builders" / "networks",
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    output, state = organism.model.eval()(images(4)).tolist(), fingerprint(organism)["optimizer"]
    train(organism, 3, seed=11)
    organism.model.tick()
    expected = {"output": output, "optimizer": state, "tensors": fingerprint(organism)["tensors"]}
    assert json.loads(stdout) == json.loads(json.dumps(expected))


def test_tied_weights_and_views_survive_a_file(tmp_path):
    class Tied(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.token, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.token.weight
            self.register_buffer("table", torch.randn(8))
            self.register_buffer("part", self.table[:4])

        def forward(self, tokens):
            return self.head(self.token(tokens) + self.part)

    tokens = torch.tensor([[0, 1, 6]] * 2)
    first, second = (MorphogeneticModel.wrap(Tied(seed), {"r0c0": "token"}, tokens) for seed in (1, 2))
    first.germinate("r0c0", "lora")
    first.save(tmp_path / "m")
    second.load(tmp_path / "m")
    assert torch.equal(first(tokens), second(tokens))
    assert second.host.head.weight is second.host.token.weight


class Versioned(nn.Linear):
    """A layer that refuses a state without its version, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError(f"this layer has version 2, the state {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_a_host_that_needs_the_versions_of_its_layers_is_loaded_from_a_file(tmp_path):
    def model():
        return MorphogeneticModel.wrap(
            named(body=Versioned(4, 4), head=nn.Linear(4, 2)), {"r0c0": "body"}, torch.zeros(2, 4)
        )

    first, second = model(), model()
    first.save(tmp_path / "model")
    second.load(tmp_path / "model")
    assert torch.equal(second.host.body.weight, first.host.body.weight)
    second.load_state_dict(model().state_dict())
    assert not torch.equal(second.host.body.weight, first.host.body.weight)


def test_extra_state_of_a_host_passes_a_state_dict_but_not_a_file(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            self.calls = state["calls"]

    model = MorphogeneticModel.wrap(nn.Sequential(Counting(2, 2)), {"r0c0": "0"}, torch.zeros(2, 2))
    model.load_state_dict(model.state_dict())
    assert model.host[0].calls == 3
    with pytest.raises(ValueError, match=r"host\.0\._extra_state cannot be written: it is a dict; only tensors"):
        model.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_another_topology_is_refused_naming_every_difference():
    theirs, ours = make_model(("r0c0", "r1c0")), make_model(("r0c0", "r0c1"))
    message = assert_refused(ours, lambda: ours.load_state_dict(theirs.state_dict()))
    assert message.splitlines()[1:] == ["  slot r1c0 is in the checkpoint only", "  slot r0c1 is in the model only"]
    wide = MorphogeneticModel.wrap(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), {"r0c0": "0"}, torch.zeros(2, 4))
    narrow = MorphogeneticModel.wrap(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), {"r0c0": "0"}, torch.zeros(2, 4))
    message = assert_refused(narrow, lambda: narrow.load_state_dict(wide.state_dict()))
    assert message.splitlines()[1:] == ["  slot r0c0: channels is 5 in the checkpoint, 6 in the model"]


def test_another_host_with_the_same_slots_is_refused_naming_its_tensors():
    def model(width, bias=True):
        host = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, width, bias=bias))
        return MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4))

    theirs, ours = model(2), model(3, bias=False)
    theirs.germinate("r0c0", "norm")
    message = assert_refused(ours, lambda: ours.load_state_dict(theirs.state_dict()))
    assert message.splitlines()[1:] == [
        "  tensor host.1.bias is in the checkpoint only",
        "  tensor host.1.weight has shape (2, 5) in the checkpoint, (3, 5) in the model",
    ]


def test_assign_true_is_refused():
    model = make_model()
    state = model.state_dict()
    assert_refused(model, lambda: model.load_state_dict(state, assign=True), ValueError, "assign=False, got True")


def test_without_strict_a_name_of_a_tied_tensor_may_be_missing():
    def tied(value):
        first, last = nn.Linear(4, 4), nn.Linear(4, 4)
        last.weight = first.weight
        nn.init.constant_(first.weight, value)
        return MorphogeneticModel.wrap(nn.Sequential(first, last), {"r0c0": "0"}, torch.zeros(2, 4))

    grown, fresh = tied(0.5), tied(0.0)
    grown.germinate("r0c0", "lora")
    state = grown.state_dict()
    del state["host.1.weight"]
    assert_refused(fresh, lambda: fresh.load_state_dict(state), match="tensor host.1.weight is in the model only")
    result = fresh.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["host.1.weight"], [])
    assert torch.equal(fresh.host[1].weight, torch.full((4, 4), 0.5))
    assert fresh.states["r0c0"] == grown.states["r0c0"]
    del state["host.1.bias"]
    assert_refused(fresh, lambda: fresh.load_state_dict(state, strict=False), match="tensor host.1.bias is in the")


def test_a_state_without_manifest_or_with_a_damaged_one_is_refused():
    model = make_model()
    state = model.state_dict()

    def with_manifest(text):
        return state | {EXTRA_STATE: torch.tensor(list(text.encode()), dtype=torch.uint8)}

    manifest = json.loads(bytes(state[EXTRA_STATE].tolist()))
    assert_refused(model, lambda: model.load_state_dict(model.host.state_dict()), match="has no manifest")
    assert_refused(model, lambda: model.load_state_dict(with_manifest("{")), match="cannot be read")
    assert_refused(model, lambda: model.load_state_dict(with_manifest("[]")), match="has version None")
    old = json.dumps(manifest | {"version": 0})
    assert_refused(
        model, lambda: model.load_state_dict(with_manifest(old)), match="version 0, this release reads version 3"
    )
    for damage in ({"seeds": []}, {"slots": None}, {"seeds": {}}, {"seeds": {"r0c0": {}}}, {"germinations": 3}):
        text = json.dumps(manifest | damage)
        assert_refused(model, lambda text=text: model.load_state_dict(with_manifest(text)), match="manifest is damaged")


def test_files_that_are_missing_foreign_or_damaged_are_refused(tmp_path):
    model, path = make_model(), tmp_path / "m"
    assert_refused(model, lambda: model.load(path), FileNotFoundError, "there is no model at")
    assert_refused(model, lambda: model.load(tmp_path), FileNotFoundError, "there is no model at")
    model.save(path)
    good = path.read_bytes()
    for content in (b"", b"not a model", good[: len(good) // 2]):
        path.write_bytes(content)
        assert_refused(model, lambda: model.load(path), match=r"model .*m is damaged")
    for header in (None, {"esper_ray": '{"aliases": {}}'}):
        save_file({"x": torch.zeros(2)}, path, metadata=header)
        assert_refused(
            model, lambda: model.load(path), match=r"m is of kind None .*expected kind 'grown model' version 2"
        )
    for content in ([], {}, {"aliases": []}, {"aliases": {"a": "b"}}):
        MODEL_FILE.write(path, {"x": torch.zeros(2)}, content)
        assert_refused(model, lambda: model.load(path), match="the names of its tied tensors")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert_refused(model, lambda: model.load(path), match="the SHA-256 digest of its content differs")


def test_loading_an_own_blueprint_needs_its_registration(tmp_path, own_body):
    grown, fresh = make_organism(), make_model()
    germinate(grown, "r0c0", "own")
    grown.model.save(tmp_path / "m")
    unregister_blueprint("own", Topology.IMAGES)
    assert_refused(fresh, lambda: fresh.load(tmp_path / "m"), ValueError, "unknown blueprint 'own'")
    own_body()
    fresh.load(tmp_path / "m")
    assert fresh.states["r0c0"].blueprint == "own"


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    organism, path = make_organism(), tmp_path / "m"
    organism.model.save(path)
    before = path.read_bytes()
    germinate(organism, "r0c0")

    def full(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        organism.model.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert path.read_bytes() == before


def test_loading_empties_the_slots_that_are_empty_in_the_file(tmp_path):
    bare, grown = make_model(), make_organism()
    bare.save(tmp_path / "m")
    for slot in SLOTS:
        grow(grown, slot, Stage.TRAINING)
    grown.model.load(tmp_path / "m")
    assert set(grown.model.states.values()) == {None}
    assert grown.optimizer.group_names == ["host"]
    assert torch.equal(grown.model.eval()(images(2)), bare.eval()(images(2)))


class Around(nn.Module):
    """A user's module with a grown model inside."""

    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_an_enclosing_module_rebuilds_what_had_grown(strict):
    grown, occupied = grown_organism().model, make_organism()
    germinate(occupied, "r0c0")
    state = Around(Around(grown)).state_dict()
    for model in (make_model(), occupied.model):
        Around(Around(model)).load_state_dict(state, strict=strict)
        assert model.growth.record() == grown.growth.record()
        assert torch.equal(model.eval()(images(3)), grown.eval()(images(3)))
    assert [group["name"] for group in occupied.optimizer.param_groups if group["params"]] == ["host", "r1c0"]


def test_loading_an_equal_structure_within_another_module_keeps_the_parameters():
    grown = grown_organism().model
    parameters = list(grown.parameters())
    Around(grown).load_state_dict(Around(grown).state_dict())
    assert all(a is b for a, b in zip(parameters, grown.parameters(), strict=True))


def test_a_state_of_an_enclosing_module_with_other_shapes_changes_no_seed():
    fresh, state = make_model(), Around(grown_organism().model).state_dict()
    name = next(name for name in state if ".seed." in name)
    state[name] = torch.zeros(3, 3, 3, 3, 3)
    with pytest.raises(TopologyError, match=r"tensor cells\..* has shape \(3, 3, 3, 3, 3\) in the checkpoint"):
        Around(fresh).load_state_dict(state)
    assert set(fresh.states.values()) == {None}


def test_seeds_of_an_unregistered_blueprint_are_refused_with_its_name():
    register_blueprint("mine", Topology.IMAGES, lambda shape: nn.Conv2d(shape.channels, shape.channels, 1))
    try:
        grown = make_model()
        grown.germinate("r0c0", "mine")
        state = grown.state_dict()
    finally:
        unregister_blueprint("mine", Topology.IMAGES)
    fresh = make_model()
    with pytest.raises(TopologyError, match="cannot be built: unknown blueprint 'mine'"):
        fresh.load_state_dict(state)
    assert fresh.states["r0c0"] is None
