"""Saved growth: bit-exact resume in the same and in another process, and refusal of foreign states."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from damage_builders import flipped, mutated_tensors, other_values, places, value_at, with_value, without
from growing_builders import Dropping, Script, Small, examples, seeded, vectors, weights_of

from esper_ray.growing import grow
from esper_ray.growing.state import STATE, GrowthStateError
from esper_ray.leyline.actions import WAIT
from esper_ray.leyline.policy import Decision

pytestmark = pytest.mark.integration

EPOCHS = 9
OPTIMIZERS = {"adamw": {}, "sgd": {"optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9}}
MUTATIONS = 8
SLOTS = {"r0c0": "first", "r0c1": "second"}


def session(policy="script", optimizer="adamw", **changes):
    """A new session with a scheduler."""
    options = {"policy": Script() if policy == "script" else policy, "epochs": EPOCHS, "report": len}
    return grow(seeded(Dropping), vectors(), **(options | OPTIMIZERS[optimizer] | changes))


def trained(growing, epochs, after=lambda step: None):
    """Train at most ``epochs`` epochs of two steps each; dropout draws from torch's global stream."""
    x, y = vectors()
    for step in growing:
        for part in (slice(0, 12), slice(12, 24)):
            growing.train_step((x[part], y[part]))
        after(step)
        if step.epoch == epochs - 1:
            return


