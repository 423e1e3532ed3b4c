"""Sweep directories: reopening, scores of trials by hand, refusal of foreign trials, and locking."""

import json

import pytest
from damage_builders import without

from esper_ray.leyline.config.loading import build, read_preset
from esper_ray.leyline.config.sweep import expand, sweep_config
from esper_ray.nissa.runs.run_directory import RunDirectory
from esper_ray.nissa.runs.run_files import RunDirectoryError
from esper_ray.nissa.runs.run_lock import RunLockedError
from esper_ray.nissa.runs.sweep_directory import SweepDirectory

pytestmark = pytest.mark.integration

BASE = build(read_preset("digits"), {"ppo.rounds": 4})
TREE = {"name": "mine", "reward_modes": ["basic", "sparse"], "seeds": 2, "grid": {"ppo.lr": [1e-4, 1e-3]}, "window": 2}


def row(index, committed, growth=1.0, rollbacks=0):
    return {
        "round": index,
        "env_steps": 40 * (index + 1),
        "committed_accuracy_ratio": committed,
        "val_accuracy_ratio": committed + 0.1,
        "growth_ratio": growth,
        "fossilised_mean": 1.0,
        "return_mean": float(index),
        "rollbacks": rollbacks,
    }


@pytest.fixture
def sweep(tmp_path):
    config = sweep_config(TREE)
    return SweepDirectory.create(
        tmp_path / "sweep", config, BASE, {t.name: 160 for t in expand(config, BASE)}, ["esper", "sweep"]
    )


def test_a_reopened_sweep_equals_the_created_one(sweep):
    reopened = SweepDirectory.open(sweep.path)
    assert reopened.sweep == sweep.sweep
    assert reopened.base == BASE
    assert reopened.trials == sweep.trials
    assert reopened.differences(sweep.sweep, BASE) == []


def test_of_two_processes_that_create_one_sweep_at_once_the_second_is_refused(sweep, monkeypatch):
    """The second has seen an empty folder."""
    before = (sweep.path / "sweep.json").read_bytes()
    monkeypatch.setattr("pathlib.Path.iterdir", lambda _: iter(()))
    with pytest.raises(RunDirectoryError, match="is not empty; --resume"):
        SweepDirectory.create(sweep.path, sweep_config(TREE | {"window": 3}), BASE, {}, ["esper", "sweep"])
    assert (sweep.path / "sweep.json").read_bytes() == before


def test_only_keys_that_change_results_are_differences(sweep):
    changed = sweep.sweep.model_copy(update={"concurrent": 3, "retries": 0, "window": 7})
    assert sweep.differences(changed, BASE) == ["window: 2 -> 7"]


def test_a_trial_without_a_run_is_waiting(sweep):
    result = sweep.result("0-basic-lr=0.0001-s42")
    assert (result.status, result.round_index, result.score_pp, result.run) == ("waiting", 0, None, "")


def test_a_score_by_hand(sweep):
    """160 parameters of the host, grown to 2.5 times as many: 240 at 0.005 points each are 1.2 points."""
    name = "0-basic-lr=0.0001-s42"
    run = RunDirectory.create(sweep.trials_path, sweep.trials[name].config, ["test"], name)
    for entry in (row(0, 0.2), row(1, 0.4, rollbacks=2), row(2, 0.6, 2.5, rollbacks=1)):
        run.add_round(entry, {"round": 0})
    result = sweep.result(name)
    assert result.curve_pp == pytest.approx((20.0, 40.0, 58.8))
    assert result.score_pp == pytest.approx(49.4)
    assert result.reported_pp(2) == pytest.approx([20.0, 30.0, 49.4])
    assert result.means["committed_accuracy_ratio"] == pytest.approx(0.5)
    assert (result.round_index, result.rounds, result.rollbacks, result.env_steps) == (3, 4, 3, 120)
    assert result.run == f"trials/{name}"


def test_the_objective_uses_the_price_of_the_base_for_every_trial(tmp_path):
    config = sweep_config({"seeds": 1, "grid": {"reward.param_penalty_weight": [0.1, 50.0]}})
    names = [trial.name for trial in expand(config, BASE)]
    sweep = SweepDirectory.create(tmp_path / "priced", config, BASE, dict.fromkeys(names, 160), ["test"])
    cheap, dear = (sweep.objective(name, [row(0, 0.6, 2.0)]) for name in names)
    assert cheap == dear == pytest.approx((59.2,))


def test_a_partly_written_line_is_not_read(sweep):
    name = "0-basic-lr=0.0001-s42"
    run = RunDirectory.create(sweep.trials_path, sweep.trials[name].config, ["test"], name)
    run.add_round(row(0, 0.2), {"round": 0})
    with (run.path / "rounds.csv").open("a") as file:
        file.write("1,80,0.")
    assert sweep.result(name).round_index == 1


def test_trials_of_another_sweep_are_refused(sweep):
    name = "0-basic-lr=0.0001-s42"
    RunDirectory.create(sweep.trials_path, sweep.trials["1-sparse-lr=0.0001-s42"].config, ["test"], name)
    with pytest.raises(RunDirectoryError, match=r"belongs to another sweep:\nreward\.mode: 'sparse' -> 'basic'"):
        sweep.check()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("sweep", "name"), "sweep.name is missing"),
        (("sweep", "asha", "reduction"), "sweep.asha.reduction is missing"),
        (("base", "seed"), "the configuration is not complete: seed is missing"),
        (("host_parameters", "0-basic-lr=0.0001-s42"), "host_parameters: '0-basic-lr=0.0001-s42' do not fit"),
    ],
)
def test_a_file_of_a_sweep_without_a_key_is_refused_by_its_name(sweep, place, message):
    file = sweep.path / "sweep.json"
    file.write_text(json.dumps(without(json.loads(file.read_text()), place)))
    with pytest.raises(RunDirectoryError) as error:
        SweepDirectory.open(sweep.path)
    assert message in str(error.value)


@pytest.mark.parametrize("suffix", [".g1x", ".g", ".gx1", ".g01.old", " copy"])
def test_a_foreign_folder_is_no_generation_of_a_trial(sweep, suffix):
    name = "0-basic-lr=0.0001-s42"
    run = RunDirectory.create(sweep.trials_path, sweep.trials[name].config, ["test"], name)
    RunDirectory.create(sweep.trials_path, sweep.trials[name].config, ["test"], f"{name}{suffix}")
    assert sweep.runs(name) == [run.path]
    assert sweep.generation(name) == 0


def test_a_sweep_is_locked_by_one_process(sweep):
    with sweep.lock(), pytest.raises(RunLockedError, match="is being run by process"), sweep.lock():
        pass
    with sweep.lock():
        pass
