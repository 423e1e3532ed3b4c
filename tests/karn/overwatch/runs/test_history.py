"""Numbers by round are those of the whole log, however much of it is compacted when it is opened."""

import json
import random
from statistics import pstdev

import pytest
from nissa_builders import complete
from report_builders import run_of
from state_builders import finished_round, moved, outcome

from esper_ray.karn.overwatch.runs.followed import FollowedRun
from esper_ray.karn.overwatch.runs.history import UPDATE_DETAILS, RoundHistory, Spread
from esper_ray.karn.overwatch.runs.index import PlaceIndex

EPISODES, ROUNDS = 40, 20


def round_records(index, seed=0):
    """One round: many episodes, ends of seeds, a rollback now and then, an update, an anomaly."""
    rng = random.Random(1000 * seed + index)
    records = []
    for env in range(EPISODES):
        clock = {"round": index, "env": env}
        records.append(moved("HOLDING", rng.choice(["FOSSILIZED", "PRUNED"]), episode=index * EPISODES + env, **clock))
        if rng.random() < 0.1:
            records.append(complete({"kind": "rollback", "reason": rng.choice("ab"), **clock}))
        records.append(outcome(index * EPISODES + env, rng.uniform(-1, 1), rng.uniform(0, 100), **clock))
    records.append(complete({"kind": "ppo_update", "round": index, "ratio_max": 1.0 + index}))
    records.append(finished_round(index, 0.5))
    if index % 3 == 0:
        records.append(complete({"kind": "anomaly", "round": index, "type": "nonfinite", "open": index % 2 == 0}))
    return records


def numbers(history):
    return history.accuracies_pp, history.returns, history.updates, history.marks()


def whole(run):
    """The history of all events, one by one."""
    history = RoundHistory()
    for record in run.events():
        history.event(record)
    assert not history.is_partial
    return numbers(history)


@pytest.fixture
def run(tmp_path):
    """A run of many rounds, of which the first half is compacted in parts."""
    run = run_of(tmp_path, [], status="running")
    for index in range(ROUNDS):
        run.log(round_records(index))
        if index < ROUNDS // 2 and index % 4 == 3:
            run.compact(always=True)
    return run


def followed(run):
    found = FollowedRun(PlaceIndex([run.path.parent]).find("run", run.run_id), clock=lambda: 0.0)
    found.poll()
    found.complete_history()
    return found


@pytest.mark.parametrize("compacted", [False, True])
def test_an_opened_run_has_the_history_of_its_whole_log(run, compacted):
    expected = whole(run)
    if compacted:
        run.compact(always=True)
    assert numbers(followed(run)._history) == expected
    history = RoundHistory()
    history.read(run.event_log)
    assert numbers(history) == expected


def test_a_run_goes_on_after_it_was_opened(run):
    found = followed(run)
    for index in range(ROUNDS, ROUNDS + 5):
        run.log(round_records(index))
        if index % 2:
            run.compact(always=True)
        found.poll()
        found.complete_history()
    assert numbers(found._history) == whole(run)


@pytest.mark.nightly
def test_events_that_were_compacted_while_nobody_watched_are_not_missed(run):
    found = followed(run)
    for index in range(ROUNDS, ROUNDS + 25):
        run.log(round_records(index))
    run.compact(always=True)
    run.log(round_records(ROUNDS + 25))
    found.poll()
    found.complete_history()
    assert numbers(found._history) == whole(run)


def test_a_resumed_run_has_the_history_of_its_new_log(run):
    position = run.position()
    run.log(round_records(ROUNDS))
    found = followed(run)
    run.rewind(position)
    run.log([outcome(9999, 0.5, 50.0), *round_records(ROUNDS, seed=1)])
    found.poll()
    found.complete_history()
    assert numbers(found._history) == whole(run)


def test_the_page_has_every_round_after_the_history_is_complete(run):
    run.compact(always=True)
    place = PlaceIndex([run.path.parent]).find("run", run.run_id)
    found = FollowedRun(place, clock=lambda: 0.0)
    found.poll()
    version = found.shot.version
    assert found.complete_history()
    assert not found.complete_history()
    columns = json.loads(found.shot.text(version))["sections"]["rounds"]["columns"]
    assert columns["ratio_max"] == [1.0 + index for index in range(ROUNDS)]
    assert None not in columns["val_accuracy_min"]


def test_a_damaged_part_leaves_the_rest_and_does_no_harm(run):
    run.compact(always=True)
    part = run.event_log.parts()[0]
    part.file("outcome").write_bytes(b"nothing")
    found = followed(run)
    assert found.shot.complete


def test_the_spread_of_a_round_by_hand():
    history = RoundHistory()
    records = [outcome(0, 1.0, 40.0), outcome(1, None, 60.0), outcome(2, 3.0, None), finished_round(0, 0.5)]
    for number, record in enumerate(records):
        history.event({**record, "seq": number})
    assert history.accuracies_pp == {0: Spread(40.0, 60.0, pstdev([40.0, 60.0]))}
    assert history.returns == {0: Spread(1.0, 3.0, 1.0)}
    assert history.updates == {}
    assert len(UPDATE_DETAILS) > 20


def test_an_event_after_a_gap_is_not_counted():
    history = RoundHistory()
    history.event({**moved("HOLDING", "FOSSILIZED"), "seq": 0})
    history.event({**moved("HOLDING", "FOSSILIZED"), "seq": 2})
    assert history.is_partial
    assert history.marks() == [{"round": 0, "kind": "fossilized", "text": "1 fossilized"}]
