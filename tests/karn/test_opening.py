"""A run is opened by the states of its parts, without their events."""

import pytest
from following_builders import compacted, events_state, followed, life
from learner_builders import small_config
from state_builders import close

from esper_ray.karn.following import RunFollower
from esper_ray.karn.recent import RecentRecords
from esper_ray.nissa.log.parquet import SUMMARY, Part
from esper_ray.nissa.log.part_states import PartStates
from esper_ray.nissa.runs.run_directory import RunDirectory

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, small_config(), ["test"], "run")


@pytest.fixture
def opened_kinds(monkeypatch):
    """Kinds of the Parquet files whose rows were read."""
    kinds, rows = [], Part.rows

    def read(part, kind, *args):
        kinds.append(kind)
        return rows(part, kind, *args)

    monkeypatch.setattr(Part, "rows", read)
    return kinds


def test_a_run_is_opened_by_its_summaries_and_no_event_of_a_part_is_read(run, opened_kinds):
    compacted(run, 20, 20, 20)
    run.log(life(5, seed=1))
    assert close(followed(run).state, events_state(run))
    opened_kinds.clear()
    assert followed(run).state.count == 65
    assert opened_kinds == []


def test_a_part_without_summary_is_folded_from_the_same_events(run, tmp_path):
    compacted(run, 20, 20)
    (run.event_log.parts()[0].path / SUMMARY).unlink()
    follower = RunFollower(run, states=PartStates(tmp_path / "cache"))
    follower.poll()
    assert close(follower.state, events_state(run))
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.fixture
def states(monkeypatch, tmp_path):
    """States of parts that are cached in twos, and the parts whose state was asked for."""
    for module in ("esper_ray.karn.log_follower", "esper_ray.nissa.log.part_states"):
        monkeypatch.setattr(f"{module}.JOINED_PARTS", 2)
    asked, of = [], PartStates.of
    monkeypatch.setattr(PartStates, "of", lambda self, part: asked.append(part.first) or of(self, part))
    return PartStates(tmp_path / "cache"), asked


def test_a_log_is_opened_the_next_time_by_the_state_of_its_first_parts_together(run, states):
    cached, asked = states
    compacted(run, *[20] * 5)
    run.log(life(5, seed=1))
    first, second = RecentRecords(), RecentRecords()
    before = RunFollower(run, collector=first, states=cached)
    before.poll()
    assert asked == [0, 20, 40, 60, 80]
    asked.clear()
    after = RunFollower(run, collector=second, states=cached)
    after.poll()
    assert asked == [80]
    assert close(after.state, before.state)
    assert close(after.state, events_state(run))
    assert second.snapshot() == first.snapshot()
    assert after.problems == []


def test_a_joined_state_of_other_parts_or_a_damaged_one_is_not_used(run, states, tmp_path):
    cached, asked = states
    compacted(run, 20, 20)
    RunFollower(run, states=cached).poll()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    asked.clear()
    RunFollower(run, states=cached).poll()
    assert asked == [0, 20]
    other = RunDirectory.create(tmp_path / "other", small_config(), ["test"], "other")
    compacted(other, 20, 25)
    asked.clear()
    follower = RunFollower(other, states=cached)
    follower.poll()
    assert asked == [0, 20]
    assert close(follower.state, events_state(other))


def test_a_missing_file_of_a_part_is_named_though_its_state_is_known(run, states):
    cached, _ = states
    compacted(run, 20, 20)
    RunFollower(run, states=cached).poll()
    run.event_log.parts()[0].file("env_epoch").unlink()
    follower = RunFollower(run, states=cached)
    follower.poll()
    assert "env_epoch.parquet is missing" in follower.problems[0]
