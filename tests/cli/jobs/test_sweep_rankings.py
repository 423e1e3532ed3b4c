"""Rankings of a sweep: its choices, and the values of each key."""

from esper_ray.cli.jobs.sweep import grouped, rank_choices
from esper_ray.leyline.config.sweep import sweep_config
from esper_ray.leyline.results.sweep import TrialResult

TREE = {"reward_modes": ["basic", "sparse"], "seeds": 2, "grid": {"ppo.lr": [1e-4, 1e-3]}}


def trial_result(mode, seed, score, lr=1e-4, status="finished"):
    settings = {"reward.mode": mode, "seed": seed, "ppo.lr": lr}
    return TrialResult(f"{mode}-{lr}-{seed}", settings, status, 2, 4, score, (score - 10.0, score), {}, 0, 80)


TRIALS = (
    *(trial_result("basic", seed, score) for seed, score in ((1, 50.0), (2, 54.0))),
    *(trial_result("sparse", seed, score) for seed, score in ((1, 60.0), (2, 62.0))),
    *(trial_result("basic", seed, score, 1e-3) for seed, score in ((1, 70.0), (2, 72.0))),
    *(trial_result("sparse", seed, score, 1e-3, "stopped") for seed, score in ((1, 10.0), (2, 12.0))),
)


def test_choices_and_the_values_of_each_key_are_ranked():
    rankings = rank_choices(sweep_config(TREE), TRIALS)
    assert list(rankings) == ["choices", "by reward.mode", "by ppo.lr"]
    assert [(r.choice, r.score_pp.mean, r.stopped) for r in rankings["choices"]] == [
        ("basic, lr=0.001", 71.0, 0),
        ("sparse, lr=0.0001", 61.0, 0),
        ("basic, lr=0.0001", 52.0, 0),
        ("sparse, lr=0.001", 11.0, 2),
    ]
    by_mode = rankings["by reward.mode"]
    assert [(r.choice, r.trials, r.score_pp.mean) for r in by_mode] == [("basic", 4, 62.0), ("sparse", 4, 36.0)]
    assert by_mode[0].score_pp.low >= 60.0  # two of each learning rate: at worst 50, 50, 70, 70
    assert [r.stopped for r in rankings["by ppo.lr"]] == [0, 2]


def test_a_sweep_over_one_key_has_one_ranking():
    rankings = rank_choices(sweep_config(TREE | {"grid": {}}), TRIALS[:4])
    assert list(rankings) == ["choices"]
    assert [r.choice for r in rankings["choices"]] == ["sparse", "basic"]


def test_populations_are_ranked_by_reward_mode_alone():
    config = sweep_config(TREE | {"scheduler": "pbt"})
    assert list(grouped(config, TRIALS)) == ["basic", "sparse"]
    assert list(rank_choices(config, TRIALS)) == ["choices"]
