"""Policy bundles: round trip, refusal of damaged or incompatible files, and loading without Ray."""

import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from damage_builders import mutated_tensors

from esper_policies.bundle import (
    BUNDLE,
    BundleError,
    Provenance,
    load_bundle,
    policy_observation,
    save_bundle,
    weights_digest,
)
from esper_policies.network import PolicyNetwork
from esper_ray.leyline.actions import HEADS_OF_OP, action_names
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.growth import GrowthConfig
from esper_ray.leyline.config.run import PolicyConfig

POLICY = PolicyConfig(feature_size=16, memory_size=16)
PROVENANCE = Provenance(
    run="r1",
    round=3,
    episodes=6,
    config_sha256="ab",
    task="digits",
    reward="settlement",
    episode_length=40,
    package="0.1.0",
)


def weights(policy=POLICY, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PolicyNetwork(policy)
    network.renormalise_values(-1.5, 2.5)
    return network.state_dict()


def saved(path, tensors=None, **changes):
    options = {
        "policy": POLICY,
        "growth": GrowthConfig(),
        "topologies": [Topology.IMAGES],
        "provenance": PROVENANCE,
    } | changes
    return save_bundle(path, weights() if tensors is None else tensors, **options)


def rewritten(path, change):
    """Change the manifest of the bundle at ``path`` and keep its tensors."""
    blob = BUNDLE.read(path, "it")
    change(blob.content)
    BUNDLE.write(path, blob.tensors, blob.content)


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "tamiyo.esper"
    saved(target)
    return target


def test_a_bundle_round_trips_bit_for_bit(path):
    bundle = load_bundle(path)
    original = weights()
    assert bundle.weights.keys() == original.keys()
    assert all(torch.equal(bundle.weights[name], tensor) for name, tensor in original.items())
    assert (bundle.weights["value_mean"], bundle.weights["value_scale"]) == (-1.5, 2.5)
    manifest = bundle.manifest
    assert (manifest.policy, manifest.growth, manifest.provenance) == (POLICY, GrowthConfig(), PROVENANCE)
    assert manifest.topologies == (Topology.IMAGES,)
    assert manifest.parameters == PolicyNetwork(POLICY).parameter_count()


def test_the_player_of_a_bundle_has_its_weights_and_is_greedy(path):
    player = load_bundle(path).player()
    assert (player.epsilon, player.greedy) == (0.0, True)
    assert all(torch.equal(player.network.state_dict()[name], tensor) for name, tensor in weights().items())
    assert not load_bundle(path).player(greedy=False).greedy


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, 0.9999])
def test_a_truncated_bundle_is_refused_by_name(path, share):
    blob = path.read_bytes()
    path.write_bytes(blob[: int(len(blob) * share)])
    with pytest.raises(BundleError, match=r"tamiyo\.esper is damaged"):
        load_bundle(path)


def test_a_missing_bundle_is_refused_by_name(tmp_path):
    with pytest.raises(BundleError, match=r"none\.esper cannot be read"):
        load_bundle(tmp_path / "none.esper")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "a.esper").open("wb") as file:
        file.truncate(2**35)
    with pytest.raises(BundleError, match="34359738368 bytes, at most 17179869184 are read"):
        load_bundle(tmp_path / "a.esper")


def test_a_changed_weight_is_refused_by_digest(path):
    blob = bytearray(path.read_bytes())
    blob[-3] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(BundleError, match=r"tamiyo\.esper is damaged: the SHA-256 digest of its content differs"):
        load_bundle(path)


def test_other_safetensors_files_are_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "a.esper")
    with pytest.raises(BundleError, match=r"a\.esper is of kind None version None, expected kind 'policy bundle'"):
        load_bundle(tmp_path / "a.esper")


def test_a_bundle_of_version_1_is_refused_with_its_version(tmp_path):
    old = {"format": "esper-policy", "version": 1, "observation": []}
    safetensors.torch.save_file(weights(), tmp_path / "a.esper", metadata={"esper": json.dumps(old)})
    with pytest.raises(BundleError, match=r"is of kind None version 1, expected kind 'policy bundle' version 4"):
        load_bundle(tmp_path / "a.esper")


