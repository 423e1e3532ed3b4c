"""``shaped`` and ``escrow`` over live episodes."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transition_builders import EMPTY, amounts, make_engine, plain, report, settled, solo, sources, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.stages import Stage


def blending(slot, contribution, **more):
    return report(slot, Stage.BLENDING, 4, alpha=0.5, contribution=contribution, age=16, **more)


def engine_after_germination(mode, slot=0, accuracy=40.0, step=20, **options):
    """Engine after a germination in ``slot`` at ``step``, at ``accuracy`` percent."""
    engine = make_engine(mode, first=accuracy, **options)
    seeds = tuple(report(f"r0c{i}", Stage.GERMINATED, 1) if i == slot else None for i in range(3))
    engine.settle(transition(step=step, operation=LifecycleOp.GERMINATE, slot=slot, after=seeds, known=plain(accuracy)))
    return engine


def test_every_seed_is_attributed_at_every_step_of_any_operation():
    engine = engine_after_germination("shaped")
    seeds = (blending("r0c0", 4.0), report("r0c1", Stage.FOSSILIZED, 9, alpha=1.0, contribution=3.0), None)
    worth = {(): 44.0, ("r0c0",): 48.0, ("r0c1",): 47.0, ("r0c0", "r0c1"): 51.0}
    paid = amounts(engine.settle(transition(step=21, slot=2, before=seeds, after=seeds, measured=table(worth))))
    # r0c0 gained 11 points since its germination at 40, more than it contributes; so did r0c1, first seen at 40
    assert paid[("attribution", "r0c0")] == pytest.approx(4.0)
    assert paid[("attribution", "r0c1")] == pytest.approx(3.0)


def test_a_contribution_above_the_progress_is_discounted():
    engine = engine_after_germination("shaped", accuracy=46.0)
    seeds = (blending("r0c0", 9.0), None, None)
    entries = engine.settle(transition(step=21, before=seeds, after=seeds, measured=solo("r0c0", 41.0, 50.0)))
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
def test_a_ransom_is_not_paid_at_any_progress_of_the_host(
    contribution, improvement, progress, stage, ticks, interaction
):
    """P17, for all progress: a ransom is not paid while all seeds together make the network worse."""
    engine = engine_after_germination("shaped", accuracy=50.0 - progress)
    seed = report("r0c0", stage, ticks, alpha=1.0, contribution=contribution, interaction_pp=interaction)
    unmeasured = report("r0c1", Stage.BLENDING, 3, alpha=0.4, contribution=None)
    worth = {
        (): 50.0 - improvement,
        ("r0c1",): 50.0 - contribution,
        ("r0c0",): 49.0,
        ("r0c0", "r0c1"): 50.0,
    }
    seeds = (seed, unmeasured, None)
    step = transition(step=21, before=seeds, after=seeds, known=plain(50.0), measured=table(worth))
    entries = engine.settle(step)
    assert sum(e.amount for e in entries if e.slot == "r0c0") <= 0.5
    assert amounts(entries).get(("attribution", "r0c0"), 0.0) <= 0.0
    assert "synergy" not in sources(entries)


def test_seeds_share_their_joint_improvement():
    """The removal of either seed costs 10 points, both together add 6: the seeds depend on each other."""
    engine = engine_after_germination("shaped", accuracy=20.0)
    seeds = (blending("r0c0", 10.0), blending("r0c1", 10.0), None)
    engine.settle(
        transition(
            step=21,
            operation=LifecycleOp.GERMINATE,
            slot=1,
            after=(seeds[0], report("r0c1", Stage.GERMINATED), None),
            known=plain(20.0),
        )
    )
    worth = {(): 44.0, ("r0c0",): 40.0, ("r0c1",): 40.0, ("r0c0", "r0c1"): 50.0}
    entries = engine.settle(transition(step=22, before=seeds, after=seeds, measured=table(worth)))
    paid = amounts(entries)
    assert paid[("attribution", "r0c0")] == pytest.approx(3.0)
    assert paid[("attribution", "r0c1")] == pytest.approx(3.0)
    assert any("cut to 30%" in entry.explanation for entry in entries)


def test_an_unmeasured_seed_is_not_paid_for_the_progress_of_the_host():
    seeds = (report("r0c0", Stage.BLENDING, 1, alpha=0.1, improvement_pp=9.0), None, None)
    assert sources(settled("shaped", transition(after=seeds), disable_pbrs=True)) == {"rent"}


def test_pruning_a_helpful_seed_costs_its_contribution():
    engine = engine_after_germination("shaped")
    before, after = (blending("r0c0", 4.0), *EMPTY[1:]), (report("r0c0", Stage.PRUNED, 1), *EMPTY[1:])
    step = transition(step=21, operation=LifecycleOp.PRUNE, before=before, after=after, known=solo("r0c0", 46.0, 50.0))
    paid = amounts(engine.settle(step))
    assert paid[("attribution", "r0c0")] == pytest.approx(-4.0)
    assert paid[("prune", "r0c0")] == pytest.approx(-0.3 - 0.05 * 4.0)
    assert paid[("operation", "r0c0")] == pytest.approx(-0.005)


def test_pruning_a_harmful_seed_is_paid():
    engine = engine_after_germination("shaped")
    before, after = (blending("r0c0", -2.0), *EMPTY[1:]), (report("r0c0", Stage.PRUNED, 1), *EMPTY[1:])
    step = transition(step=21, operation=LifecycleOp.PRUNE, before=before, after=after, known=solo("r0c0", 46.0, 44.0))
    paid = amounts(engine.settle(step))
    assert paid[("attribution", "r0c0")] == pytest.approx(2.0)
    assert paid[("prune", "r0c0")] == pytest.approx(0.15)


def test_a_seed_that_fades_out_is_not_attributed():
    engine = engine_after_germination("shaped")
    before, fading = (blending("r0c0", 4.0), *EMPTY[1:]), (blending("r0c0", 3.0), *EMPTY[1:])
    known = solo("r0c0", 46.0, 50.0)
    engine.settle(transition(step=21, operation=LifecycleOp.PRUNE, before=before, after=fading, known=known))
    entries = engine.settle(transition(step=22, before=fading, after=fading, known=known, measured=known))
    assert not {"attribution", "suspicion", "synergy", "blending warning"} & sources(entries)


def test_a_commitment_is_paid_by_the_measurement_before_the_decision():
    held = (report("r0c0", Stage.HOLDING, 5, alpha=1.0, contribution=4.0), *EMPTY[1:])
    committed = (report("r0c0", Stage.FOSSILIZED, 1, alpha=1.0, contribution=-9.0), *EMPTY[1:])
    step = transition(
        operation=LifecycleOp.FOSSILIZE,
        before=held,
        after=committed,
        known=solo("r0c0", 35.0, 40.0),
        measured=solo("r0c0", 60.0, 51.0),
    )
    paid = amounts(settled("shaped", step))
    assert paid[("commitment", "r0c0")] == pytest.approx(0.5 + 0.1 * 4.0 + 3.0 * math.tanh(1 / 3))
    assert paid[("attribution", "r0c0")] == pytest.approx(-9.0)


def test_rents_of_a_network_with_three_seeds_by_hand():
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


def test_a_seed_in_cooldown_does_not_count_for_occupancy():
    after = (report("r0c0", Stage.EMBARGOED, 2), report("r0c1", Stage.TRAINING, 2), None)
    assert "occupancy" not in sources(settled("shaped", transition(before=after, after=after)))


def test_hindsight_is_caused_by_the_step_that_created_the_interaction():
    engine = engine_after_germination("shaped", slot=0, step=3)
    helper, helped = blending("r0c0", 4.0), blending("r0c1", 4.0)
    advanced = transition(
        step=9,
        operation=LifecycleOp.ADVANCE,
        slot=0,
        before=(helper, helped, None),
        after=(helper, helped, None),
        measured=table({(): 44.0, ("r0c0",): 45.0, ("r0c1",): 45.0, ("r0c0", "r0c1"): 50.0}),
    )
    engine.settle(advanced)
    held = (helper, report("r0c1", Stage.HOLDING, 6, alpha=1.0, contribution=5.0), None)
    committed = (helper, report("r0c1", Stage.FOSSILIZED, 1, alpha=1.0, contribution=5.0), None)
    entries = engine.settle(
        transition(
            step=15, operation=LifecycleOp.FOSSILIZE, slot=1, before=held, after=committed, known=advanced.measured
        )
    )
    (credit,) = [entry for entry in entries if entry.source == "hindsight"]
    # the interaction was 50 - 45 - 45 + 44 = 4 points, the seed brings 5
    assert (credit.slot, credit.step, credit.cause_step) == ("r0c0", 15, 9)
    assert credit.amount == pytest.approx(0.1 * math.tanh(0.1 * 4 * 5))


def test_hindsight_of_a_seed_excludes_its_predecessor_in_the_slot():
    engine = engine_after_germination("shaped", slot=0, step=3)
    helped = blending("r0c0", 4.0)
    first, second = blending("r0c1", 4.0, seed="r0c1-1"), blending("r0c1", 4.0, seed="r0c1-2")
    strong = table({(): 44.0, ("r0c0",): 45.0, ("r0c1",): 45.0, ("r0c0", "r0c1"): 76.0})
    weak = table({(): 44.0, ("r0c0",): 45.0, ("r0c1",): 45.0, ("r0c0", "r0c1"): 46.01})
    engine.settle(transition(step=4, before=(helped, first, None), after=(helped, first, None), measured=strong))
    engine.settle(transition(step=5, before=(helped, first, None), after=(helped, None, None), measured=plain(45.0)))
    engine.settle(transition(step=6, before=(helped, None, None), after=(helped, second, None), measured=weak))
    held = (report("r0c0", Stage.HOLDING, 6, alpha=1.0, contribution=5.0), second, None)
    committed = (report("r0c0", Stage.FOSSILIZED, 1, alpha=1.0, contribution=5.0), second, None)
    commit = transition(step=7, operation=LifecycleOp.FOSSILIZE, slot=0, before=held, after=committed, known=weak)
    paid = {e.explanation.split()[0]: e for e in engine.settle(commit) if e.source == "hindsight"}
    assert paid["r0c1-1"].amount == pytest.approx(0.1 * math.tanh(0.1 * 30 * 5))
    assert paid["r0c1-1"].cause_step == 4
    assert paid["r0c1-2"].amount == pytest.approx(0.1 * math.tanh(0.1 * 0.01 * 5))


def escrow_life(contributions, end, accuracy=70.0):
    """Ledger of a seed with ``contributions`` in successive steps; ``end`` changes the last step."""
    engine = make_engine("escrow", first=20.0, disable_pbrs=True)
    engine.settle(
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
        settled_step = transition(step=step, before=seeds, after=seeds, known=measured, measured=measured)
        engine.settle(replace(settled_step, **end) if last and end else settled_step)
    return engine.ledger


@settings(max_examples=60, deadline=None)
@given(contributions=st.lists(st.floats(-5, 30), min_size=1, max_size=12))
def test_escrow_of_an_uncommitted_seed_sums_to_zero_and_its_harm_stays(contributions):
    """P38."""
    ledger = escrow_life(contributions, {"truncated": True})
    paid = ledger.of_source("escrow").total() + ledger.of_source("forfeit").total()
    assert paid == pytest.approx(0.0, abs=1e-9)
    harm = sum(c for c in contributions if c < 0)
    assert ledger.of_source("attribution").total() == pytest.approx(harm, abs=1e-9)


def test_a_forfeit_is_caused_by_the_last_step_that_could_commit_the_seed():
    ledger = escrow_life([3.0, 3.0, 3.0, 3.0], {"truncated": True})
    (forfeit,) = ledger.of_source("forfeit").entries
    assert (forfeit.amount, forfeit.step, forfeit.cause_step) == (pytest.approx(-3.0), 4, 4)


def test_pruning_refunds_the_credit_and_a_fading_seed_earns_none():
    """P34, and defect 6: a seed that fades out after PRUNE earns no credit."""
    engine = make_engine("escrow", first=20.0, disable_pbrs=True)
    seeds = (blending("r0c0", 3.0), *EMPTY[1:])
    measured = solo("r0c0", 67.0, 70.0)
    engine.settle(
        transition(
            operation=LifecycleOp.GERMINATE, after=(report("r0c0", Stage.GERMINATED), *EMPTY[1:]), known=plain(20.0)
        )
    )
    engine.settle(transition(step=1, before=seeds, after=seeds, known=measured, measured=measured))
    assert engine.accounts.slots["r0c0"].credit == pytest.approx(2.0)
    prune = transition(
        step=2, operation=LifecycleOp.PRUNE, before=seeds, after=seeds, known=measured, measured=measured
    )
    paid = amounts(engine.settle(prune))
    assert paid[("forfeit", "r0c0")] == pytest.approx(-2.0)
    fading = engine.settle(transition(step=3, before=seeds, after=seeds, known=measured, measured=measured))
    assert not {"escrow", "forfeit", "attribution"} & sources(fading)


def test_a_committed_seed_keeps_its_credit():
    """P36, P39."""
    held = (report("r0c0", Stage.HOLDING, 5, alpha=1.0, contribution=3.0), *EMPTY[1:])
    committed = (report("r0c0", Stage.FOSSILIZED, 1, alpha=1.0, contribution=-8.0), *EMPTY[1:])
    engine, measured = engine_after_germination("escrow", accuracy=20.0, step=0), solo("r0c0", 67.0, 70.0)
    engine.settle(transition(step=1, before=held, after=held, known=measured, measured=measured))
    commit = transition(
        step=2, operation=LifecycleOp.FOSSILIZE, before=held, after=committed, known=measured, measured=measured
    )
    entries = engine.settle(replace(commit, truncated=True))
    assert not {"escrow", "forfeit"} & sources(entries)
    assert engine.accounts.slots["r0c0"].credit == pytest.approx(2.0)


def test_credit_moves_only_on_fresh_measurements():
    """P37."""
    engine = engine_after_germination("escrow", accuracy=20.0, step=0)
    stale = report("r0c0", Stage.BLENDING, 4, alpha=0.5, contribution=3.0)
    stale = replace(stale, measured=replace(stale.measured, epochs_since_measured=1))
    entries = engine.settle(transition(step=1, before=(stale, None, None), after=(stale, None, None)))
    assert not {"escrow", "attribution"} & sources(entries)


def test_the_stable_accuracy_excludes_epochs_before_the_germination():
    engine = make_engine("escrow", first=10.0)
    for step, accuracy in enumerate((5.0, 30.0, 40.0, 50.0)):
        seeds = (
            (report("r0c0", Stage.GERMINATED if step == 1 else Stage.BLENDING, 1, alpha=0.1), *EMPTY[1:])
            if step
            else EMPTY
        )
        engine.settle(transition(step=step, after=seeds, known=plain(5.0), measured=plain(accuracy)))
    account = engine.accounts.slots["r0c0"]
    assert engine.accounts.stable_accuracy_pp(account, 10) == 30.0
    assert engine.accounts.stable_accuracy_pp(account, 2) == 40.0
