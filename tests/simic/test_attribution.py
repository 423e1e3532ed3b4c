"""Attribution over tables of coalitions: games solved by hand, axioms on random games, and sampling."""

import math
from itertools import chain, combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.kasmina.measurement.coalition_sampling import chosen_coalitions
from esper_ray.leyline import contributions
from esper_ray.leyline.contributions import interaction_sums
from esper_ray.leyline.records import Coalition, Estimate, Measurement, Unmeasured
from esper_ray.simic import attribution
from esper_ray.simic.attribution import total_improvement

SLOTS = ("r0c0", "r0c1", "r0c2", "r1c0")


def values(found):
    return {key: value.value_pp for key, value in found.items() if isinstance(value, Estimate)}


def leave_one_out(measured):
    return values(contributions.leave_one_out(measured))


def shapley_values(measured):
    return values(attribution.shapley_values(measured))


def pair_interactions(measured):
    return values(contributions.pair_interactions(measured))


def subsets(players):
    return map(frozenset, chain.from_iterable(combinations(players, size) for size in range(len(players) + 1)))


def game(players, value):
    """The measurement of a game; ``value`` is a function of the set of members, or a mapping."""
    worth = value if callable(value) else value.__getitem__
    table = tuple(Coalition(members, worth(members)) for members in subsets(players))
    full = table[-1].accuracy_pp
    return Measurement(1.0, full, 400, tuple(players), table if players else ())


@st.composite
def random_games(draw, least=0):
    players = SLOTS[: draw(st.integers(least, 4))]
    return game(players, {members: draw(st.floats(0, 100)) for members in subsets(players)})


A, B, C = SLOTS[:3]
TWO = game((A, B), {frozenset(): 10.0, frozenset({A}): 14.0, frozenset({B}): 11.0, frozenset({A, B}): 20.0})


def gloves(members):
    """A left glove (A) and two right ones: only a pair has value."""
    return 60.0 if A in members and len(members) >= 2 else 0.0


def test_two_player_game_by_hand():
    assert leave_one_out(TWO) == {A: 9.0, B: 6.0}
    assert shapley_values(TWO) == pytest.approx({A: 6.5, B: 3.5})
    assert pair_interactions(TWO) == {frozenset({A, B}): 5.0}
    assert total_improvement(TWO) == 10.0


def test_glove_game_by_hand():
    measured = game((A, B, C), gloves)
    assert leave_one_out(measured) == {A: 60.0, B: 0.0, C: 0.0}
    assert shapley_values(measured) == pytest.approx({A: 40.0, B: 10.0, C: 10.0})
    assert pair_interactions(measured) == {
        frozenset({A, B}): 60.0,
        frozenset({A, C}): 60.0,
        frozenset({B, C}): 0.0,
    }


def test_three_player_game_with_three_different_players_by_hand():
    worth = {
        frozenset(): 50.0,
        frozenset({A}): 56.0,
        frozenset({B}): 53.0,
        frozenset({C}): 50.0,
        frozenset({A, B}): 62.0,
        frozenset({A, C}): 55.0,
        frozenset({B, C}): 54.0,
        frozenset({A, B, C}): 65.0,
    }
    # A: (2*6 + 9 + 5 + 2*11)/6, B: (2*3 + 6 + 4 + 2*10)/6, C: (2*0 - 1 + 1 + 2*3)/6
    assert shapley_values(game((A, B, C), worth)) == pytest.approx({A: 8.0, B: 6.0, C: 1.0})
    assert pair_interactions(game((A, B, C), worth)) == {
        frozenset({A, B}): 3.0,
        frozenset({A, C}): -1.0,
        frozenset({B, C}): 1.0,
    }


def test_attribution_without_players_is_empty():
    empty_game = game((), {frozenset(): 42.0})
    assert leave_one_out(empty_game) == {}
    assert shapley_values(empty_game) == {}
    assert pair_interactions(empty_game) == {}
    assert total_improvement(empty_game) is None


