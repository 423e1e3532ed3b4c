"""Summary picture of a run, and the choice of its episode."""

import struct

import pytest
from nissa_builders import complete

from esper_ray.karn.reports.run_summary import best_episode, draw_run
from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.slow

CONFIG = build(read_preset("digits"))
OPS = ("wait", "germinate", "set_alpha_target", "prune", "fossilize", "advance")
LIFE = [
    ("GERMINATED", 0.0),
    ("TRAINING", 0.0),
    ("BLENDING", 0.4),
    ("HOLDING", 1.0),
    ("FOSSILIZED", 1.0),
    ("FOSSILIZED", 1.0),
]
FAILURE = [("TRAINING", 0.0), ("PRUNED", 0.0), ("EMBARGOED", 0.0), ("RESETTING", 0.0), None, ("GERMINATED", 0.0)]


def story(episode, accuracy, steps=6, grown=True, **more):
    """The log of one episode: one fossilized seed, and one that is pruned and replaced."""
    state = {"val_accuracy_pp": 10.0, "committed_accuracy_pp": 10.0}
    yield complete({"kind": "episode_started", "episode": episode, **state, **more})
    for step in range(steps):
        slots = {}
        for slot, life in (("r0c10", LIFE), ("r0c2", FAILURE)):
            if grown and life[step] is not None:
                stage, alpha = life[step]
                seed = f"{slot}-{1 if step < 4 else 2}"
                slots[slot] = {"seed": seed, "blueprint": "norm", "stage": stage, "alpha": alpha}
        yield complete({"kind": "env_epoch", "episode": episode, "step": step + 1, "slots": slots, **state, **more})
    yield complete({"kind": "outcome", "episode": episode, "val_accuracy_pp": accuracy, **more})


def row_of(index, **operations):
    counts = {f"op_{op}": operations.get(op, 0) for op in OPS}
    numbers = {
        "return_mean": 0.5 * index - 1.0,
        "return_std": 0.2,
        "val_accuracy_ratio": 0.3,
        "committed_accuracy_ratio": 0.2,
        "growth_ratio": 1.5,
        "fossilised_mean": 0.5,
        "kl": float("nan"),
    }
    return {"round": index, "episodes": 2, **numbers, **counts}


def size_of(path):
    """Width and height in the header of a PNG file."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, CONFIG, [])


def test_a_run_with_rounds_is_drawn_with_its_best_episode(run):
    for index in range(3):
        run.log(story(index, 50.0 + index, round=index))
        run.add_round(row_of(index, wait=5, germinate=4, prune=index, fossilize=1), {"round": index})
    draw_run(run)
    assert size_of(run.picture) == (1320, 1045)


def test_a_heuristic_run_is_drawn_without_rounds_and_without_a_display(run, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.delenv("DISPLAY", raising=False)
    run.log(story(0, 80.0))
    draw_run(run)
    assert size_of(run.picture) == (1320, 506)
    assert pyplot.get_fignums() == []


def test_rounds_with_wait_only_are_drawn(run):
    """A single round, no operation, no seed: the smallest run. Warnings are errors here."""
    run.log(story(0, 20.0, steps=1, grown=False, round=0))
    run.add_round(row_of(0, wait=12), {"round": 0})
    draw_run(run)
    assert size_of(run.picture) == (1320, 1045)


def test_rounds_without_a_finished_episode_are_drawn(run):
    run.add_round(row_of(0, germinate=1), {"round": 0})
    draw_run(run)
    assert size_of(run.picture) == (1320, 1045)


def test_the_best_episode_is_the_earliest_with_the_highest_accuracy():
    events = [event for index, accuracy in enumerate([30.0, 70.0, 70.0, 60.0]) for event in story(index, accuracy)]
    best = best_episode(events)
    assert best.episode == 1
    assert [step["episode"] for step in best.steps] == [1] * 6
    assert [step["step"] for step in best.steps] == [1, 2, 3, 4, 5, 6]
    assert best.start["kind"] == "episode_started"
    assert best.round_index == 0


def test_the_best_episode_has_its_round():
    events = [*story(0, 10.0, round=0), *story(1, 20.0, round=4)]
    assert best_episode(events).round_index == 4


def test_unfinished_episodes_are_not_chosen():
    unfinished = [event for event in story(1, 99.0) if event["kind"] != "outcome"]
    assert best_episode([*story(0, 10.0), *unfinished]).episode == 0
    assert best_episode(unfinished) is None
    assert best_episode([{"kind": "run_started"}]) is None


def test_episodes_with_interleaved_records_are_separated():
    first, second = list(story(0, 40.0)), list(story(1, 50.0))
    mixed = [event for pair in zip(first, second, strict=True) for event in pair]
    best = best_episode(mixed)
    assert (best.episode, len(best.steps)) == (1, 6)
    assert {step["episode"] for step in best.steps} == {1}
