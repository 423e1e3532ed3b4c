"""Parity of the pure reward terms with the recorded examples of the reference (modes basic and sparse).

The examples live beside the repository, in ``../shared/spec/reward_examples.json``; without that file
these tests are skipped.
"""

import json
from pathlib import Path

import pytest

from esper_ray.leyline.config import RewardConfig
from esper_ray.leyline.stages import Stage
from esper_ray.simic import rewards

EXAMPLES = Path(__file__).resolve().parents[3] / "shared" / "spec" / "reward_examples.json"
GAMMA = 0.995
UNUSED_SWITCHES = {"reward_mode", "disable_terminal_reward"}
"""Keys that pick or do not affect these two modes (section 8 knows no switch for the terminal term)."""

pytestmark = pytest.mark.skipif(not EXAMPLES.is_file(), reason=f"the recorded examples are not at {EXAMPLES}")


def _cases(mode):
    if not EXAMPLES.is_file():
        return []
    cases = json.loads(EXAMPLES.read_text(encoding="utf-8"))["cases"]
    chosen = [c for c in cases if c["kind"] == "reward" and c["config"].get("reward_mode") == mode]
    return [pytest.param(case, id=case["id"]) for case in chosen]


def _config(case):
    return RewardConfig(**{key: value for key, value in case["config"].items() if key not in UNUSED_SWITCHES})


def _basic(inputs, config):
    """Section 8: PBRS - rent + fossilise term + terminal term."""
    seed = inputs["seed_info"]
    total = 0.0
    if seed is not None:
        stage, n = Stage[seed["stage"]], seed["epochs_in_stage"]
        now = rewards.seed_potential(stage, n)
        if inputs["action"] == "PRUNE":
            before, after = now, 0.0
        elif n == 0:
            previous = Stage[seed["previous_stage"]]
            before, after = rewards.seed_potential(previous, seed["previous_epochs_in_stage"]), now
        else:
            before, after = rewards.seed_potential(stage, n - 1), now
        total += rewards.shaping(before, after, GAMMA, config.pbrs_weight)
        if inputs["action"] == "FOSSILIZE":
            improvement = seed["counterfactual_total_improvement"]
            total += rewards.fossilise_bonus(
                stage is Stage.HOLDING, n, improvement, inputs["seed_contribution"], config
            )
    overhead = inputs["effective_seed_params"]
    if overhead is None:
        overhead = max(inputs["total_params"] - inputs["host_params"], 0)
    total -= rewards.rent(overhead, config)
    if inputs["epoch"] == inputs["max_epochs"]:
        total += rewards.terminal_gain(inputs["acc_delta"], config)
    return total


def _sparse(inputs, config):
    """Section 9: nothing before the end, committed value at the end."""
    if inputs["epoch"] != inputs["max_epochs"]:
        return 0.0
    return rewards.sparse_terminal(inputs["committed_val_acc"], inputs["fossilized_seed_params"], config)


def test_there_are_examples_of_both_modes():
    assert len(_cases("basic")) >= 10
    assert len(_cases("sparse")) >= 2


@pytest.mark.parametrize("case", _cases("basic"))
def test_basic_terms_equal_the_recorded_reward(case):
    if "error" in case["outputs"]:
        assert case["outputs"]["reason_code"] == "param_budget_not_positive"
        with pytest.raises(ValueError, match="param_budget"):
            _config(case)
        return
    assert _basic(case["inputs"], _config(case)) == pytest.approx(case["outputs"]["reward"], abs=1e-9)


@pytest.mark.parametrize("case", _cases("sparse"))
def test_sparse_terms_equal_the_recorded_reward(case):
    if "error" in case["outputs"]:
        assert case["outputs"]["reason_code"] == "committed_accuracy_required"
        with pytest.raises(TypeError):  # no number, no pay: a missing measurement is never taken for 0
            _sparse(case["inputs"], _config(case))
        return
    assert _sparse(case["inputs"], _config(case)) == pytest.approx(case["outputs"]["reward"], abs=1e-9)
