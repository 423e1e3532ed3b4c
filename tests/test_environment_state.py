"""Saved episodes: bit-exact resume in the same and in another process, and refusal of foreign states."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from variants import rest_at_night

from esper_ray.environment import MorphogenesisEnv, make_environment
from esper_ray.kasmina.hosts import build_host
from esper_ray.leyline.config.host import CNNHostConfig
from esper_ray.leyline.config.run import RunConfig
from esper_ray.runtime.snapshot import EpisodeStateError
from esper_ray.tolaria.data import split_dataset

pytestmark = pytest.mark.integration

SHARED = Path(__file__).parents[2] / "shared" / "data"
QUICK = {
    "episode_length": 14,
    "training.steps_per_epoch": 2,
    "training.batch_size": 16,
    "task.validation_size": 40,
    "task.test_size": 20,
    "growth.min_training_epochs": 1,
    "growth.min_gradient_health": 0.0,
    "governor.snapshot_every": 2,
    "measurement.every": 2,
}
VARIANTS = {
    "digits": ("digits", {}, None),
    "everything on": (
        "digits",
        {
            "training.optimizer": "adamw",
            "training.schedule": "cosine",
            "training.warmup_epochs": 2,
            "training.seed_warmup_epochs": 2,
            "task.augment": True,
            "growth.styles": ["linear_add", "gated_gate"],
            "growth.initialisation.gated_gate": "gradmax",
            "growth.slots": ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1"],
        },
        None,
    ),
    "escrow": ("digits", {"reward.mode": "escrow", "measurement.every": 1}, None),
    "patterns": ("patterns", {"reward.mode": "settlement"}, None),
    "text": ("text", {"host.dropout": 0.1, "reward.mode": "shaped"}, SHARED / "tinyshakespeare"),
    "cifar": ("cifar_impaired", {"task.train_size": 500, "reward.mode": "basic_plus"}, SHARED / "cifar10"),
}


def has_data(name):
    folder = VARIANTS[name][2]
    return folder is None or folder.is_dir()


def environment(name):
    preset, overrides, folder = VARIANTS[name]
    place = {} if folder is None else {"task.data_dir": str(folder)}
    return make_environment(preset, QUICK | overrides | place)


def random_action(env, rng):
    """A random legal action."""
    masks = env.masks
    op = rng.choice(np.flatnonzero(masks.op))
    slot = rng.choice(np.flatnonzero(masks.slot_by_op[op]))
    arguments = [rng.choice(np.flatnonzero(mask)) for mask in masks.arguments.values()]
    return np.array([op, slot, *arguments])


def random_steps(env, steps, rng):
    """Results of ``steps`` random steps: rewards, observations, events, and a digest of all tensors."""
    trace = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(random_action(env, rng))
        events = [(event.kind, event.epoch, sorted(map(str, event.data.items()))) for event in info["events"]]
        trace.append(
            [float(reward).hex(), [float(x).hex() for x in observation["features"]], events, terminated, truncated]
        )
        if terminated or truncated:
            break
    tensors = {name: tensor.double().sum().item().hex() for name, tensor in env.organism.model.state_dict().items()}
    states = env.organism.optimizer.state_by_name()
    momenta = {
        f"{name} {key}": tensor.double().sum().item().hex()
        for name, state in states.items()
        for key, tensor in state.items()
    }
    return json.loads(json.dumps([trace, tensors, momenta]))


RESUME = """
import json, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_environment_state import environment, random_steps
results = {}
for path in sorted(Path(sys.argv[2]).iterdir()):
    env = environment(path.name)
    env.load_state(path.read_bytes())
    results[path.name] = random_steps(env, 100, np.random.default_rng(8))
