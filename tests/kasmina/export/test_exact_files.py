"""Files of grown models: what cannot be saved exactly is refused by name, and loading is all or nothing."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from damage_builders import mutated_tensors, other_values, places, value_at, with_value
from kasmina_builders import fingerprint, grow, make_organism, train
from torch import nn

from esper_ray.kasmina import MorphogeneticModel
from esper_ray.kasmina.export.checkpoints import MODEL_FILE, TopologyError
from esper_ray.kasmina.export.differences import EXTRA_STATE
from esper_ray.leyline.stages import Stage

pytestmark = pytest.mark.integration


def hosted(**buffers):
    """A model whose host has buffers."""
    host = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    for name, buffer in buffers.items():
        host.register_buffer(name, buffer)
    return MorphogeneticModel.wrap(host, {"r0c0": "0"}, torch.zeros(2, 4))


@contextmanager
def unchanged(model):
    """Check that the block changes neither tensors nor structure."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules, record = list(model.modules()), model.growth.record()
    yield
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (list(model.modules()), model.growth.record()) == (modules, record)


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (torch.eye(3).to_sparse(), "host.z cannot be written: it has the layout torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "host.z cannot be written: it is on the device meta"),
        (torch.ones(2, dtype=torch.complex128), "host.z cannot be written: it has the element type torch.complex128"),
        (torch.arange(6.0).unfold(0, 3, 1), "host.z cannot be saved: its elements share memory"),
    ],
)
def test_a_buffer_that_cannot_be_saved_exactly_is_refused_by_name(tmp_path, buffer, reason):
    with pytest.raises(TopologyError, match=reason):
        hosted(z=buffer).save(tmp_path / "folder" / "m")
    assert list(tmp_path.iterdir()) == []


