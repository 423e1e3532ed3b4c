"""Ablations: what is trained how far, and when an arm is stopped."""

import csv

import pytest

from esper_ray.leyline.config.layers import load_preset
from evidence import ablations, paths, work
from evidence.__main__ import selected
from evidence.studies import ABLATIONS, COMPARISONS, Ablation

ARMS = {"preset": {}, "better": {"ppo.lr": 0.001}, "worse": {"ppo.lr": 0.1}}
STUDY = Ablation("trial", "digits", ARMS, training_seeds=(1, 2), rounds=20)
GAIN = {"better": 1.0, "worse": -1.0}


@pytest.fixture
def played(tmp_path, monkeypatch):
    """A workplace whose trainings grow by a known return, and the calls that were made."""
    calls = []
    for name in ("RUNS", "EVALUATIONS", "PUBLISHED"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())

    def train(training, serial, *, rounds, schedule=None):
        calls.append((training.name, rounds, schedule))
        folder = tmp_path / "runs" / training.name
        folder.mkdir(parents=True, exist_ok=True)
        gain = next((value for arm, value in GAIN.items() if arm in training.name), 0.0)
        with (folder / "rounds.csv").open("w") as file:
            file.write("round,return_mean,explained_variance,entropy\n")
            file.writelines(f"{i},{i + gain},0.{i:02d},{2 - i / 20}\n" for i in range(rounds))

    def evaluate(name, training, words, seeds, serial):
        calls.append((name, seeds, words))
        folder = tmp_path / "evaluations" / name
        folder.mkdir(parents=True, exist_ok=True)
        gain = 10 * next((value for arm, value in GAIN.items() if arm in training.name), 0.0) + training.seed
        rows = [f"digits,{seed},{50 + gain},{60 + gain}\n" for seed in (1000, 1001)]
        (folder / "scores.csv").write_text(
            "policy,seed,objective_pp,test_accuracy_pp\n" + "".join(rows) + "static,1000,1,1\n"
        )
        return folder

    monkeypatch.setattr(work, "train", train)
    monkeypatch.setattr(work, "evaluate", evaluate)
    return calls


def test_arms_that_are_behind_at_half_are_stopped(played):
    path = ablations.study(STUDY, serial=True)
    trained = [call for call in played if len(call) == 3 and isinstance(call[1], int)]
    assert trained == [
        ("digits-1", 20, None),
        ("digits-2", 20, None),
        *(("trial-better-1", 10, 20), ("trial-better-2", 10, 20)),
        *(("trial-better-1", 20, 20), ("trial-better-2", 20, 20)),
        *(("trial-worse-1", 10, 20), ("trial-worse-2", 10, 20)),
    ]
    with path.open() as file:
        rows = {(row["arm"], row["seed"]): row for row in csv.DictReader(file)}
    assert rows["preset", "1"]["over_preset_pp"] == "0.000"
    assert rows["better", "2"]["over_preset_pp"] == "10.000"
    assert rows["better", "2"]["objective_pp"] == "62.000"
    assert rows["better", "2"]["return_half"] == "8.000"  # rounds 5 to 9, plus 1
    assert rows["better", "2"]["return_last"] == "18.000"
    assert rows["better", "2"]["explained_variance"] == "0.170"  # rounds 15 to 19
    assert (rows["worse", "1"]["rounds"], rows["worse", "1"]["objective_pp"]) == ("10", "")


def test_an_arm_goes_on_if_one_training_is_ahead(played):
    for arm in ARMS:
        for seed in (1, 2):
            work.train(STUDY.training(arm, seed), True, rounds=10)
    assert ablations.is_behind(STUDY, "worse")
    path = paths.RUNS / "trial-worse-2" / "rounds.csv"
    path.write_text(path.read_text().replace("9,8.0", "9,80.0"))
    assert not ablations.is_behind(STUDY, "worse")


def test_all_settings_of_the_studies_are_keys_of_the_configuration():
    for study in ABLATIONS:
        assert study.rounds == load_preset(study.preset).ppo.rounds
        for arm, settings in study.arms.items():
            config = load_preset(study.preset, settings)
            assert (config.digest() == load_preset(study.preset).digest()) == (arm == study.base)


def test_studies_are_chosen_by_the_beginning_of_their_names():
    assert [name for name, _ in selected([])] == [study.name for study in (*COMPARISONS, *ABLATIONS)]
    assert [name for name, _ in selected(["abl"])] == ["ablations"]
    with pytest.raises(SystemExit, match="no study begins with 'zebra'; there are digits_long"):
        selected(["zebra"])


def test_commands_name_run_seed_and_settings():
    training = STUDY.training("better", 2)
    assert work.training_command(training, 10) == [
        *("train", "ppo", "--preset", "digits", "--seed", "2", "--run-id", "trial-better-2"),
        *("--set", "ppo.lr=0.001", "--rounds", "10"),
    ]