print(json.dumps(results))
"""


@pytest.mark.parametrize(
    "name", ["digits", "escrow", "patterns", pytest.param("everything on", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("at", rest_at_night([3, 0, 9]))
def test_a_loaded_episode_resumes_bit_for_bit(name, at):
    env, second = environment(name), environment(name)
    env.reset(seed=5)
    random_steps(env, at, np.random.default_rng(7))
    blob = env.save_state()
    second.reset(seed=99)
    random_steps(second, 2, np.random.default_rng(1))
    observation, info = second.load_state(blob)
    assert observation["features"].tolist() == env.view.features.tolist()
    assert (info["epoch"], info["episode_seed"]) == (at, 5)
    assert second.ledger.entries == env.ledger.entries
    assert random_steps(env, 100, np.random.default_rng(8)) == random_steps(second, 100, np.random.default_rng(8))
    assert second.ledger.entries == env.ledger.entries
    assert env.reset()[0]["features"].tolist() == second.reset()[0]["features"].tolist()  # later episodes too


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("names", [("digits", "everything on"), ("escrow", "patterns", "text", "cifar")])
def test_another_process_resumes_bit_for_bit(names, tmp_path):
    """The rest of an episode in this process, and resumed in another one. Variants without their data are left out."""
    folder, expected = tmp_path / "episodes", {}
    folder.mkdir()
    for name in filter(has_data, names):
        env = environment(name)
        env.reset(seed=5)
        random_steps(env, 7, np.random.default_rng(7))
        (folder / name).write_bytes(env.save_state())
        expected[name] = random_steps(env, 100, np.random.default_rng(8))
    command = [sys.executable, "-c", RESUME, str(Path(__file__).parent), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == expected


def test_saving_changes_nothing():
    env, twin = environment("digits"), environment("digits")
    for e in (env, twin):
        e.reset(seed=3)
        random_steps(e, 4, np.random.default_rng(7))
    assert env.save_state() == env.save_state()
    assert random_steps(env, 100, np.random.default_rng(8)) == random_steps(twin, 100, np.random.default_rng(8))


def test_a_loaded_episode_that_has_ended_refuses_steps():
    env, second = environment("digits"), environment("digits")
    env.reset(seed=3)
    random_steps(env, 100, np.random.default_rng(7))
    second.load_state(env.save_state())
    with pytest.raises(RuntimeError, match="the episode has ended"):
        second.step(np.zeros(8, dtype=int))


def test_a_rollback_after_loading_restores_the_trusted_state():
    env, second = environment("digits"), environment("digits")
    env.reset(seed=3)
    random_steps(env, 5, np.random.default_rng(7))
    second.load_state(env.save_state())
    for e in (env, second):
        with torch.no_grad():
            e.organism.model.host.head.weight.fill_(float("nan"))
        assert e.step(np.zeros(8, dtype=int))[2]
    for name, tensor in env.organism.model.state_dict().items():
        assert torch.equal(tensor, second.organism.model.state_dict()[name])


def test_a_foreign_state_is_refused_and_changes_nothing():
    env = environment("digits")
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.save_state()
    env.reset(seed=3)
    blob = env.save_state()
    for broken in (b"", b"nonsense", blob[:-10], blob[: len(blob) // 2]):
        with pytest.raises(EpisodeStateError, match="the saved episode is damaged: "):
            env.load_state(broken)
    assert env.save_state() == blob
    longer = make_environment("digits", QUICK | {"episode_length": 15})
    with pytest.raises(EpisodeStateError, match="differ in keys that determine an episode"):
        longer.load_state(blob)
    named = make_environment("digits", QUICK | {"name": "other", "ppo.lr": 0.1, "system.threads": 2})
    named.load_state(blob)


def test_the_digest_of_an_episode_depends_on_decisive_keys_only():
    base = RunConfig()
    assert base.environment_digest() == base.model_copy(update={"seed": 7, "name": "x"}).environment_digest()
    assert base.environment_digest() != base.model_copy(update={"gamma": 0.9}).environment_digest()


def test_other_data_and_other_hosts_are_refused():
    config = environment("digits").config
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (200, 1, 8, 8), dtype=np.uint8), rng.integers(0, 10, 200)

    def data(shift):
        shifted = (labels + shift) % 10
        return split_dataset(pixels, shifted, validation=40, test=20, seed=0, device=torch.device("cpu"))

    env, second = MorphogenesisEnv(config, data=data(0)), MorphogenesisEnv(config, data=data(1))
    env.reset(seed=1)
    blob = env.save_state()
    with pytest.raises(EpisodeStateError, match="the episode has data"):
        second.load_state(blob)
    wide = CNNHostConfig(base_channels=4)
    hosted = MorphogenesisEnv(config, data=data(0), host=lambda d: build_host(wide, d.example_shape, d.classes))
    with pytest.raises(EpisodeStateError, match=r"another host: host\."):
        hosted.load_state(blob)
    MorphogenesisEnv(config, data=data(0)).load_state(blob)
