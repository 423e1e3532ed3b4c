"""Expansion of sweeps to valid configurations, and refusal with key, value and choices."""

import pytest

from esper_ray.leyline.config.loading import ConfigError, build, read_preset
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.config.sweep import MAX_NAME_LENGTH, expand, read_sweep, sweep_config, sweep_names, trial_name

BASE = build(read_preset("digits"))


def trials(**tree):
    return expand(sweep_config(tree), BASE)


def test_modes_grid_and_seeds_are_crossed_seeds_outermost():
    expanded = trials(reward_modes=["basic", "sparse"], seeds=2, grid={"ppo.lr": [1e-4, 3e-4]})
    assert [trial.name for trial in expanded] == [
        "0-basic-lr=0.0001-s42",
        "1-sparse-lr=0.0001-s42",
        "2-basic-lr=0.0003-s42",
        "3-sparse-lr=0.0003-s42",
        "4-basic-lr=0.0001-s43",
        "5-sparse-lr=0.0001-s43",
        "6-basic-lr=0.0003-s43",
        "7-sparse-lr=0.0003-s43",
    ]
    assert expanded[3].settings == {"reward.mode": "sparse", "seed": 42, "ppo.lr": 3e-4}
    assert expanded[3].choice == {"reward.mode": "sparse", "ppo.lr": 3e-4}
    assert (expanded[3].config.reward.mode, expanded[3].config.seed, expanded[3].config.ppo.lr) == ("sparse", 42, 3e-4)


def test_a_trial_without_a_grid_is_the_run_of_the_preset():
    (only,) = trials(seeds=1)
    assert only.config == BASE


def test_seeds_may_be_listed():
    assert [trial.seed for trial in trials(seeds=[5, 1])] == [5, 1]


def test_values_are_converted_by_the_configuration():
    """An integer for a float, and slots in order."""
    expanded = trials(seeds=1, grid={"ppo.lr": [1, 1e-3], "growth.slots": [["r0c1", "r0c0"], ["r0c2"]]})
    assert [trial.settings["ppo.lr"] for trial in expanded] == [1.0, 1.0, 1e-3, 1e-3]
    assert all(isinstance(trial.settings["ppo.lr"], float) for trial in expanded)
    assert [trial.config.growth.slots for trial in expanded[:2]] == [("r0c0", "r0c1"), ("r0c2",)]


def test_trial_names_are_valid_folder_names():
    settings = {"reward.mode": "basic", "seed": 7, "task.data_dir": "/a b/c", "growth.slots": ["r0c0", "r0c1"]}
    assert trial_name(3, 2, settings) == "03-basic-data_dir=_a_b_c-slots=_r0c0_r0c1_-s7"
    long = trial_name(3, 2, settings | {"growth.blueprints": ["conv_light"] * 20})
    assert len(long) <= MAX_NAME_LENGTH
    assert long.endswith("-s7")


@pytest.mark.parametrize("name", sweep_names())
def test_shipped_sweeps_are_complete_and_valid(name):
    tree = read_sweep(name).tree
    sweep = sweep_config(tree)
    assert sweep.name == name
    assert set(tree) == set(sweep.model_dump())
    assert expand(sweep, build(read_preset(sweep.preset)))


def test_the_shipped_sweep_has_three_trials_of_every_reward_mode():
    sweep = sweep_config(read_sweep("reward_modes").tree)
    expanded = expand(sweep, BASE)
    assert len(expanded) == 24
    assert [trial.config.reward.mode for trial in expanded[:8]] == list(REWARD_MODES)
    assert [trial.seed for trial in expanded[::8]] == [42, 43, 44]


def test_a_sweep_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("reward_modes: [basic]\nseeds: 2\n")
    assert sweep_config(read_sweep(str(path)).tree).reward_modes == ("basic",)