def test_weights_with_another_digest_than_the_manifest_are_refused(path):
    rewritten(path, lambda manifest: manifest.update(weights_sha256="ab"))
    with pytest.raises(BundleError, match="its weights are not those of its manifest"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["observation"].remove("val_loss"), r"other observation: it lacks val_loss$"),
        (lambda m: m["observation"].append("slot.mood"), r"it has slot\.mood, which do not exist here"),
        (lambda m: m["observation"].reverse(), r"another order from number 0 on"),
        (lambda m: m["actions"].remove("blueprint 12: flex_attention"), r"other actions: it lacks blueprint 12"),
        (lambda m: m.pop("observation"), r"it lacks epoch, val_loss"),
        (lambda m: m.update(observation=None), r"other observation: it lacks epoch, val_loss"),
        (lambda m: m.update(actions=7), r"other actions: it lacks"),
        (lambda m: m["policy"].update(memory_size=0), r"policy\.memory_size"),
        (lambda m: m["policy"].update(memory_size=8192), r"has shape \(.*\), it must be \(.*8192"),
        (lambda m: m["policy"].update(memory_size=10**7), r"policy\.memory_size: Input should be less than or equal"),
        (lambda m: m.pop("growth"), r"growth: Field required"),
        (lambda m: m.update(extra=1), r"extra: Extra inputs"),
    ],
)
def test_a_bundle_of_another_schema_is_refused_with_the_difference(path, change, message):
    rewritten(path, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(path)


@pytest.mark.parametrize("manifest", [[], None, "text"])
def test_a_manifest_that_is_no_object_is_refused(tmp_path, manifest):
    BUNDLE.write(tmp_path / "a.esper", weights(), manifest)
    with pytest.raises(BundleError, match="manifest is not a JSON object"):
        load_bundle(tmp_path / "a.esper")


def test_weights_of_another_network_are_refused_by_name_and_shape(path):
    rewritten(path, lambda m: m["policy"].update(memory_size=32))
    with pytest.raises(BundleError, match=r"argument_heads\.\S+ has shape \(.*\), it must be \(.*\)"):
        load_bundle(path)


def test_invalid_weights_are_not_saved(tmp_path):
    broken = weights()
    broken["op_head.0.weight"][0, 0] = float("nan")
    with pytest.raises(BundleError, match=r"tensor op_head\.0\.weight has nan at \[0, 0\], it must be finite"):
        saved(tmp_path / "a.esper", broken)
    whole = weights()
    whole["critic.0.weight"] = whole["critic.0.weight"].long()
    with pytest.raises(BundleError, match=r"critic\.0\.weight has type int64, it must be float32"):
        saved(tmp_path / "a.esper", whole)
    for name, value, reason in (
        ("value_scale", -1.0, "it must be at least 0"),
        ("normaliser.base_deviation", 0.0, "it must be above 0"),
    ):
        divided = weights()
        divided[name] = torch.full_like(divided[name], value)
        with pytest.raises(BundleError, match=rf"{name} has {value:g}.*, {reason}"):
            saved(tmp_path / "a.esper", divided)
    lacking = weights()
    del lacking["value_scale"]
    with pytest.raises(BundleError, match="tensor value_scale is missing"):
        saved(tmp_path / "a.esper", lacking)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_replace_is_given(path):
    before = path.read_bytes()
    with pytest.raises(BundleError, match="exists already"):
        saved(path, weights(seed=1))
    assert path.read_bytes() == before
    saved(path, weights(seed=1), replace=True)
    assert path.read_bytes() != before


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        saved(path, replace=True)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("name", "message"), [("a.bin", "NAME.esper"), ("none/a.esper", "no folder")])
def test_a_path_with_wrong_suffix_or_missing_folder_is_refused(tmp_path, name, message):
    with pytest.raises(BundleError, match=message):
        saved(tmp_path / name)