@settings(max_examples=40)
@given(random_games())
def test_shapley_values_sum_to_the_whole_improvement(measured):
    assert sum(shapley_values(measured).values()) == pytest.approx(total_improvement(measured) or 0.0, abs=1e-9)


@settings(max_examples=40)
@given(random_games())
def test_shapley_values_are_mean_marginals_over_all_orders(measured):
    orders = list(permutations(measured.players))
    naive = dict.fromkeys(measured.players, 0.0)
    for order in orders:
        present: frozenset[str] = frozenset()
        for slot in order:
            gain = measured.coalition_accuracy_pp(present | {slot}) - measured.coalition_accuracy_pp(present)
            naive[slot] += gain / len(orders)
            present |= {slot}
    assert shapley_values(measured) == pytest.approx(naive, abs=1e-9)


@settings(max_examples=40)
@given(worth=st.lists(st.floats(0, 100), min_size=8, max_size=8), alone=st.floats(-20, 20))
def test_a_dummy_player_has_its_own_value(worth, alone):
    others = SLOTS[:3]
    table = dict(zip(subsets(others), worth, strict=True))
    measured = game(SLOTS, lambda members: table[members - {SLOTS[3]}] + (alone if SLOTS[3] in members else 0.0))
    assert shapley_values(measured)[SLOTS[3]] == pytest.approx(alone, abs=1e-9)
    assert leave_one_out(measured)[SLOTS[3]] == pytest.approx(alone, abs=1e-9)
    pairs = pair_interactions(measured)
    assert all(pairs[frozenset({SLOTS[3], slot})] == pytest.approx(0.0, abs=1e-9) for slot in others)


@settings(max_examples=40)
@given(worth=st.lists(st.floats(0, 100), min_size=6, max_size=6))
def test_interchangeable_players_have_equal_values(worth):
    """A and B are interchangeable; C is not."""
    measured = game((A, B, C), lambda members: worth[len(members & {A, B}) + 3 * (C in members)])
    values, marginals = shapley_values(measured), leave_one_out(measured)
    assert values[A] == pytest.approx(values[B], abs=1e-9)
    assert marginals[A] == marginals[B]
    pairs = pair_interactions(measured)
    assert pairs[frozenset({A, C})] == pytest.approx(pairs[frozenset({B, C})], abs=1e-9)


@settings(max_examples=40)
@given(measured=random_games(least=2), shift=st.floats(-50, 50))
def test_a_constant_shift_changes_no_attribution(measured, shift):
    moved = game(measured.players, lambda members: measured.coalition_accuracy_pp(members) + shift)
    assert shapley_values(moved) == pytest.approx(shapley_values(measured), abs=1e-9)
    assert leave_one_out(moved) == pytest.approx(leave_one_out(measured), abs=1e-9)
    assert pair_interactions(moved) == pytest.approx(pair_interactions(measured), abs=1e-9)


def test_a_missing_coalition_gives_unmeasured_with_its_name():
    partial = Measurement(1.0, 20.0, 400, (A, B), TWO.coalitions[1:])
    empty_coalition = Unmeasured((frozenset(),))
    assert attribution.shapley_values(partial) == {A: empty_coalition, B: empty_coalition}
    assert contributions.pair_interactions(partial) == {frozenset({A, B}): empty_coalition}
    assert contributions.leave_one_out(partial) == {A: Estimate(9.0), B: Estimate(6.0)}


def test_players_of_missing_coalitions_are_left_out():
    """Without the coalition {A}: nothing about B, nor about the pair."""
    partial = Measurement(1.0, 20.0, 400, (A, B), (TWO.coalitions[0], TWO.coalitions[2], TWO.coalitions[3]))
    assert TWO.coalitions[2].members == frozenset({B})
    assert leave_one_out(partial) == {A: 9.0}
    assert pair_interactions(partial) == {}
    assert interaction_sums(partial) == {}
    assert total_improvement(partial) == 10.0
    assert total_improvement(Measurement(1.0, 20.0, 400, (A, B), TWO.coalitions[1:])) is None


