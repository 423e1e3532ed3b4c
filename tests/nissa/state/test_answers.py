"""The five answers: each is brought about by records with that fault, and ends with it."""

import numpy as np
import pytest
from nissa_builders import complete, quarantined
from state_builders import finished_round, moved, outcome, report, step

from esper_ray.leyline.errors import Fault
from esper_ray.nissa.state.answers import Sight, answers, gain
from esper_ray.nissa.state.run_state import RunState

STARTED = complete({"kind": "run_started", "config_sha256": "c"})
PULSE = {"phase": "playing", "pid": 41, "host": "node-7", "round": 7, "rounds": 11, "status": "running"}
SEEN = Sight(PULSE)


def control(accuracy, episode=0):
    return complete({"kind": "control", "episode": episode, "val_accuracy_pp": accuracy})


def anomaly(kind, opens=True, **more):
    record = {"kind": "anomaly", "type": kind, "open": opens, "round": 4, "value": 0.04, "threshold": 0.08}
    return complete(record | more)


def answer(name, records, sight=SEEN, timings=(), faults=()):
    return answers(RunState.of(records, timings, faults), sight)[name]


def played(accuracies, controls=(28.0,)):
    outcomes = [outcome(number, 1.0, accuracy) for number, accuracy in enumerate(accuracies)]
    return [STARTED, *map(control, controls), *outcomes, *(finished_round(index, 0.5) for index in range(3))]


def test_a_beating_driver_is_alive_in_its_phase():
    found = answer("alive", [STARTED])
    assert (found.level, found.text) == ("ok", "playing round 8/11")


@pytest.mark.parametrize(("age", "level"), [(4.9, "ok"), (5.1, "wrong")])
def test_a_driver_without_a_beat_for_five_seconds_is_gone(age, level):
    found = answer("alive", [STARTED], Sight(PULSE, beat_age_s=age))
    assert found.level == level
    if level == "wrong":
        assert found.text == "GONE, no beat for 5 s, process 41 on node-7, last: playing round 8/11"


@pytest.mark.parametrize(("age", "level"), [(89.0, "ok"), (94.0, "wrong")])
def test_a_phase_of_ten_times_its_usual_duration_is_stuck(age, level):
    timings = [{"play_seconds": 30.0, "update_seconds": 9.0}, {"play_seconds": 32.0, "update_seconds": 9.2}]
    sight = Sight(PULSE | {"phase": "learning"}, moved_age_s=age)
    found = answer("alive", [STARTED], sight, timings, [Fault("learner_died", "learner", "killed")])
    assert found.level == level
    if level == "wrong":
        assert found.text == "STUCK in learning for 94 s (usual 9)"
        assert found.because == ("learner died: learner: killed",)


def test_the_end_of_a_run_is_not_the_loss_of_its_driver():
    ended = Sight(PULSE | {"phase": "ended", "status": "failed"}, beat_age_s=900.0)
    assert answer("alive", [STARTED], ended).level == "wrong"
    finished = complete({"kind": "run_finished", "policy_sha256": "p"})
    assert answer("alive", [STARTED, finished], Sight(PULSE, beat_age_s=900.0)).text == "finished"


def test_a_run_without_a_pulse_is_unknown_not_dead():
    found = answer("alive", [STARTED], Sight(None))
    assert (found.level, found.text) == ("unknown", "not recorded by this version")


def test_learning_is_the_gain_over_the_control_with_an_interval():
    accuracies = [40.0, 50.0, 60.0, 50.0]
    found = gain(RunState.of(played(accuracies, controls=(28.0, 30.0))))
    assert found.mean_pp == pytest.approx(21.0)
    assert found.low_pp < 21.0 < found.high_pp
    assert (found.episodes, found.controls) == (4, 2)
    spread = np.hypot(np.std(accuracies) / 2, 1.0 / np.sqrt(2))  # standard error of the difference of two means
    assert found.high_pp - found.low_pp == pytest.approx(2 * 1.96 * spread, rel=0.15)


@pytest.mark.parametrize(
    ("accuracies", "level"), [([40.0, 50.0], "ok"), ([20.0, 21.0, 22.0], "wrong"), ([20.0, 40.0], "look")]
)
def test_learning_depends_on_the_interval_not_on_the_mean(accuracies, level):
    assert answer("learning", played(accuracies)).level == level


def test_without_a_control_or_a_round_learning_is_unknown():
    assert answer("learning", [STARTED]).text == "no round is over yet"
    assert answer("learning", played([50.0], controls=())).text == "no control without growth was measured"


def test_growing_counts_the_slots_and_ends_of_seeds():
    records = [
        step(env=0, slots={"r0c0": report("BLENDING"), "r0c1": report("TRAINING", seed="r0c1-1")}),
        step(env=1, slots={"r0c0": report("FOSSILIZED", 3.0)}),
        moved("HOLDING", "PRUNED", seed="r0c0-9", env=1, slot="r0c2"),
    ]
    found = answer("growing", records)
    assert found.level == "ok"
    assert found.text == "1 training, 1 blending, 1 fossilized, 1 pruned; kept 0, pruned 1"
    assert answer("growing", [STARTED]).level == "unknown"


def test_growing_is_to_be_looked_at_while_nothing_grows():
    records = [step(), anomaly("nothing_grows")]
    assert (answer("growing", records).level, answer("growing", records).since) == ("look", 4)
    assert answer("growing", [*records, anomaly("nothing_grows", opens=False)]).level == "ok"


def test_explained_tells_lost_samples_and_malformed_records():
    lost = complete({"kind": "samples_lost", "count": 3, "reason": "in_transit"})
    malformed = complete({"kind": "malformed"})
    assert answer("explained", [STARTED]).level == "unknown"
    assert answer("explained", [step()]).level == "ok"
    assert answer("explained", [step(), lost]).text == "3 samples of decisions were lost"
    assert answer("explained", [step(), lost, malformed]).level == "wrong"


def test_safe_names_the_open_anomaly_and_ends_with_it():
    opened = anomaly("head_collapsed", subject="style")
    found = answer("safe", [STARTED, opened])
    assert (found.level, found.since) == ("look", 4)
    assert found.text == "head collapsed (style): 0.04, threshold 0.08, since round 5"
    assert answer("safe", [STARTED, opened, anomaly("head_collapsed", opens=False, subject="style")]).level == "ok"
    assert answer("safe", [STARTED, anomaly("nonfinite", subject="kl")]).level == "wrong"
    assert answer("safe", [STARTED, quarantined(0, 3)]).text == "environment 3 is quarantined: e0"
