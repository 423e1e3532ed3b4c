"""Scores of places before anything grows there."""

import pytest
import torch
from kasmina_builders import named
from torch import nn

from esper_ray.kasmina import MorphogeneticModel
from esper_ray.kasmina.modules import seeded_initialisation
from esper_ray.kasmina.network.spans.starting import explained_share, rows_read, rows_yielded, unexplained


def noise(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def chain(seed=0):
    with seeded_initialisation(seed):
        return named(
            a=nn.Conv2d(3, 4, 3, padding=1),
            act=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            b=nn.Conv2d(4, 6, 3, padding=1),
            flat=nn.Flatten(),
            c=nn.Linear(96, 3),
        )


X, Y = noise(32, 3, 8, 8), torch.arange(32) % 3


def scores(model, batches=((X, Y),)):
    return model.place_scores(batches, lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))


def test_every_slot_has_a_score_and_the_shares_add_up_to_one():
    model = MorphogeneticModel.wrap(chain(), {"r0c0": "a -> b", "r0c1": "b -> c"}, X[:2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    result = scores(model, [(X[:16], Y[:16]), (X[16:], Y[16:])])
    assert result.keys() == set(model.slot_ids)
    assert sum(score.share for score in result.values()) == pytest.approx(1.0)
    assert all(score.gain > 0 and score.error is not None for score in result.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert result == scores(model, [(X[:16], Y[:16]), (X[16:], Y[16:])])
    assert scores(model)["r0c0"].error is None


def test_slots_on_outputs_and_occupied_slots_have_scores_too():
    model = MorphogeneticModel.wrap(chain(), {"r0c0": "pool", "r0c1": "b"}, X[:2])
    model.germinate("r0c0", "conv_light")
    assert all(score.gain > 0 for score in scores(model).values())


def test_shares_do_not_depend_on_the_number_of_positions(monkeypatch):
    """The gradient of each example in a batch of equal ones is smaller, at every slot alike."""
    monkeypatch.setattr("esper_ray.kasmina.measurement.places.SCORED_ROWS", 128)
    model = MorphogeneticModel.wrap(chain(), {"r0c0": "a -> b", "r0c1": "b -> c"}, X[:2])
    once, often = (scores(model, [(X[:8].repeat(n, 1, 1, 1), Y[:8].repeat(n))]) for n in (1, 16))
    for slot, score in once.items():
        assert often[slot].share == pytest.approx(score.share, rel=0.2)


def test_no_batch_and_a_loss_without_the_slots_are_refused():
    model = MorphogeneticModel.wrap(chain(), {"r0c0": "a -> b"}, X[:2])
    with pytest.raises(ValueError, match="need at least one batch"):
        scores(model, [])
    with pytest.raises(ValueError, match="the loss does not depend on the slot"):
        model.place_scores([X], lambda x: model(x).detach().sum() + torch.zeros((), requires_grad=True))


def test_a_place_whose_channels_are_missing_scores_higher():
    """The product of two inputs is learned by hidden units; one layer has hundreds, the other one."""
    x = noise(512, 6)
    y = ((x[:, 0] * x[:, 1] > 0) ^ (x[:, 2] * x[:, 3] > 0)).long()
    shares = []
    for seed in range(3):
        with seeded_initialisation(seed):
            host = named(a=nn.Linear(6, 1), act=nn.ReLU(), b=nn.Linear(1, 64), deep=nn.ReLU(), c=nn.Linear(64, 2))
        model = MorphogeneticModel.wrap(host, {"r0c0": "a -> b", "r0c1": "b -> c"}, x[:2])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        shares.append(scores(model, [(x, y)])["r0c0"].share)
    assert sorted(shares)[1] > 0.6


# Least squares


def test_windows_of_a_convolution_are_those_of_unfold():
    layer = nn.Conv2d(3, 5, (3, 2), stride=2, padding=1, dilation=(1, 2))
    x = noise(2, 3, 7, 8)
    expected = nn.functional.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=2).movedim(1, -1).flatten(0, 1)
    torch.testing.assert_close(rows_read(layer, x), expected)
    outputs = rows_yielded(layer, layer(x))
    torch.testing.assert_close(expected @ layer.weight.flatten(1).T + layer.bias, outputs)


def test_what_a_linear_function_explains_is_projected_out():
    present, other = noise(200, 3), noise(200, 2, seed=1)
    target = present @ noise(3, 4, seed=2) + 0.5
    assert unexplained(present, target).abs().max() < 0.02
    mixed = target + other @ noise(2, 4, seed=3)
    residual = unexplained(present, mixed)
    assert float(explained_share(unexplained(present, other), residual)) == pytest.approx(1.0, abs=0.01)
    assert float(explained_share(noise(200, 2, seed=4), residual)) < 0.1
    assert float(explained_share(other, torch.zeros(200, 4))) == 0.0
