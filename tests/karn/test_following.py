"""A followed run has the state of its log, whatever happens to its files meanwhile."""

import json

import pytest
from following_builders import compacted, events_state, followed, life
from learner_builders import small_config
from nissa_builders import complete
from sanctum_builders import recorded_run, round_records
from serial_runs import run as serial_run
from state_builders import close, step

from esper_ray.karn import line_tail
from esper_ray.karn.following import RunFollower
from esper_ray.karn.recent import RecentRecords
from esper_ray.leyline.errors import Fault
from esper_ray.nissa.log.parquet import EventLogError
from esper_ray.nissa.runs.live_steps import LiveSteps
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.state.run_state import RunState

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, small_config(), ["test"], "run")


def test_a_run_is_followed_line_by_line_and_equals_its_log(run):
    follower = RunFollower(run)
    for record in life(30):
        run.log([record])
        assert follower.poll()
        assert not follower.poll()
    assert follower.state == events_state(run)
    assert follower.problems == follower.notes == []


def test_a_line_is_awaited_until_its_end_is_written_at_every_byte(run):
    run.log(life(2))
    content = run.event_log.tail.read_bytes()
    run.event_log.tail.write_bytes(b"")
    follower, lengths = RunFollower(run), set()
    for end in range(len(content) + 1):
        with run.event_log.tail.open("ab") as file:
            file.write(content[max(0, end - 1) : end])
        follower.poll()
        lengths.add((content[:end].count(b"\n"), follower.state.count))
    assert lengths == {(0, 0), (1, 1), (2, 2)}
    assert follower.problems == []


@pytest.mark.parametrize("look", [0, 1, 7, 20, 25])
def test_compaction_changes_nothing(run, look):
    """The log is compacted after 20 events, the follower looks at ``look`` of them before."""
    follower, records = RunFollower(run), life(30)
    for number, record in enumerate(records):
        run.log([record])
        if number < look:
            follower.poll()
        if number == 19:
            run.compact(always=True)
    follower.poll()
    run.compact(always=True)
    follower.poll()
    assert follower.state == events_state(run)
    assert (follower.problems, follower.notes) == ([], [])
    assert followed(run).state == follower.state


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("watched", [False, True])
def test_a_resumed_run_is_read_anew_and_says_so(run, compacted, watched):
    """Ten events are dropped; others take their place, and more than before."""
    records = life(30)
    run.log(records[:10])
    position = run.position()
    run.log(records[10:20])
    follower = RunFollower(run)
    follower.poll()
    if compacted:
        run.compact(always=True)
    run.rewind(position)
    if watched:
        follower.poll()
        note = f"resumed at round {len(follower.state.rounds) + 1}: 10 events were dropped"
    else:
        note = "resumed: events were dropped, and the log is read anew"
    run.log(life(15, seed=1))
    follower.poll()
    follower.poll()
    assert follower.state == events_state(run)
    assert follower.notes == [note]
    assert follower.problems == []


def test_a_collector_gets_the_newest_of_each_kind_and_the_newest_episodes(run):
    compacted(run, 40, 40, 40)
    run.log(life(5, seed=1))
    opened, whole = RecentRecords(), RecentRecords()
    RunFollower(run, collector=opened).poll()
    for event in run.events():
        whole.event(event)
    assert opened.snapshot() == whole.snapshot()


def test_only_the_newest_records_of_parts_reach_a_collector(run, monkeypatch):
    monkeypatch.setattr("esper_ray.karn.following.KEPT", 3)
    compacted(run, 40, 40, 40)
    opened, whole = RecentRecords(3), RecentRecords(3)
    RunFollower(run, collector=opened).poll()
    for event in run.events():
        whole.event(event)
    assert opened.snapshot() == whole.snapshot()


def test_events_that_are_compacted_between_two_looks_are_not_missed(run):
    follower = RunFollower(run)
    run.log(life(10))
    follower.poll()
    run.log(life(10, seed=1))
    run.compact(always=True)
    follower.poll()
    assert follower.state == events_state(run)


def test_a_run_that_was_opened_by_its_summary_and_resumed_is_read_anew(run):
    records = life(30)
    run.log(records[:10])
    position = run.position()
    run.log(records[10:20])
    run.compact(always=True)
    follower = followed(run)
    run.rewind(position)
    run.log(life(15, seed=1))
    follower.poll()
    assert close(follower.state, events_state(run))
    assert [note.partition(":")[0] for note in follower.notes] == ["resumed"]


def test_an_unchanged_part_behind_a_replaced_file_is_no_resumption(run):
    compacted(run, 20)
    follower = followed(run)
    run.log(life(4, seed=1))
    run.compact(always=True)
    follower.poll()
    assert close(follower.state, events_state(run))
    assert (follower.notes, follower.problems) == ([], [])


def test_a_resumption_that_drops_nothing_is_none_however_long_the_file_is(run, monkeypatch):
    monkeypatch.setattr(line_tail, "READ_BYTES", 1000)
    run.log(life(30))
    assert run.event_log.tail.stat().st_size > 3000
    follower = followed(run)
    run.rewind(run.position())
    run.log(life(4, seed=1))
    follower.poll()
    assert follower.state == events_state(run)
    assert (follower.notes, follower.problems) == ([], [])


