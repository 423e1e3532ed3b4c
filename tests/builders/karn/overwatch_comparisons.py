"""Answers of the API of Overwatch about several runs: comparisons, sweeps, evaluations."""

import random

from overwatch_data import CONTROL_PP, columns, gain


def comparison(*, verdict=True):
    """Two groups of two runs."""
    wanted = ("round", "val_accuracy_ratio", "growth_ratio")
    runs = []
    for index in range(4):
        table = columns(7, random.Random(index))
        runs.append(
            {
                "id": f"run-{index}",
                "name": f"run-{index}",
                "url": f"/runs/run-{index}",
                "status": "finished",
                "group": "AB"[index % 2],
                "seed": index,
                "gain": gain(15 + index),
                "columns": {name: table[name] for name in wanted},
            }
        )
    groups = [group(name, [run for run in runs if run["group"] == name]) for name in "AB"]
    found = {
        "text": "It is undecided which is better. A difference of this size needs about 70 seeds.",
        "better": "undecided",
        "first": "A",
        "second": "B",
        "mean_pp": 1.2,
        "low_pp": -0.8,
        "high_pp": 3.1,
        "seeds": 20,
        "seeds_needed": 70,
    }
    return {
        "name": "shaped-vs-sparse",
        "runs": runs,
        "settings": [{"key": "reward.mode", "values": ["shaped", "sparse", "shaped", "sparse"]}],
        "groups": groups,
        "verdict": found if verdict else None,
        "verdict_missing": None if verdict else "The evaluation is not over.",
        "evaluation": {"policies": evaluation()["policies"], "comparisons": evaluation()["comparisons"]},
    }


def group(name, runs):
    """Means of some runs, with made-up intervals."""
    made = {"name": name, "runs": [run["id"] for run in runs], "n": len(runs), "round": runs[0]["columns"]["round"]}
    for column in ("val_accuracy_ratio", "growth_ratio"):
        pairs = zip(*(run["columns"][column] for run in runs), strict=True)
        mean = [sum(pair) / len(pair) for pair in pairs]
        made[column] = {"mean": mean, "low": [v - 0.02 for v in mean], "high": [v + 0.02 for v in mean]}
    return made


def sweep():
    """A finished sweep of eight trials."""
    rng = random.Random(8)
    trials = [
        {
            "id": f"trial-{index}",
            "name": f"trial-{index}",
            "url": f"/runs/trial-{index}",
            "settings": {"reward.mode": ("shaped", "sparse")[index % 2], "seed": index // 2},
            "status": "finished" if index != 7 else "stopped",
            "round": 7,
            "rounds": 7,
            "score_pp": round(rng.gauss(40, 4), 2),
            "accuracy_pp": round(rng.gauss(48, 4), 2),
            "parameters": rng.randrange(6000, 18000),
            "growth_ratio": 1.6,
            "rollbacks": 0,
            "curve_pp": [round(28 + 2 * step + rng.gauss(0, 1), 2) for step in range(7)],
        }
        for index in range(8)
    ]
    rows = [
        {"choice": "shaped", "mean_pp": 42.0, "low_pp": 40.1, "high_pp": 44.0, "trials": 4},
        {"choice": "sparse", "mean_pp": 38.5, "low_pp": 36.0, "high_pp": 41.2, "trials": 4},
    ]
    return {
        "name": "modes",
        "status": "finished",
        "settings": ["reward.mode", "seed"],
        "trials": trials,
        "rankings": [{"title": "reward.mode", "rows": rows}],
        "note": "Interquartile means of the scores of the trials with stratified bootstrap intervals.",
    }


def evaluation():
    """An evaluation of two policies."""
    policies = [
        {
            "name": name,
            "accuracy_pp": mean,
            "low_pp": mean - 1.5,
            "high_pp": mean + 1.5,
            "gain_pp": mean - CONTROL_PP,
            "growth_ratio": 1.6,
            "fossilized": 2.1,
            "rollbacks": 0,
            "episodes": 20,
        }
        for name, mean in (("digits-s42", 49.0), ("heuristic", 45.2), ("no growth", CONTROL_PP))
    ]
    pairs = [
        {"first": "digits-s42", "second": "heuristic", "mean_pp": 3.8, "low_pp": 1.9, "high_pp": 5.6, "seeds": 20},
        {"first": "digits-s42", "second": "no growth", "mean_pp": 21.0, "low_pp": 19.2, "high_pp": 22.9, "seeds": 20},
    ]
    rng = random.Random(4)
    scores = {row["name"]: [round(rng.gauss(row["accuracy_pp"], 3), 2) for _ in range(20)] for row in policies}
    return {"name": "final", "seeds": 20, "policies": policies, "comparisons": pairs, "scores": scores}
