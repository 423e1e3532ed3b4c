"""Attribution over complete tables of coalitions: games solved by hand, and the axioms on random games."""

import math
from itertools import chain, combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_ray.leyline.records import Coalition, Measurement
from esper_ray.simic.attribution import (
    interaction_sums,
    leave_one_out,
    leave_one_out_errors,
    pair_interactions,
    shapley_values,
    total_improvement,
)

SLOTS = ("r0c0", "r0c1", "r0c2", "r1c0")


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


def test_without_players_there_is_nothing_to_attribute():
    nobody = game((), {frozenset(): 42.0})
    assert leave_one_out(nobody) == {}
    assert shapley_values(nobody) == {}
    assert pair_interactions(nobody) == {}
    assert total_improvement(nobody) is None


@settings(max_examples=40)
@given(random_games())
def test_shapley_values_share_out_the_whole_improvement(measured):
    assert sum(shapley_values(measured).values()) == pytest.approx(total_improvement(measured) or 0.0, abs=1e-9)


@settings(max_examples=40)
@given(random_games())
def test_shapley_values_are_mean_marginals_over_all_orders(measured):
    orders = list(permutations(measured.players))
    naive = dict.fromkeys(measured.players, 0.0)
    for order in orders:
        present: frozenset[str] = frozenset()
        for slot in order:
            gain = measured.accuracy_of(present | {slot}) - measured.accuracy_of(present)
            naive[slot] += gain / len(orders)
            present |= {slot}
    assert shapley_values(measured) == pytest.approx(naive, abs=1e-9)


@settings(max_examples=40)
@given(worth=st.lists(st.floats(0, 100), min_size=8, max_size=8), alone=st.floats(-20, 20))
def test_a_dummy_gets_exactly_what_it_adds_alone(worth, alone):
    others = SLOTS[:3]
    table = dict(zip(subsets(others), worth, strict=True))
    measured = game(SLOTS, lambda members: table[members - {SLOTS[3]}] + (alone if SLOTS[3] in members else 0.0))
    assert shapley_values(measured)[SLOTS[3]] == pytest.approx(alone, abs=1e-9)
    assert leave_one_out(measured)[SLOTS[3]] == pytest.approx(alone, abs=1e-9)
    pairs = pair_interactions(measured)
    assert all(pairs[frozenset({SLOTS[3], other})] == pytest.approx(0.0, abs=1e-9) for other in others)


@settings(max_examples=40)
@given(worth=st.lists(st.floats(0, 100), min_size=6, max_size=6))
def test_interchangeable_players_get_the_same(worth):
    """A and B enter by their number only; C is its own."""
    measured = game((A, B, C), lambda members: worth[len(members & {A, B}) + 3 * (C in members)])
    values, marginals = shapley_values(measured), leave_one_out(measured)
    assert values[A] == pytest.approx(values[B], abs=1e-9)
    assert marginals[A] == marginals[B]
    pairs = pair_interactions(measured)
    assert pairs[frozenset({A, C})] == pytest.approx(pairs[frozenset({B, C})], abs=1e-9)


@settings(max_examples=40)
@given(measured=random_games(least=2), shift=st.floats(-50, 50))
def test_a_constant_shift_changes_no_attribution(measured, shift):
    moved = game(measured.players, lambda members: measured.accuracy_of(members) + shift)
    assert shapley_values(moved) == pytest.approx(shapley_values(measured), abs=1e-9)
    assert leave_one_out(moved) == pytest.approx(leave_one_out(measured), abs=1e-9)
    assert pair_interactions(moved) == pytest.approx(pair_interactions(measured), abs=1e-9)


def test_a_coalition_that_was_not_measured_is_an_error_not_a_zero():
    partial = Measurement(1.0, 20.0, 400, (A, B), TWO.coalitions[1:])
    with pytest.raises(KeyError, match="was not measured"):
        shapley_values(partial)


def test_what_was_not_measured_is_left_out_not_guessed():
    """Without the coalition {A}: nothing about B, nor about the pair."""
    partial = Measurement(1.0, 20.0, 400, (A, B), (TWO.coalitions[0], TWO.coalitions[2], TWO.coalitions[3]))
    assert TWO.coalitions[2].members == frozenset({B})
    assert leave_one_out(partial) == {A: 9.0}
    assert pair_interactions(partial) == {}
    assert interaction_sums(partial) == {}
    assert total_improvement(partial) == 10.0
    assert total_improvement(Measurement(1.0, 20.0, 400, (A, B), TWO.coalitions[1:])) is None


def test_interaction_sums_by_hand():
    assert interaction_sums(TWO) == {A: 5.0, B: 5.0}
    assert interaction_sums(game((A, B, C), gloves)) == {A: 120.0, B: 60.0, C: 60.0}
    assert interaction_sums(game((A,), {frozenset(): 1.0, frozenset({A}): 3.0})) == {A: 0.0}


def test_paired_errors_by_hand():
    """Differences 1, 0, 0, -1 of four examples: deviation sqrt(1/2), error 100 * sqrt(1/2) / 2."""
    scores = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], dtype=np.float32)
    table = (Coalition(frozenset(), 50.0, scores[1]), Coalition(frozenset({A}), 50.0, scores[0]))
    measured = Measurement(1.0, 50.0, 4, (A,), table)
    assert leave_one_out_errors(measured) == pytest.approx({A: 100.0 * math.sqrt(0.5) / 2.0})
    assert leave_one_out_errors(TWO) == {}