REFUSED = {
    "mode": ({"reward_modes": ["basik"]}, ["unknown reward mode 'basik'", "did you mean 'basic'"]),
    "modes a text": ({"reward_modes": "basic"}, ["reward_modes: it must be a list, such as [a, b] (got 'basic')"]),
    "mode twice": ({"reward_modes": ["basic", "basic"]}, ["reward mode 'basic' is listed twice"]),
    "no seeds": ({"seeds": []}, ["at least one seed"]),
    "zero seeds": ({"seeds": 0}, ["seeds", "greater than or equal to 1", "got 0"]),
    "seed twice": ({"seeds": [1, 1]}, ["seed 1 is listed twice"]),
    "many seeds": ({"seeds": 10_001}, ["seeds", "less than or equal to 10000", "got 10001"]),
    "text seeds": ({"seeds": "3"}, ["seeds: Input should be a valid integer (got '3')"]),
    "name of a sweep": ({"name": "a/b"}, ["name: a name has at most 100 letters"]),
    "no values": ({"grid": {"ppo.lr": []}}, ["'ppo.lr' has no values to try"]),
    "value twice": ({"grid": {"ppo.lr": [1.0, 1.0]}}, ["value of 'ppo.lr' 1.0 is listed twice"]),
    "seed in grid": ({"grid": {"seed": [1]}}, ["'seed' has an option of its own, --seeds"]),
    "mode in grid": ({"grid": {"reward.mode": ["basic"]}}, ["--reward-modes"]),
    "name in grid": ({"grid": {"name": ["a"]}}, ["'name' cannot be swept"]),
    "scheduler": ({"scheduler": "hyperband"}, ["scheduler 'hyperband' (known: none, asha, pbt, pb2)"]),
    "key": ({"sceduler": "asha"}, ["unknown key of a sweep 'sceduler'", "did you mean 'scheduler'"]),
    "deep key": ({"asha": {"grace": 2}}, ["'asha.grace'", "did you mean 'asha.grace_rounds'"]),
    "rounds": ({"scheduler": "asha", "grid": {"ppo.rounds": [2, 3]}}, ["'asha'", "round by round", "ppo.rounds"]),
    "no population": ({"scheduler": "pbt"}, ["'pbt' changes settings", "two values or more"]),
    "turns": ({"scheduler": "pbt", "concurrent": 1, "grid": {"ppo.lr": [1, 2]}}, ["'pbt' take turns", "at 0"]),
    "fixed": ({"scheduler": "pbt", "grid": {"policy.memory_size": [8, 16]}}, ["'policy.memory_size' cannot change"]),
    "words": ({"scheduler": "pb2", "grid": {"ppo.lr": [1e-4, "fast"]}}, ["'pb2'", "two numbers", "fast"]),
    "reduction": ({"asha": {"reduction": 1}}, ["asha.reduction", "greater than 1", "got 1"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_sweeps_are_refused(case):
    tree, expected = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        sweep_config(tree)
    for text in expected:
        assert text in str(caught.value)


def test_an_unknown_key_of_a_grid_is_refused_once_with_its_nearest_neighbour():
    with pytest.raises(ConfigError) as caught:
        trials(reward_modes="all", grid={"ppo.learning_rate": [1e-3], "ppo.epocs": [2]})
    first, second = str(caught.value).splitlines()
    assert "unknown key 'ppo.learning_rate'" in first
    assert second == "unknown key 'ppo.epocs'; did you mean 'ppo.epochs'?"


def test_too_many_trials_are_refused_with_the_product():
    values = list(range(1, 101))
    with pytest.raises(ConfigError, match=r"^3 seeds x 100 ppo\.rounds x 100 ppo\.epochs x 1 reward modes = 30,000"):
        trials(grid={"ppo.rounds": values, "ppo.epochs": values})


def test_a_problem_of_a_sweep_file_has_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seeds: 2\nwindow: 0\nretries: -1\n")
    file = read_sweep(str(path))
    with pytest.raises(ConfigError) as caught:
        sweep_config(file.tree | {"retries": -2}, file, {"retries": -2})
    first, second = str(caught.value).splitlines()
    assert first == f"{path}:2: window: Input should be greater than or equal to 1 (got 0)"
    assert second.startswith("retries: ")


def test_a_sweep_file_with_an_unknown_preset_is_refused_with_its_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("seeds: 2\npreset: digts\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: unknown preset 'digts'; did you mean 'digits'\?"):
        read_sweep(str(tmp_path / "mine.yaml"))


def test_an_invalid_trial_is_named():
    with pytest.raises(ConfigError) as caught:
        trials(seeds=2, grid={"ppo.clip": [0.2, 2.0]})
    assert str(caught.value).startswith("trial 1-basic-clip=2.0-s42 and 1 more: ppo.clip: ")
    assert "got 2.0" in str(caught.value)


def test_an_unknown_sweep_is_refused_with_the_existing_ones():
    with pytest.raises(ConfigError, match="unknown sweep 'reward_mode'; did you mean 'reward_modes'"):
        read_sweep("reward_mode")
    with pytest.raises(ConfigError, match=r"cannot read configuration /nowhere/x\.yaml"):
        read_sweep("/nowhere/x.yaml")