def test_a_missing_file_of_a_part_is_a_problem_with_a_summary_too(run):
    compacted(run, 20)
    file = run.event_log.parts()[0].file("env_epoch")
    file.unlink()
    assert followed(run).problems == [f"{file} is missing"]


def test_samples_that_are_compacted_are_part_of_the_state(run):
    decisions = [
        complete({"kind": "decision", "env": env, "episode": env, "step": n}) for n in (1, 2) for env in (0, 1)
    ]
    run.samples.add(decisions[:3])
    run.compact(always=True)
    recent = RecentRecords()
    follower = RunFollower(run, collector=recent)
    follower.poll()
    run.samples.add(decisions[3:])
    run.compact(always=True)
    follower.poll()
    assert follower.state.totals.events == {"decision": 4}
    assert [record["step"] for record in recent.snapshot().decisions[1]] == [1, 2]


def test_steps_in_play_are_dropped_when_their_events_arrive(run):
    live, follower = LiveSteps(run.path), RunFollower(run)
    live.start()
    record = step(number=3, accuracy=61.2, episode=5, round=1)
    live.add([record])
    follower.poll()
    assert follower.state.environments[0].val_accuracy_pp == 61.2
    assert follower.state.totals.steps == 0
    run.log([record])
    live.finish_round(1)
    follower.poll()
    assert follower.state.previews == {}
    assert (follower.state.totals.steps, follower.state.episodes[0].step) == (1, 3)


def test_steps_in_play_are_those_of_a_file_that_was_cut_or_replaced(run):
    """A resumed run begins its steps anew; a finished round is cut, and the next one may have begun."""
    live, follower = LiveSteps(run.path), RunFollower(run)
    live.start()
    live.add([step(number=number, episode=5, round=1, reward=0.5) for number in (1, 2)])
    live.add([step(env=1, number=1, episode=9, round=2, reward=0.25)])
    follower.poll()
    assert sorted(follower.state.previews) == [0, 1]
    live.finish_round(1)
    assert follower.poll()
    assert list(follower.state.previews) == [1]
    assert follower.state.previews[1].episode_return == 0.25
    LiveSteps(run.path).start()
    assert follower.poll()
    assert follower.state.previews == {}


def test_damaged_lines_are_problems_and_the_rest_is_shown(run):
    run.log(life(1))
    with run.event_log.tail.open("ab") as file:
        file.write(b"{no json}\n")
    (run.path / "faults.jsonl").write_text("5\n" + json.dumps({"kind": "k", "who": "w", "detail": "d"}) + "\n")
    (run.path / "timings.csv").write_text("round,play_seconds\n0,1.5\n1\n")
    follower = followed(run)
    assert follower.state.count == 1 + 1 + 1
    assert follower.state.faults == (Fault("k", "w", "d"),)
    assert follower.state.timings == ({"round": 0.0, "play_seconds": 1.5},)
    assert [problem.partition(" of ")[0] for problem in follower.problems] == ["line 2", "line 1", "line 3"]


def test_a_missing_event_is_a_problem_and_not_a_gap_in_silence(run):
    run.log(life(3))
    lines = run.event_log.tail.read_bytes().splitlines(keepends=True)
    run.event_log.tail.write_bytes(lines[0] + lines[2])
    assert followed(run).problems == [f"{run.path}: events 1 to 1 are missing"]


def test_a_log_of_another_version_is_refused_with_both_versions(run):
    run.event_log.tail.write_text(json.dumps({"schema": 99, "kind": "round", "seq": 0}) + "\n")
    with pytest.raises(EventLogError, match="version 99, this program reads"):
        RunFollower(run).poll()


def test_the_age_of_the_pulse_is_measured_by_the_clock_of_the_viewer(run):
    clock = [50.0]
    follower = RunFollower(run, clock=lambda: clock[0])
    for moment, beat, moved_at in ((50.0, 1, 900.0), (51.0, 2, 900.0), (58.0, 2, 900.0)):
        clock[0] = moment
        pulse = {"beat": beat, "moved": moved_at, "phase": "playing"}
        (run.path / "pulse.json").write_text(json.dumps(pulse))
        follower.poll()
    assert (follower.sight.beat_age_s, follower.sight.moved_age_s) == (7.0, 8.0)


@pytest.mark.integration
def test_a_finished_run_has_the_state_of_its_files(tmp_path):
    directory, *_ = serial_run(tmp_path)
    follower = followed(directory)
    timings = [{name: float(value) for name, value in row.items()} for row in directory.timings()]
    assert follower.state == RunState.of(directory.events(), timings, directory.faults())
    assert follower.problems == []


def test_the_status_of_the_manifest_is_that_of_an_ended_run(run):
    run.log([complete({"kind": "run_started"})])
    run.set_status("failed")
    assert followed(run).state.status == "failed"


def test_events_that_are_compacted_before_they_are_read_are_not_missed(tmp_path):
    run = recorded_run(tmp_path, rounds=1)
    follower = RunFollower(run)
    follower.poll()
    run.log(round_records(1))
    run.compact(always=True)
    follower.poll()
    assert (len(follower.state.rounds), follower.problems, follower.notes) == (2, [], [])