@pytest.mark.parametrize(("both", "sign"), [(24.0, 1), (20.0, 0), (13.0, -1)])
def test_a_pair_interacts_iff_its_value_differs_from_the_sum(both, sign):
    """P50."""
    worth = {frozenset(): 10.0, frozenset({A}): 14.0, frozenset({B}): 16.0, frozenset({A, B}): both}
    assert np.sign(pair_interactions(game((A, B), worth))[frozenset({A, B})]) == sign


def test_interaction_sums_by_hand():
    assert interaction_sums(TWO) == {A: 5.0, B: 5.0}
    assert interaction_sums(game((A, B, C), gloves)) == {A: 120.0, B: 60.0, C: 60.0}
    assert interaction_sums(game((A,), {frozenset(): 1.0, frozenset({A}): 3.0})) == {A: 0.0}


def test_paired_errors_by_hand():
    """Differences 1, 0, 0, -1 of four examples: deviation sqrt(1/2), error 100 * sqrt(1/2) / 2."""
    scores = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], dtype=np.float32)
    table = (Coalition(frozenset(), 50.0, scores[1]), Coalition(frozenset({A}), 50.0, scores[0]))
    measured = Measurement(1.0, 50.0, 4, (A,), table)
    error = contributions.leave_one_out(measured)[A].error_pp
    assert error == pytest.approx(100.0 * math.sqrt(0.5) / 2.0)
    assert contributions.leave_one_out(TWO)[A].error_pp is None


def test_errors_of_shapley_values_and_interactions_are_paired_too():
    """Every example's own Shapley value, by hand, then the standard error of their mean."""
    rng = np.random.default_rng(3)
    scores = {members: rng.integers(0, 2, 50).astype(np.float32) for members in subsets((A, B))}
    table = tuple(Coalition(members, 100.0 * float(row.mean()), row) for members, row in scores.items())
    measured = Measurement(1.0, table[-1].accuracy_pp, 50, (A, B), table)
    none, a, b, both = (scores[members].astype(float) for members in subsets((A, B)))
    single = ((a - none) + (both - b)) / 2
    estimate = attribution.shapley_values(measured)[A]
    assert estimate.value_pp == pytest.approx(100 * single.mean())
    assert estimate.error_pp == pytest.approx(100 * single.std() / math.sqrt(50))
    pair = contributions.pair_interactions(measured)[frozenset({A, B})]
    assert pair.error_pp == pytest.approx(100 * (both - a - b + none).std() / math.sqrt(50))


def test_shapley_values_of_a_subset_switch_the_others_off():
    """Section 15: all other players are switched off."""
    measured = game((A, B, C), lambda members: 100.0 if C in members else 10.0 * len(members))
    assert values(attribution.shapley_values(measured, frozenset({A, B}))) == pytest.approx({A: 10.0, B: 10.0})


MANY = tuple(f"r0c{i}" for i in range(6))


def sampled(worth, seed, pairs, players=MANY, scores=None):
    """A measurement of exactly the coalitions that are chosen for ``players``."""
    chosen = chosen_coalitions(players, permutations=pairs, seed=seed)
    table = tuple(
        Coalition(c, worth(c), None if scores is None else scores(c)) for c in sorted(chosen.coalitions, key=sorted)
    )
    return Measurement(1.0, worth(frozenset(players)), 400, tuple(players), table, chosen.orders)


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(-20, 20), min_size=6, max_size=6), seed=st.integers(0, 10**6), pairs=st.integers(1, 4)
)
def test_sampled_values_of_an_additive_game_are_exact(weights, seed, pairs):
    """P47, P49: every order and every repetition with one seed gives the same values."""
    own = dict(zip(MANY, weights, strict=True))
    measured = sampled(lambda members: 50 + sum(own[slot] for slot in members), seed, pairs)
    assert shapley_values(measured) == pytest.approx(own, abs=1e-9)
    repeated = sampled(lambda members: 50 + sum(own[slot] for slot in members), seed, pairs)
    assert shapley_values(repeated) == shapley_values(measured)