def finished(growing):
    """All that comes of a session that is trained to its end."""
    trained(growing, EPOCHS + 1)
    endings = [str(ending) for ending in growing.endings]
    history = [str(step) for step in growing.history]
    rates = [group["lr"] for group in growing.optimizer.param_groups]
    return json.loads(json.dumps([weights_of(growing.model), endings, history, rates, torch.rand(1).item()]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("policy", ["script", "heuristic", "random"])
@pytest.mark.parametrize("at", [1, 5])
def test_a_loaded_session_resumes_bit_for_bit(policy, optimizer, at):
    growing = session(policy, optimizer)
    torch.manual_seed(1)
    trained(growing, at)
    blob = growing.save_state()
    assert growing.save_state() == blob
    expected = finished(growing)
    second = session(policy, optimizer)
    torch.manual_seed(99)
    trained(second, 2)
    second.load_state(blob)
    assert second.save_state() == blob
    assert finished(second) == expected


def test_a_learned_policy_resumes_with_its_memory(bundle):
    def play(growing, stop):
        for step in growing:
            growing.train_step(examples())
            if step.epoch == stop:
                return

    def sampled():
        policy = bundle.player(greedy=False)
        return grow(seeded(Small), examples(), policy=policy, slots=SLOTS, epochs=12, report=len)

    growing, second = sampled(), sampled()
    play(growing, 5)
    second.load_state(growing.save_state())
    for resumed in (growing, second):
        play(resumed, 12)
    assert weights_of(second.model) == weights_of(growing.model)
    assert second.history == growing.history


@pytest.mark.parametrize("steps", [0, 1])
def test_a_session_saved_in_the_middle_of_an_epoch_resumes_there(steps):
    x, y = vectors()
    growing = session()
    torch.manual_seed(1)
    trained(growing, 3)
    step = next(growing)
    for _ in range(steps):
        growing.train_step((x, y))
    blob = growing.save_state()
    growing.train_step((x[:6], y[:6]))
    expected = finished(growing)
    second = session()
    second.load_state(blob)
    assert (second.epoch, second.steps) == (3, steps)
    if steps == 0:
        assert str(next(second)) == str(step)
    second.train_step((x[:6], y[:6]))
    assert finished(second) == expected


def test_a_scheduled_rate_is_part_of_the_state():
    growing = session()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(growing.optimizer, 0.5)
    trained(growing, 3, lambda step: scheduler.step())
    second = session()
    again = torch.optim.lr_scheduler.ExponentialLR(second.optimizer, 0.5)
    second.load_state(growing.save_state())
    again.load_state_dict(scheduler.state_dict())
    assert second.optimizer.param_groups[0]["lr"] == 0.001 * 0.5**3
    assert finished(second)[3] == finished(growing)[3]


def test_a_finished_session_stays_finished():
    growing = session()
    trained(growing, EPOCHS + 1)
    second = session()
    second.load_state(growing.save_state())
    assert list(second) == []
    assert second.endings == growing.endings
    assert weights_of(second.plain()) == weights_of(growing.plain())


RESUME = """
import json, sys
import torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_state import finished, session
growing = session()
growing.load_state(Path(sys.argv[1]).read_bytes())
print(json.dumps(finished(growing)))
"""


@pytest.mark.slow
@pytest.mark.nightly
def test_another_process_resumes_bit_for_bit(tmp_path):
    growing = session()
    torch.manual_seed(1)
    trained(growing, 4)
    (tmp_path / "state").write_bytes(growing.save_state())
    builders = Path(__file__).parents[1] / "builders"
    folders = [str(folder) for folder in (Path(__file__).parent, builders, builders / "networks")]
    command = [sys.executable, "-c", RESUME, str(tmp_path / "state"), *folders]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == finished(growing)


# Refusals


@pytest.fixture(scope="module")
def saved():
    """A session in the middle of its growth, an earlier state of it, and its own state."""
    growing = session()
    trained(growing, 4)
    earlier = growing.save_state()
    growing.train_step(vectors())
    return growing, earlier, growing.save_state()


def refuses(growing, blob, before):
    """Whether ``blob`` is refused; nothing but a GrowthStateError may be raised, and nothing may be changed."""
    error = None
    try:
        growing.load_state(blob)
    except GrowthStateError as refusal:
        error = refusal
    if error is None:
        growing.load_state(before)
        return False
    assert "\n" not in str(error)
    assert growing.save_state() == before
    return True


def content_of(blob):
    parts = STATE.decode(blob, "it")
    return dict(parts.tensors), json.loads(json.dumps(parts.content))


def test_every_flipped_bit_and_every_truncation_is_refused(saved):
    growing, blob, before = saved
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(blob), MUTATIONS):
        changed = flipped(blob, int(place), int(rng.integers(8)))
        if not refuses(growing, changed, before):
            assert content_of(changed)[1] == content_of(blob)[1]  # such as another space in the header
        assert refuses(growing, blob[: int(place)], before)


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_other_tensors_are_refused(saved, seed):
    growing, blob, before = saved
    tensors, content = content_of(blob)
    what, mutated = mutated_tensors(tensors, np.random.default_rng(seed))
    assert refuses(growing, STATE.encode(mutated, content), before), what


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_a_field_of_another_type_is_refused_or_is_a_possible_value(saved, seed):
    growing, blob, before = saved
    tensors, content = content_of(blob)
    rng = np.random.default_rng(seed)
    paths = list(places(content))
    for _ in range(6):
        path = paths[int(rng.integers(len(paths)))]
        values = other_values(content, path)
        value = values[int(rng.integers(len(values)))]
        if not refuses(growing, STATE.encode(tensors, with_value(content, path, value)), before):
            present = value_at(content, path)
            kinds = (bool, int, float, type(None))
            assert isinstance(value, kinds) if isinstance(present, kinds) else type(value) is type(present), path


@pytest.mark.parametrize("key", ["settings", "data", "life", "growth", "decided", "optimizer", "groups"])
def test_a_missing_part_is_refused_with_its_name(saved, key):
    growing, blob, before = saved
    tensors, content = content_of(blob)
    with pytest.raises(GrowthStateError, match=f"damaged: {key}: Field required"):
        growing.load_state(STATE.encode(tensors, without(content, (key,))))
    assert growing.save_state() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 8}, "another session: epochs is 9 there, 8 here"),
        ({"policy": "static"}, "another session: policy is Script there, StaticPolicy here"),
        ({"seed": 1}, "another session: seed is 0 there, 1 here"),
        ({"lr": 0.5}, r"optimizer is AdamW\(lr=0.001\) there, AdamW\(lr=0.5\) here"),
        ({"clip": None}, "another session: training is"),
    ],
)
def test_a_state_of_another_session_is_refused_with_the_difference(saved, changes, message):
    with pytest.raises(GrowthStateError, match=message):
        session(**changes).load_state(saved[1])


def test_a_state_of_other_data_or_another_host_is_refused(saved):
    x, y = vectors()
    other = grow(seeded(Dropping), (x + 1.0, y), policy=Script(), epochs=EPOCHS, report=len)
    with pytest.raises(GrowthStateError, match="has held-out examples"):
        other.load_state(saved[1])

    class Wide(Dropping):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 3))

    Wide.__name__ = "Dropping"
    places = {"r0c0": "first", "r0c1": "second"}
    wide = grow(seeded(Wide), (x, y), policy=Script(), epochs=EPOCHS, report=len, slots=places)
    before = wide.save_state()
    with pytest.raises(GrowthStateError, match="head"):
        wide.load_state(saved[1])
    assert wide.save_state() == before


def test_a_policy_that_decides_differently_is_refused(saved):
    class Other(Script):
        def decide(self, view):
            return Decision(WAIT)

    Other.__name__ = "Script"
    growing = session(policy=Other())
    with pytest.raises(GrowthStateError, match="another policy: its decision 0 was"):
        growing.load_state(saved[1])