LAYOUTS = {
    "expanded": lambda: torch.tensor([3.0]).expand(5),
    "expanded in two dimensions": lambda: torch.arange(3.0)[None, :, None].expand(2, 3, 4),
    "transposed": lambda: torch.arange(6.0).reshape(2, 3).T,
    "every second": lambda: torch.arange(6.0)[::2],
    "complex": lambda: torch.tensor([1 + 2j, 3 - 1j]),
    "conjugated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negated": lambda: torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "channels last": lambda: torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_buffer_of_any_layout_survives_a_file(tmp_path, layout):
    first, second = hosted(z=LAYOUTS[layout]()), hosted(z=LAYOUTS[layout]() * 0)
    if layout.startswith("expanded"):
        second = hosted(z=(LAYOUTS[layout]() * 0)[:1].clone().expand_as(LAYOUTS[layout]()))
    first.germinate("r0c0", "mlp_small")
    first.save(tmp_path / "m")
    buffer = second.host.z
    second.load(tmp_path / "m")
    assert second.host.z is buffer
    assert second.host.z.tolist() == first.host.z.tolist()
    assert torch.equal(first.host[0].weight, second.host[0].weight)
    assert second.states == first.states


def test_an_expanded_buffer_keeps_its_memory_and_what_shares_it(tmp_path):
    one, other = torch.tensor([3.0]), torch.tensor([0.0])
    hosted(base=one, z=one.expand(5)).save(tmp_path / "m")
    model = hosted(base=other, z=other.expand(5))
    model.load(tmp_path / "m")
    assert (model.host.z.stride(), model.host.base.item()) == ((0,), 3.0)
    model.host.base.fill_(4.0)
    assert model.host.z.tolist() == [4.0] * 5


def test_values_that_an_expanded_buffer_cannot_have_are_refused(tmp_path):
    hosted(z=torch.arange(5.0)).save(tmp_path / "m")
    model = hosted(z=torch.ones(1).expand(5))
    with unchanged(model), pytest.raises(TopologyError, match=r"tensor host\.z has different values"):
        model.load(tmp_path / "m")


def test_a_host_that_refuses_its_state_is_as_it_was():
    class Strict(nn.Linear):
        def set_extra_state(self, state):
            raise ValueError("this host never agrees")

        def get_extra_state(self):
            return torch.zeros(1)

    first, second = (
        MorphogeneticModel.wrap(nn.Sequential(Strict(4, 4), nn.Linear(4, 2)), {"r0c0": "0"}, torch.zeros(2, 4))
        for _ in range(2)
    )
    first.germinate("r0c0", "mlp_small")
    with unchanged(second), pytest.raises(TopologyError, match="this host never agrees"):
        second.load_state_dict(first.state_dict())


def test_another_type_is_refused_with_both_types():
    first, second = hosted(), hosted()
    state = first.state_dict() | {"host.0.weight": first.host[0].weight.double()}
    with (
        unchanged(second),
        pytest.raises(
            TopologyError,
            match=r"host\.0\.weight has type torch\.float64 in the checkpoint, torch\.float32 in the model",
        ),
    ):
        second.load_state_dict(state)


def grown_organism():
    """A fossil and a blending seed, trained."""
    organism = make_organism()
    grow(organism, "r0c0", Stage.FOSSILIZED)
    grow(organism, "r1c0", Stage.BLENDING, "norm")
    organism.model.tick()
    train(organism, 2)
    return organism


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Tensors and content of the file of a grown model."""
    path = tmp_path_factory.mktemp("model") / "m"
    grown_organism().model.save(path)
    blob = MODEL_FILE.read(path, "it")
    return blob.tensors, blob.content


@pytest.mark.parametrize("seed", range(40))
def test_other_tensors_are_refused_and_change_nothing(file, tmp_path, seed):
    tensors, content = file
    what, mutated = mutated_tensors(tensors, np.random.default_rng(seed))
    MODEL_FILE.write(tmp_path / "m", mutated, content)
    model = grown_organism().model
    with unchanged(model), pytest.raises(TopologyError):
        model.load(tmp_path / "m")
    assert what


def test_another_manifest_is_refused_or_possible_and_never_half_loaded(file, tmp_path):
    tensors, content = file
    manifest = json.loads(bytes(tensors[EXTRA_STATE].tolist()))
    rng, paths = np.random.default_rng(5), list(places(manifest))
    model, accepted = make_organism().model, []
    for path in paths:
        values = other_values(manifest, path)
        value = values[int(rng.integers(len(values)))]
        text = json.dumps(with_value(manifest, path, value)).encode()
        packed = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        MODEL_FILE.write(tmp_path / "m", tensors | {EXTRA_STATE: packed}, content)
        if refused(model, tmp_path / "m"):
            continue
        accepted.append((path[-1], type(value_at(manifest, path)), type(value)))
        model = make_organism().model
    kinds = {int, float, str, type(None), list}
    assert all(
        before in kinds and (after is before or {before, after} <= {int, float}) for _, before, after in accepted
    )
    assert len(accepted) < len(paths) / 4


def refused(model, path):
    """Whether the file is refused, with nothing changed."""
    try:
        with unchanged(model):
            try:
                model.load(path)
            except TopologyError:
                return True
            raise LookupError("accepted")
    except LookupError:
        return False


def test_an_amplitude_other_than_the_manifests_is_refused(file, tmp_path):
    tensors, content = file
    MODEL_FILE.write(tmp_path / "m", tensors | {"cells.r1c0.alpha": torch.tensor(0.9)}, content)
    model = make_organism().model
    with unchanged(model), pytest.raises(TopologyError, match=r"cells\.r1c0\.alpha is 0\.9 in the checkpoint"):
        model.load(tmp_path / "m")


@pytest.mark.parametrize("aliases", [{"host.conv.weight": 3}, {"x": "y"}, [], None, {"x": None}])
def test_strange_names_of_tied_tensors_are_refused(file, tmp_path, aliases):
    MODEL_FILE.write(tmp_path / "m", file[0], {"aliases": aliases})
    model = make_organism().model
    with unchanged(model), pytest.raises(TopologyError, match="the names of its tied tensors"):
        model.load(tmp_path / "m")


@pytest.mark.parametrize("seed", range(25))
def test_an_organism_that_refuses_a_snapshot_is_as_it_was(seed):
    organism, other = grown_organism(), grown_organism()
    train(organism, 1)
    before, snapshot = fingerprint(organism), other.snapshot()
    what, tensors = mutated_tensors(dict(snapshot.tensors), np.random.default_rng(seed))
    with pytest.raises(ValueError, match="tensor "):
        organism.restore(type(snapshot)(snapshot.growth, tensors, snapshot.optimizer))
    assert fingerprint(organism) == before, what