@settings(max_examples=40, deadline=None)
@given(salt=st.integers(0, 10**6), seed=st.integers(0, 10**6), pairs=st.integers(1, 4))
def test_sampled_values_sum_to_the_whole_improvement(salt, seed, pairs):
    """P51: exactly, because each order does and all of its coalitions were measured."""

    def worth(members):
        return np.random.default_rng([salt, *sorted(MANY.index(slot) for slot in members)]).uniform(0, 100)

    measured = sampled(worth, seed, pairs)
    assert set(shapley_values(measured)) == set(MANY)
    assert sum(shapley_values(measured).values()) == pytest.approx(total_improvement(measured), abs=1e-9)


def test_sampled_values_equal_the_exact_ones_within_their_errors():
    """Defect 20 of the reference: its survivors over-represent very small and very large coalitions."""

    def worth(members):
        return 10.0 + 30.0 * ({MANY[0], MANY[1]} <= members) + 4.0 * len(members) ** 0.5 - 6.0 * (MANY[5] in members)

    exact = shapley_values(game(MANY, worth))
    draws = [
        attribution.shapley_values(sampled(worth, seed, 4, scores=lambda c: np.ones(4, np.float32)))
        for seed in range(60)
    ]
    for slot in MANY:
        sampled_values = [draw[slot].value_pp for draw in draws]
        spread = float(np.std(sampled_values, ddof=1))
        assert abs(np.mean(sampled_values) - exact[slot]) <= 4.0 * spread / math.sqrt(60) + 1e-9
        claimed = float(np.mean([draw[slot].error_pp for draw in draws]))
        assert claimed == pytest.approx(spread, rel=0.5, abs=0.05)


def test_one_pair_of_orders_has_no_error_estimate():
    measured = sampled(lambda members: 10.0 * len(members) ** 2, 3, 1, scores=lambda c: np.ones(4, np.float32))
    assert {estimate.error_pp for estimate in attribution.shapley_values(measured).values()} == {None}


def test_mean_marginals_are_banzhaf_values_of_complete_tables():
    # A: ((14 - 10) + (20 - 11)) / 2, B: ((11 - 10) + (20 - 14)) / 2
    assert attribution.mean_marginals(TWO) == pytest.approx({A: 6.5, B: 3.5})
    assert attribution.mean_marginals(game((A, B, C), gloves)) == pytest.approx({A: 45.0, B: 15.0, C: 15.0})
    assert attribution.mean_marginals(Measurement(1.0, 20.0, 400, (A,), TWO.coalitions[-1:])) == {A: 0.0}


@pytest.mark.parametrize(
    ("interaction", "change", "regime"),
    [
        (0.51, 0.0, "synergy"),
        (0.5, 0.0, "independent"),
        (-0.5, 1.0, "independent"),
        (-0.51, 0.001, "interference"),
        (-0.51, 0.0011, "recovering"),
    ],
)
def test_regimes_of_interaction(interaction, change, regime):
    assert attribution.interaction_regime(interaction, change) == regime


def test_the_improvement_of_live_seeds_keeps_committed_ones_switched_on():
    measured = game((A, B), {frozenset(): 10.0, frozenset({A}): 40.0, frozenset({B}): 15.0, frozenset({A, B}): 47.0})
    assert attribution.live_improvement(measured, frozenset({A})) == 7.0
    assert attribution.live_improvement(measured, frozenset()) == 37.0
    assert attribution.live_improvement(measured, frozenset({A, B})) is None
    assert attribution.live_improvement(game((), {frozenset(): 10.0}), frozenset()) is None