def test_topologies_outside_the_training_are_refused_with_the_slots(path):
    bundle = load_bundle(path)
    bundle.check_serves({"r0c0": Topology.IMAGES})
    with pytest.raises(BundleError, match=r"learned to grow on images \(task 'digits'\), but r0c1 has sequences$"):
        bundle.check_serves({"r0c0": Topology.IMAGES, "r0c1": Topology.SEQUENCES})


def test_the_compared_names_cover_every_feature_and_every_choice():
    assert len(policy_observation()) == 23 + 31 + 8
    assert len(set(policy_observation())) == 62
    names = action_names()
    assert len(names) == len(set(names)) == 6 + 13 + 4 + 3 + 3 + 4 + 5 + len(HEADS_OF_OP)
    assert {"op 1: germinate", "blueprint 1: conv_light", "tempo 0: 3 ticks", "alpha_target 2: 1.0"} <= set(names)
    assert "prune reads op, slot, alpha_speed, alpha_curve" in names


@pytest.mark.parametrize(
    ("path_of", "value", "message"),
    [
        (("parameters",), True, "parameters: Input should be a valid integer"),
        (("parameters",), 7, "parameters is 7, it has"),
        (("provenance", "round"), -1, "provenance.round: Input should be greater than or equal to 0"),
        (("provenance", "round"), 1.0, "provenance.round: Input should be a valid integer"),
        (("provenance", "episode_length"), "40", "provenance.episode_length: Input should be a valid integer"),
        (("policy", "memory_size"), True, "policy.memory_size: Input should be a valid integer"),
        (("topologies",), "images", "topologies: "),
        (("growth",), None, "growth: "),
        (("more",), 1, "more: Extra inputs are not permitted"),
    ],
)
def test_a_field_of_another_type_is_refused_with_its_place(path, path_of, value, message):
    def change(manifest):
        for key in path_of[:-1]:
            manifest = manifest[key]
        manifest[path_of[-1]] = value

    rewritten(path, change)
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_other_tensors_are_refused_by_name(path, seed):
    blob = BUNDLE.read(path, "it")
    _, tensors = mutated_tensors(dict(blob.tensors), np.random.default_rng(seed))
    BUNDLE.write(path, tensors, blob.content | {"weights_sha256": weights_digest(tensors)})
    with pytest.raises(BundleError, match=r"policy bundle .*tamiyo\.esper: tensor "):
        load_bundle(path)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(()).to_sparse(), "the layout torch.sparse_coo"),
        (torch.ones((), device="meta"), "the device meta"),
        (3.0, "it is a float"),
    ],
)
def test_a_weight_that_cannot_be_written_exactly_is_refused_by_name(tmp_path, tensor, reason):
    with pytest.raises(BundleError, match=rf"value_scale cannot be written: .*{reason}"):
        saved(tmp_path / "a.esper", weights() | {"value_scale": tensor})
    assert list(tmp_path.iterdir()) == []


def test_weights_of_any_memory_layout_are_written_exactly(tmp_path):
    expanded = weights() | {"value_scale": torch.full((4,), 2.5).expand(3, 4)[1, 2]}
    transposed = {name: t.T.contiguous().T if t.ndim == 2 else t for name, t in expanded.items()}
    saved(tmp_path / "a.esper", transposed)
    loaded = load_bundle(tmp_path / "a.esper").weights
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())


@pytest.mark.parametrize("key", ["growth.min_training_epochs", "growth.incubation.share", "policy.critic"])
def test_a_bundle_without_a_key_is_refused_not_filled_with_a_default(tmp_path, key):
    saved(tmp_path / "a.esper")
    blob = BUNDLE.read(tmp_path / "a.esper", "it")
    *parents, last = key.split(".")
    section = blob.content
    for parent in parents:
        section = section[parent]
    del section[last]
    (tmp_path / "a.esper").unlink()
    BUNDLE.write(tmp_path / "a.esper", blob.tensors, blob.content)
    with pytest.raises(BundleError, match=rf"is not complete: its manifest lacks {key}$"):
        load_bundle(tmp_path / "a.esper")
