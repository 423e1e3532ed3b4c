"""Parts of a comparison joined: one score for each episode, costs of finding, pictures."""

import json
from dataclasses import replace

import pytest

from esper_ray.karn.reports import evaluation_report
from esper_ray.leyline.results.evaluation import Score
from esper_ray.simic.comparison import summaries
from evidence import joining, paths
from evidence.studies import Comparison, Training

pytestmark = pytest.mark.integration

TRIAL = Comparison("trial", Training("run", "digits", 1), (("static",), ("asha-1x", "static")), seeds="0-1")


def score(policy, seed, accuracy):
    return Score(
        policy=policy,
        seed=seed,
        test_accuracy_pp=accuracy,
        val_accuracy_pp=accuracy - 1,
        objective_pp=accuracy - 2 / 3,
        committed_accuracy_pp=accuracy,
        parameters=300,
        grown_parameters=140,
        train_flops=1.5e9,
        rollbacks=0,
        fossilized=1,
        total_reward=None if policy == "static" else 0.25,
        seeds_grown=(("r0c0", "conv_light"), ("r0c2", "norm")) if policy == "learned" else (),
    )


LEARNED = [score("learned", seed, 80.0 + seed) for seed in (0, 1)]
STATIC = [score("static", seed, 30.0) for seed in (0, 1)]
SEARCH = [score("asha-1x", seed, 70.0 - seed) for seed in (0, 1)]


@pytest.fixture
def parts(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(paths, "SHOWN", tmp_path / "shown")
    folders = []
    for number, scores in enumerate(([*LEARNED, *STATIC], [*LEARNED, *SEARCH, *STATIC])):
        folder = tmp_path / str(number)
        folder.mkdir()
        evaluation_report.write_scores(folder, scores)
        evaluation_report.write_summary(folder, summaries(scores, "static", {"learned": 5e12} if number == 0 else {}))
        (folder / "evaluation.json").write_text(json.dumps({"config": {"episode_length": 40}}))
        folders.append(folder)
    (folders[0] / "learning.png").write_bytes(b"png")
    return folders


def test_scores_are_read_as_they_were_written(parts):
    assert joining.read_scores(parts[0] / "scores.csv") == [*LEARNED, *STATIC]


def test_parts_become_one_table_with_the_learned_policy_first(parts):
    folder = joining.joined(TRIAL, parts)
    assert joining.read_scores(folder / "scores.csv") == [*LEARNED, *STATIC, *SEARCH]
    lines = (folder / "summary.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["policy", "learned", "static", "asha-1x"]
    assert "5000.0" in lines[1]
    text = (folder / "comparison.md").read_text()
    assert "| learned over | test gain | objective gain |" in text
    assert "| asha-1x | +11.0 [+10.0, +12.0]" in text
    shown = {path.name for path in (paths.SHOWN / "trial").iterdir()}
    assert shown == {"comparison.png", "learning.png", "scores.csv"}


def test_parts_that_disagree_about_an_episode_are_refused(parts):
    evaluation_report.write_scores(parts[1], [replace(LEARNED[0], test_accuracy_pp=1.0), *LEARNED[1:], *STATIC])
    with pytest.raises(ValueError, match="learned, seed 0: two parts have different scores"):
        joining.joined(TRIAL, parts)
