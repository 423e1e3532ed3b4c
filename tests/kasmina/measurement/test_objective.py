"""Losses and scores of classifiers, of other models, and of models with a loss of their own."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from esper_ray.kasmina.measurement.objective import Objective, score_from_loss

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
CLASSES = torch.tensor([0, 1, 1])


def test_a_classifier_has_cross_entropy_and_right_predictions():
    judged = Objective().judge(LOGITS, CLASSES, 3)
    assert judged.scores.tolist() == [1.0, 1.0, 0.0]
    assert judged.losses.tolist() == pytest.approx([0.126928, 0.313262, 3.048587], abs=1e-6)
    assert Objective().training_loss(LOGITS, CLASSES) == cross_entropy(LOGITS, CLASSES)


def test_tokens_are_scored_by_their_share_of_right_predictions():
    logits = torch.stack([LOGITS, LOGITS])
    judged = Objective().judge(logits, torch.tensor([[0, 1, 1], [0, 1, 0]]), 2)
    assert judged.scores.tolist() == pytest.approx([2 / 3, 1.0])


def test_a_regression_is_scored_by_the_loss_of_each_example():
    output, target = torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])
    judged = Objective(loss=mse_loss).judge(output, target, 2)
    assert judged.from_loss
    assert judged.scores.tolist() == [0.0, 4.0]
    assert (judged.losses.tolist(), judged.weight) == ([2.0], 2)
    assert score_from_loss(judged.scores, first=2.0).tolist() == pytest.approx([1.0, 1 / 3])


def test_a_loss_that_is_not_finite_has_the_score_zero_and_a_negative_one_none():
    assert score_from_loss(torch.tensor([float("inf"), float("nan"), 0.0]), 1.0).tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"a loss of -0\.5 gives no score.*pass score="):
        score_from_loss(torch.tensor([-0.5]), 1.0)


def test_the_models_own_loss_and_logits_are_used():
    output = {"loss": torch.tensor(0.25), "logits": LOGITS}
    assert Objective().training_loss(output, CLASSES) == 0.25
    assert Objective().judge(output, CLASSES, 3).scores.tolist() == [1.0, 1.0, 0.0]
    tokens = {"loss": torch.tensor(0.25), "logits": torch.stack([LOGITS, LOGITS])}
    judged = Objective().judge(tokens, CLASSES.repeat(2, 1), 2)  # its labels may be shifted
    assert (judged.from_loss, judged.scores.tolist()) == (True, [0.25])


def test_a_score_of_ones_own_is_one_number_for_each_example():
    objective = Objective(score=lambda output, target: (output.argmax(dim=1) == target).float()[:, None].expand(-1, 4))
    assert objective.judge(LOGITS, CLASSES, 3).scores.tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"score must return one number for each of 3 examples, got float32 \(\)"):
        Objective(score=lambda output, target: torch.tensor(0.5)).judge(LOGITS, CLASSES, 3)
    with pytest.raises(ValueError, match=r"scores must lie in \[0, 1\], got -1 to 2"):
        Objective(score=lambda output, target: torch.tensor([-1.0, 0.0, 2.0])).judge(LOGITS, CLASSES, 3)


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (lambda output, target: 0.5, "type float"),
        (lambda output, target: output, r"float32 \(3, 2\)"),
        (lambda output, target: target.sum(), r"int64 \(\)"),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused_with_its_shape(loss, shown):
    with pytest.raises(ValueError, match=f"loss must be a floating-point scalar tensor, got {shown}; reduce it"):
        Objective(loss=loss).training_loss(LOGITS, CLASSES)


def test_an_output_without_a_known_loss_is_refused():
    with pytest.raises(ValueError, match=r"no loss is known for an output of type tuple and targets of int64 \(3,\)"):
        Objective().training_loss((LOGITS, LOGITS), CLASSES)
    with pytest.raises(ValueError, match=r"output of float32 \(3, 2\) and targets of float32 \(3,\).*pass loss="):
        Objective().training_loss(LOGITS, CLASSES.float())
