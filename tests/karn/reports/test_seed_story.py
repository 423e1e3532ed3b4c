"""History of a seed from the event log."""

import math

from nissa_builders import complete

from esper_ray.karn.reports.seed_story import seed_stories, story_lines


def step(number, operation="WAIT", slot=None, worth=None, probability=1.0, **more):
    report = {"seed": "r0c0-1", "blueprint": "norm", "stage": "HOLDING", "alpha": 0.5, "contribution_pp": worth}
    report |= {"contribution_error_pp": None if worth is None else 0.25}
    record = {"kind": "env_epoch", "step": number, "operation": operation, "slot": slot, "slots": {"r0c0": report}}
    return complete(record | {"log_prob": math.log(probability), "value": 0.5, "reward": -0.25} | more)


def moved(source, target, ticks, initiator="clock", slot="r0c0", seed="r0c0-1", **more):
    record = {"kind": "seed_transition", "slot": slot, "seed": seed, "from": source, "to": target, "ticks": ticks}
    return complete(record | {"initiator": initiator, "blueprint": "norm"} | more)


def gate(name, passed, seed="r0c0-1"):
    check = {"name": "age", "value": 3.0, "threshold": 4.0, "margin": -1.0, "passed": passed}
    return complete({"kind": "gate", "slot": "r0c0", "seed": seed, "gate": name, "passed": passed, "checks": [check]})


LIFE = [
    complete({"kind": "episode_started"}),
    moved("DORMANT", "GERMINATED", 0, "policy"),
    moved("DORMANT", "GERMINATED", 0, "policy", slot="r0c1", seed="r0c1-1"),
    step(1, "GERMINATE", "r0c0", probability=0.25, why="nothing else to do"),
    gate("G2", False),
    step(2, worth=1.0),
    gate("G2", True),
    moved("TRAINING", "BLENDING", 2),
    step(3, worth=3.0),
    moved("BLENDING", "PRUNED", 1, reason="its gradients explode"),
    step(4),
    moved("DORMANT", "GERMINATED", 0, "policy", seed="r0c0-2"),
    step(5, "GERMINATE", "r0c0"),
    complete({"kind": "rollback", "reason": "loss", "value": 9.0, "threshold": 3.0}),
    step(6),
]


def test_a_story_has_decisions_gates_and_end():
    first, second = seed_stories(LIFE, "r0c0")
    assert (first.seed, first.blueprint) == ("r0c0-1", "norm")
    assert [number for number, _ in first.lines] == [1, 2, 3, 3, 4, 6]
    texts = [what for _, what in first.lines]
    assert texts[0] == (
        "DORMANT -> GERMINATED after 0 steps, by the policy: GERMINATE r0c0, probability 0.25, "
        "value before +0.500, reward -0.250 (nothing else to do)"
    )
    assert texts[1] == "gate G2 refused: NOT age 3 (needed 4)"
    assert texts[2] == "gate G2 passed: age 3 (needed 4)"
    assert texts[4] == "BLENDING -> PRUNED after 1 steps, automatic: its gradients explode"
    assert first.end == f"step 4: {texts[4]}"
    assert first.contributions == [(2, 1.0, 0.25, 0.5), (3, 3.0, 0.25, 0.5)]
    assert second.seed == "r0c0-2"
    assert second.end == "active at the end of the episode"
    assert second.lines[-1] == (6, "rolled back: loss (9 > 3)")


def test_stories_are_separated_by_slot():
    assert [story.seed for story in seed_stories(LIFE, "r0c1")] == ["r0c1-1"]
    assert seed_stories(LIFE, "r0c2") == []


def test_the_text_has_contribution_over_time_and_the_end():
    first, second = (list(story_lines(story)) for story in seed_stories(LIFE, "r0c0"))
    assert first[0] == "seed r0c0-1 in r0c0: norm"
    assert "  contribution, steps 2 to 3: [ @]" in first
    assert "    lowest +1.00 pp, highest +3.00 pp, last +3.00 +/- 0.25 pp at amplitude 0.50" in first
    assert first[-1].startswith("  end: step 4: BLENDING -> PRUNED")
    assert "  contribution: not measured" in second


def test_a_decision_sample_adds_the_most_probable_alternative():
    sample = {"kind": "decision", "step": 1, "operation": "GERMINATE", "probability": 0.3}
    sample |= {"operations": {"GERMINATE": 0.3, "WAIT": 0.5, "PRUNE": 0.2}, "values": {"GERMINATE": 1.0, "WAIT": 0.5}}
    first, second = seed_stories(LIFE, "r0c0", [sample])
    assert first.lines[0][1].endswith(
        "; GERMINATE itself 0.3, else WAIT 0.5, Q +0.500 against +1.000 (nothing else to do)"
    )
    assert "itself" not in second.lines[0][1]
    alone = sample | {"operations": {"GERMINATE": 1.0}}
    assert ", no other operation was legal" in seed_stories(LIFE, "r0c0", [alone])[0].lines[0][1]
