"""Extension: a run that is resumed with more rounds equals one that had them from the start."""

import pytest
from learner_builders import small_config
from variants import rest_at_night

import esper_ray
from esper_actors.training.run_preparation import prepare_run
from esper_ray.leyline.errors import UsageError

pytestmark = pytest.mark.integration

CONFIG = small_config(system__workers="local", ppo__rounds=2, ppo__epochs=1)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("changes", rest_at_night([{}, {"system__staleness": 1}]))
def test_n_rounds_and_an_extension_by_m_equal_n_plus_m_rounds(tmp_path, changes):
    config = small_config(system__workers="local", ppo__epochs=1, ppo__rounds=2, **changes)
    longer = small_config(system__workers="local", ppo__epochs=1, ppo__rounds=3, ppo__schedule_rounds=2, **changes)
    whole = esper_ray.train(longer, run=tmp_path / "whole").run
    esper_ray.train(config, run=tmp_path / "run")
    extended = esper_ray.train(config, rounds=3, run=tmp_path / "run").run
    for name in ("rounds.csv", "checkpoints/round-00003/learner.safetensors"):
        assert (extended.path / name).read_bytes() == (whole.path / name).read_bytes()
    events = [
        [{key: value for key, value in event.items() if key != "run"} for event in run.events(evidence=True)]
        for run in (extended, whole)
    ]
    assert events[0] == events[1]


@pytest.mark.nightly
def test_the_schedules_of_an_extended_run_keep_their_last_values(tmp_path):
    changes = {"ppo__epsilon_start": 0.5, "ppo__epsilon_fraction": 1.0}
    config = small_config(system__workers="local", ppo__epochs=1, ppo__rounds=2, **changes)
    esper_ray.train(config, run=tmp_path / "run")
    rows = esper_ray.train(config, rounds=4, run=tmp_path / "run").run.rounds()
    assert [float(row["epsilon"]) for row in rows] == [0.5, 0.25, 0.0, 0.0]
    assert len({row["entropy_coefficient"] for row in rows[1:]}) == 1


@pytest.mark.nightly
def test_an_extension_is_recorded_in_the_manifest(tmp_path):
    esper_ray.train(CONFIG, rounds=1, run=tmp_path / "run")
    for rounds in (2, 3):
        run = esper_ray.train(CONFIG, rounds=rounds, run=tmp_path / "run").run
    manifest = run.read_manifest()
    recorded = [(entry["after_round"], entry["rounds"]) for entry in manifest["extensions"]]
    assert recorded == [(1, [1, 2]), (2, [2, 3])]
    assert (run.config().ppo.rounds, run.config().ppo.schedule_rounds) == (3, 1)
    assert (manifest["status"], manifest["config"]["ppo"]["rounds"]) == ("finished", 3)


def test_an_extended_run_that_was_interrupted_is_resumed_with_or_without_its_rounds(tmp_path):
    esper_ray.train(CONFIG, rounds=1, run=tmp_path / "run")
    stopped = esper_ray.train(CONFIG, rounds=2, run=tmp_path / "run", should_stop=lambda: True)
    assert stopped.status == "interrupted"
    assert prepare_run(stopped.run.config(), tmp_path / "run").release() is None
    assert esper_ray.train(CONFIG, rounds=2, run=tmp_path / "run").status == "finished"
    assert len(stopped.run.read_manifest()["extensions"]) == 1


def test_fewer_rounds_and_other_changes_are_refused_and_the_run_stays(tmp_path):
    esper_ray.train(CONFIG, run=tmp_path / "run")
    before = files(tmp_path / "run")
    longer = small_config(system__workers="local", ppo__rounds=3, ppo__epochs=2)
    shorter = small_config(system__workers="local", ppo__rounds=1, ppo__epochs=1)
    for config, line in ((longer, "ppo.epochs: 1 -> 2"), (shorter, "ppo.rounds: 2 -> 1")):
        with pytest.raises(UsageError, match=f"another configuration:\n{line}$"):
            esper_ray.train(config, run=tmp_path / "run")
    assert files(tmp_path / "run") == before
