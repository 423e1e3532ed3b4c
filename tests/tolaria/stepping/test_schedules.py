"""Learning rate schedules against numbers by hand."""

import math
from math import cos, pi

import pytest
import torch

from esper_ray.leyline.config.loading import build
from esper_ray.tolaria.stepping.learning_rates import learning_rates, size_share
from esper_ray.tolaria.stepping.schedules import products, schedule_factors, warmup_factors


def test_a_constant_schedule_is_one_throughout():
    assert schedule_factors(0, 3, epochs=10) == [1.0, 1.0, 1.0]


def test_warm_up_rises_linearly_to_one_and_stays():
    """Two epochs of two steps: a quarter, a half, three quarters, one."""
    factors = [schedule_factors(epoch, 2, epochs=10, warmup_epochs=2) for epoch in range(3)]
    assert factors == [[0.25, 0.5], [0.75, 1.0], [1.0, 1.0]]


def test_a_cosine_falls_from_one_to_zero_after_the_warm_up():
    factors = [schedule_factors(epoch, 1, epochs=5, warmup_epochs=1, cosine=True)[0] for epoch in range(5)]
    assert factors == pytest.approx([1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 - math.sqrt(0.5)), 0.0])


def test_factors_stay_in_range_without_or_beyond_the_cosine_phase():
    for epoch in range(6):
        for factor in schedule_factors(epoch, 3, epochs=2, warmup_epochs=2, cosine=True):
            assert 0.0 <= factor <= 1.0


def test_the_warm_up_of_a_seed_depends_on_its_age():
    assert warmup_factors(0, 2, 2) == [0.25, 0.5]
    assert warmup_factors(5, 2, 2) == [1.0, 1.0]
    assert warmup_factors(0, 2, 0) == [1.0, 1.0]


def test_products_by_hand():
    assert products([1.0, 0.5], [0.5, 0.5], 0.2) == pytest.approx([0.1, 0.05])


def test_each_group_has_its_own_rate(config, grow):
    """Host 0.1, seeds 0.04; in the first of two warm-up epochs a seed of age 0 rises on top of the schedule."""
    overrides = {
        "training.lr": 0.1,
        "training.seed_lr": 0.04,
        "training.steps_per_epoch": 2,
        "training.warmup_epochs": 2,
        "training.seed_warmup_epochs": 1,
    }
    organism = grow()
    organism.model.germinate("r0c1", "norm")
    for _ in range(3):
        organism.model.growth.count_epoch()  # waiting to be trained uses nothing up
    organism.model.advance("r0c1")
    chosen = build(config.model_dump(), overrides)
    rates = learning_rates(chosen, organism, 1)
    organism.model.growth.count_epoch()
    assert learning_rates(chosen, organism, 1)["r0c1"] == pytest.approx([0.04 * 0.75, 0.04])
    assert rates == {"host": pytest.approx([0.075, 0.1]), "r0c1": pytest.approx([0.04 * 0.75 * 0.5, 0.04])}


def test_a_restarted_schedule_leads_from_the_birth_to_the_end(config, grow):
    """Born after 6 of 10 epochs; in its first of 4 epochs the cosine begins anew, where that of the host is at 7."""
    organism = grow()
    for _ in range(6):
        organism.model.growth.count_epoch()
    organism.model.germinate("r0c1", "norm")
    overrides = {
        "training.lr": 0.1,
        "training.seed_lr": 0.04,
        "training.steps_per_epoch": 1,
        "training.schedule": "cosine",
        "training.newborn_schedule": "restart",
        "training.warmup_epochs": 0,
        "training.seed_warmup_epochs": 0,
        "episode_length": 10,
    }
    chosen = build(config.model_dump(), overrides)
    rates = learning_rates(chosen, organism, 6)
    assert rates["host"] == pytest.approx([0.1 * 0.5 * (1 + cos(pi * 0.7))])
    assert rates["r0c1"] == pytest.approx([0.04 * 0.5 * (1 + cos(pi * 0.25))])
    organism.model.growth.count_epoch()
    assert learning_rates(chosen, organism, 7)["r0c1"] == pytest.approx([0.04 * 0.5])


def test_a_rescaled_rate_follows_the_size_of_the_weights(config, grow):
    organism = grow()
    organism.model.germinate("r0c1", "conv_light")
    seed = organism.model.cell("r0c1").seed
    with torch.no_grad():
        for parameter in organism.model.host.parameters():
            parameter.fill_(0.5)
        for parameter in seed.parameters():
            parameter.fill_(0.2)
    chosen = build(config.model_dump(), {"training.seed_lr": 0.04, "training.newborn_schedule": "rescaled"})
    steps = chosen.training.steps_per_epoch
    assert learning_rates(chosen, organism, 3)["r0c1"] == pytest.approx([0.04 * 0.4] * steps)
    with torch.no_grad():
        for parameter in seed.parameters():
            parameter.zero_()
    assert size_share(organism, "r0c1") == 0.1
