"""``shaped`` and ``escrow`` over live episodes."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transition_builders import EMPTY, amounts, books, plain, report, settled, solo, sources, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.stages import Stage


def blending(slot, contribution, **more):
    return report(slot, Stage.BLENDING, 4, alpha=0.5, contribution=contribution, age=16, **more)


def born(mode, slot=0, accuracy=40.0, step=20, **options):
    """Books in which a seed was germinated at ``step`` when the accuracy was ``accuracy``."""
    kept = books(mode, first=accuracy, **options)
    seeds = tuple(report(f"r0c{i}", Stage.GERMINATED, 1) if i == slot else None for i in range(3))
    kept.settle(transition(step=step, operation=LifecycleOp.GERMINATE, slot=slot, after=seeds, known=plain(accuracy)))
    return kept


def test_every_seed_is_attributed_at_every_step_whatever_the_operation_names():
    kept = born("shaped")
    seeds = (blending("r0c0", 4.0), report("r0c1", Stage.FOSSILIZED, 9, alpha=1.0, contribution=3.0), None)
    worth = {(): 44.0, ("r0c0",): 48.0, ("r0c1",): 47.0, ("r0c0", "r0c1"): 51.0}
    paid = amounts(kept.settle(transition(step=21, slot=2, before=seeds, after=seeds, measured=table(worth))))
    # r0c0 gained 11 points since its germination at 40, more than it contributes; so did r0c1, first seen at 40
    assert paid[("attribution", "r0c0")] == pytest.approx(4.0)
    assert paid[("attribution", "r0c1")] == pytest.approx(3.0)


def test_a_contribution_beyond_the_progress_is_believed_in_part():
    kept = born("shaped", accuracy=46.0)
    seeds = (blending("r0c0", 9.0), None, None)
    entries = kept.settle(transition(step=21, before=seeds, after=seeds, measured=solo("r0c0", 41.0, 50.0)))
    assert amounts(entries)[("attribution", "r0c0")] == pytest.approx(2 * 4 * 9 / 13)


@settings(max_examples=60, deadline=None)
@given(
    contribution=st.floats(1.0, 60.0),
    improvement=st.floats(-40.0, -0.2),
    progress=st.floats(-50.0, 50.0),
    stage=st.sampled_from([Stage.BLENDING, Stage.HOLDING]),
    ticks=st.integers(0, 30),
    interaction=st.floats(-20, 20),
)
def test_a_ransom_never_pays_whatever_the_host_learns(contribution, improvement, progress, stage, ticks, interaction):
    """P17, for all progress: leaning on a seed is not paid while all seeds together make the network worse."""
    kept = born("shaped", accuracy=50.0 - progress)
    seed = report("r0c0", stage, ticks, alpha=1.0, contribution=contribution, interaction_pp=interaction)
    other = report("r0c1", Stage.BLENDING, 3, alpha=0.4, contribution=None)
    worth = {
        (): 50.0 - improvement,
        ("r0c1",): 50.0 - contribution,
        ("r0c0",): 49.0,
        ("r0c0", "r0c1"): 50.0,
    }
    seeds = (seed, other, None)
    step = transition(step=21, before=seeds, after=seeds, known=plain(50.0), measured=table(worth))
    entries = kept.settle(step)
    assert sum(e.amount for e in entries if e.slot == "r0c0") <= 0.5
    assert amounts(entries).get(("attribution", "r0c0"), 0.0) <= 0.0
    assert "synergy" not in sources(entries)


def test_seeds_share_what_they_improve_together():
    """Each is missed by 10 points, together they bring 6: two networks that lean on each other."""
    kept = born("shaped", accuracy=20.0)
    seeds = (blending("r0c0", 10.0), blending("r0c1", 10.0), None)
    kept.settle(
        transition(
            step=21,
            operation=LifecycleOp.GERMINATE,
            slot=1,
            after=(seeds[0], report("r0c1", Stage.GERMINATED), None),
            known=plain(20.0),
        )
    )
    worth = {(): 44.0, ("r0c0",): 40.0, ("r0c1",): 40.0, ("r0c0", "r0c1"): 50.0}
    entries = kept.settle(transition(step=22, before=seeds, after=seeds, measured=table(worth)))
    paid = amounts(entries)
    assert paid[("attribution", "r0c0")] == pytest.approx(3.0)
    assert paid[("attribution", "r0c1")] == pytest.approx(3.0)
    assert any("cut to 30%" in entry.explanation for entry in entries)


def test_an_unmeasured_seed_is_paid_nothing_for_what_the_host_learns():
    seeds = (report("r0c0", Stage.BLENDING, 1, alpha=0.1, improvement_pp=9.0), None, None)
    assert sources(settled("shaped", transition(after=seeds), disable_pbrs=True)) == {"rent"}


def test_pruning_takes_what_the_seed_was_worth():
    kept = born("shaped")
    before, after = (blending("r0c0", 4.0), *EMPTY[1:]), (report("r0c0", Stage.PRUNED, 1), *EMPTY[1:])
    step = transition(step=21, operation=LifecycleOp.PRUNE, before=before, after=after, known=solo("r0c0", 46.0, 50.0))
    paid = amounts(kept.settle(step))
    assert paid[("attribution", "r0c0")] == pytest.approx(-4.0)
    assert paid[("prune", "r0c0")] == pytest.approx(-0.3 - 0.05 * 4.0)
    assert paid[("operation", "r0c0")] == pytest.approx(-0.005)


def test_pruning_what_hurts_pays():
    kept = born("shaped")
    before, after = (blending("r0c0", -2.0), *EMPTY[1:]), (report("r0c0", Stage.PRUNED, 1), *EMPTY[1:])
    step = transition(step=21, operation=LifecycleOp.PRUNE, before=before, after=after, known=solo("r0c0", 46.0, 44.0))
    paid = amounts(kept.settle(step))
    assert paid[("attribution", "r0c0")] == pytest.approx(2.0)
    assert paid[("prune", "r0c0")] == pytest.approx(0.15)


def test_a_seed_that_fades_out_earns_nothing_more():
    kept = born("shaped")
    before, fading = (blending("r0c0", 4.0), *EMPTY[1:]), (blending("r0c0", 3.0), *EMPTY[1:])
    known = solo("r0c0", 46.0, 50.0)
    kept.settle(transition(step=21, operation=LifecycleOp.PRUNE, before=before, after=fading, known=known))
    entries = kept.settle(transition(step=22, before=fading, after=fading, known=known, measured=known))
    assert not {"attribution", "suspicion", "synergy", "blending warning"} & sources(entries)


def test_a_commitment_is_paid_on_what_was_known_when_it_was_decided():
    held = (report("r0c0", Stage.HOLDING, 5, alpha=1.0, contribution=4.0), *EMPTY[1:])
    kept = (report("r0c0", Stage.FOSSILIZED, 1, alpha=1.0, contribution=-9.0), *EMPTY[1:])
    step = transition(
        operation=LifecycleOp.FOSSILIZE,
        before=held,
        after=kept,
        known=solo("r0c0", 35.0, 40.0),
        measured=solo("r0c0", 60.0, 51.0),
    )
    paid = amounts(settled("shaped", step))
    assert paid[("commitment", "r0c0")] == pytest.approx(0.5 + 0.1 * 4.0 + 3.0 * math.tanh(1 / 3))
    assert paid[("attribution", "r0c0")] == pytest.approx(-9.0)


def test_rents_of_a_network():
    after = (
        report("r0c0", Stage.BLENDING, 0, alpha=0.5, parameters=100),
        report("r0c1", Stage.TRAINING, 0, alpha=0.0, parameters=1000),
        report("r0c2", Stage.FOSSILIZED, 0, alpha=1.0, parameters=30),
    )
    before = (report("r0c0", Stage.BLENDING, 0, alpha=0.2, parameters=100), after[1], after[2])
    paid = amounts(settled("shaped", transition(before=before, after=after), disable_pbrs=True))
    assert paid[("rent", None)] == pytest.approx(-0.5 * math.log(1 + 81.248 / 200))
    assert paid[("shock", None)] == pytest.approx(-0.1958 * 0.3**2 * 100 / 200)
    assert paid[("occupancy", None)] == pytest.approx(-0.02)
    assert paid[("upkeep", None)] == pytest.approx(-0.002)


def test_a_seed_that_cools_down_takes_no_place():
    after = (report("r0c0", Stage.EMBARGOED, 2), report("r0c1", Stage.TRAINING, 2), None)
    assert "occupancy" not in sources(settled("shaped", transition(before=after, after=after)))


def test_hindsight_goes_to_the_step_that_made_the_helper_help():
    kept = born("shaped", slot=0, step=3)
    one, other = blending("r0c0", 4.0), blending("r0c1", 4.0)
    advanced = transition(
        step=9,
        operation=LifecycleOp.ADVANCE,
        slot=0,
        before=(one, other, None),
        after=(one, other, None),
        measured=table({(): 44.0, ("r0c0",): 45.0, ("r0c1",): 45.0, ("r0c0", "r0c1"): 50.0}),
    )
    kept.settle(advanced)
    held = (one, report("r0c1", Stage.HOLDING, 6, alpha=1.0, contribution=5.0), None)
    done = (one, report("r0c1", Stage.FOSSILIZED, 1, alpha=1.0, contribution=5.0), None)
    entries = kept.settle(
        transition(step=15, operation=LifecycleOp.FOSSILIZE, slot=1, before=held, after=done, known=advanced.measured)
    )
    (credit,) = [entry for entry in entries if entry.source == "hindsight"]
    # the interaction was 50 - 45 - 45 + 44 = 4 points, the seed brings 5
    assert (credit.slot, credit.step, credit.cause_step) == ("r0c0", 15, 9)
    assert credit.amount == pytest.approx(0.1 * math.tanh(0.1 * 4 * 5))


def test_a_seed_inherits_no_merit_from_its_predecessor_in_the_slot():
    kept = born("shaped", slot=0, step=3)
    one = blending("r0c0", 4.0)
    first, second = blending("r0c1", 4.0, seed="r0c1-1"), blending("r0c1", 4.0, seed="r0c1-2")
    strong = table({(): 44.0, ("r0c0",): 45.0, ("r0c1",): 45.0, ("r0c0", "r0c1"): 76.0})
    weak = table({(): 44.0, ("r0c0",): 45.0, ("r0c1",): 45.0, ("r0c0", "r0c1"): 46.01})
    kept.settle(transition(step=4, before=(one, first, None), after=(one, first, None), measured=strong))
    kept.settle(transition(step=5, before=(one, first, None), after=(one, None, None), measured=plain(45.0)))
    kept.settle(transition(step=6, before=(one, None, None), after=(one, second, None), measured=weak))
    held = (report("r0c0", Stage.HOLDING, 6, alpha=1.0, contribution=5.0), second, None)
    done = (report("r0c0", Stage.FOSSILIZED, 1, alpha=1.0, contribution=5.0), second, None)
    commit = transition(step=7, operation=LifecycleOp.FOSSILIZE, slot=0, before=held, after=done, known=weak)
    paid = {e.explanation.split()[0]: e for e in kept.settle(commit) if e.source == "hindsight"}
    assert paid["r0c1-1"].amount == pytest.approx(0.1 * math.tanh(0.1 * 30 * 5))
    assert paid["r0c1-1"].cause_step == 4
    assert paid["r0c1-2"].amount == pytest.approx(0.1 * math.tanh(0.1 * 0.01 * 5))


def escrow_life(contributions, end, accuracy=70.0):
    """Books after a seed that was worth ``contributions`` in turn; ``end`` changes the last step."""
    kept = books("escrow", first=20.0, disable_pbrs=True)
    kept.settle(
        transition(
            operation=LifecycleOp.GERMINATE,
            after=(report("r0c0", Stage.GERMINATED, 1), *EMPTY[1:]),
            known=plain(20.0),
            measured=plain(accuracy),
        )
    )
    for step, contribution in enumerate(contributions, start=1):
        seeds = (report("r0c0", Stage.HOLDING, 1, alpha=1.0, contribution=contribution), *EMPTY[1:])
        measured = solo("r0c0", accuracy - contribution, accuracy)
        last = step == len(contributions)
        given = transition(step=step, before=seeds, after=seeds, known=measured, measured=measured)
        kept.settle(replace(given, **end) if last and end else given)
    return kept.ledger


@settings(max_examples=60, deadline=None)
@given(contributions=st.lists(st.floats(-5, 30), min_size=1, max_size=12))
def test_credit_that_is_not_committed_comes_to_nothing_but_the_harm(contributions):
    """P38."""
    ledger = escrow_life(contributions, {"truncated": True})
    paid = ledger.of_source("escrow").total() + ledger.of_source("forfeit").total()
    assert paid == pytest.approx(0.0, abs=1e-9)
    harm = sum(c for c in contributions if c < 0)
    assert ledger.of_source("attribution").total() == pytest.approx(harm, abs=1e-9)


def test_a_forfeit_is_caused_by_the_last_step_at_which_the_seed_could_have_been_kept():
    ledger = escrow_life([3.0, 3.0, 3.0, 3.0], {"truncated": True})
    (forfeit,) = ledger.of_source("forfeit").entries
    assert (forfeit.amount, forfeit.step, forfeit.cause_step) == (pytest.approx(-3.0), 4, 4)


def test_pruning_refunds_the_credit_at_once_and_it_is_not_minted_again():
    """P34, and defect 6: a seed that fades out after the order earns no credit."""
    kept = books("escrow", first=20.0, disable_pbrs=True)
    seeds = (blending("r0c0", 3.0), *EMPTY[1:])
    measured = solo("r0c0", 67.0, 70.0)
    kept.settle(
        transition(
            operation=LifecycleOp.GERMINATE, after=(report("r0c0", Stage.GERMINATED), *EMPTY[1:]), known=plain(20.0)
        )
    )
    kept.settle(transition(step=1, before=seeds, after=seeds, known=measured, measured=measured))
    assert kept.accounts.slots["r0c0"].credit == pytest.approx(2.0)
    prune = transition(
        step=2, operation=LifecycleOp.PRUNE, before=seeds, after=seeds, known=measured, measured=measured
    )
    paid = amounts(kept.settle(prune))
    assert paid[("forfeit", "r0c0")] == pytest.approx(-2.0)
    fading = kept.settle(transition(step=3, before=seeds, after=seeds, known=measured, measured=measured))
    assert not {"escrow", "forfeit", "attribution"} & sources(fading)


def test_what_is_committed_keeps_its_credit():
    """P36, P39."""
    held = (report("r0c0", Stage.HOLDING, 5, alpha=1.0, contribution=3.0), *EMPTY[1:])
    done = (report("r0c0", Stage.FOSSILIZED, 1, alpha=1.0, contribution=-8.0), *EMPTY[1:])
    kept, measured = born("escrow", accuracy=20.0, step=0), solo("r0c0", 67.0, 70.0)
    kept.settle(transition(step=1, before=held, after=held, known=measured, measured=measured))
    commit = transition(
        step=2, operation=LifecycleOp.FOSSILIZE, before=held, after=done, known=measured, measured=measured
    )
    entries = kept.settle(replace(commit, truncated=True))
    assert not {"escrow", "forfeit"} & sources(entries)
    assert kept.accounts.slots["r0c0"].credit == pytest.approx(2.0)


def test_credit_moves_only_on_fresh_measurements():
    """P37."""
    kept = born("escrow", accuracy=20.0, step=0)
    stale = report("r0c0", Stage.BLENDING, 4, alpha=0.5, contribution=3.0)
    stale = replace(stale, measured=replace(stale.measured, epochs_since_measured=1))
    entries = kept.settle(transition(step=1, before=(stale, None, None), after=(stale, None, None)))
    assert not {"escrow", "attribution"} & sources(entries)


def test_the_stable_accuracy_forgets_what_was_before_the_germination():
    kept = books("escrow", first=10.0)
    for step, accuracy in enumerate((5.0, 30.0, 40.0, 50.0)):
        seeds = (
            (report("r0c0", Stage.GERMINATED if step == 1 else Stage.BLENDING, 1, alpha=0.1), *EMPTY[1:])
            if step
            else EMPTY
        )
        kept.settle(transition(step=step, after=seeds, known=plain(5.0), measured=plain(accuracy)))
    account = kept.accounts.slots["r0c0"]
    assert kept.accounts.stable_accuracy_pp(account, 10) == 30.0
    assert kept.accounts.stable_accuracy_pp(account, 2) == 40.0
