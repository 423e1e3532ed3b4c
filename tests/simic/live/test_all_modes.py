"""Properties of every reward mode: outcome-based, success-based, per slot, and telescoping."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transition_builders import EMPTY, amounts, make_engine, plain, report, settled, solo, sources, table, transition

from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.reward import REWARD_MODES
from esper_ray.leyline.records import Coalition, Measurement
from esper_ray.leyline.stages import Stage
from esper_ray.simic.ledger import RewardError

SHAPED_MODES = ("shaped", "simplified", "basic", "basic_plus", "escrow")
SLOTS = ("r0c0", "r0c1", "r0c2")
STAGE_POTENTIAL = {"GERMINATED": 1.0, "TRAINING": 2.0, "BLENDING": 3.5, "HOLDING": 5.5, "FOSSILIZED": 6.0}


def potential(seed):
    """Potentials of section 6.4, restated independently; a removed seed has none."""
    if seed is None or seed.stage.name not in STAGE_POTENTIAL:
        return 0.0
    return STAGE_POTENTIAL[seed.stage.name] + min(0.3 * seed.ticks_in_stage, 2.0)


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_an_empty_network_is_not_paid_before_the_end(mode):
    assert settled(mode, transition(measured=plain(20.0))) == ()


def test_shaping_covers_every_slot_independent_of_the_action():
    before = (report("r0c0", Stage.TRAINING, 2), None, report("r0c2", Stage.GERMINATED, 1))
    after = (report("r0c0", Stage.TRAINING, 3), None, report("r0c2", Stage.TRAINING, 1))
    paid = amounts(settled("basic", transition(slot=1, before=before, after=after)))
    # potentials 2.6 -> 2.9 and 1.3 -> 2.3
    assert paid == pytest.approx(
        {("shaping", "r0c0"): 0.3 * (0.995 * 2.9 - 2.6), ("shaping", "r0c2"): 0.3 * (0.995 * 2.3 - 1.3)}
    )


def test_a_removed_seed_returns_its_potential():
    before, after = (report("r0c0", Stage.TRAINING, 2), *EMPTY[1:]), (report("r0c0", Stage.PRUNED, 1), *EMPTY[1:])
    paid = amounts(settled("basic", transition(before=before, after=after, operation=LifecycleOp.PRUNE)))
    assert paid == pytest.approx({("shaping", "r0c0"): -0.3 * 2.6})
    cooling = transition(before=after, after=EMPTY)
    assert settled("basic", cooling) == ()


@pytest.mark.parametrize("end", [{"truncated": True}, {"restored_because_of": 0}])
def test_every_episode_ends_at_potential_zero(end):
    held = (report("r0c0", Stage.HOLDING, 3, alpha=1.0), None, None)
    paid = amounts(settled("basic", transition(before=held, after=held, **end)))
    assert paid[("shaping", "r0c0")] == pytest.approx(-0.3 * 6.4)


some_seed = st.one_of(
    st.none(),
    st.tuples(st.sampled_from([s for s in Stage if s not in (Stage.UNKNOWN, Stage.DORMANT)]), st.integers(0, 12)),
)
some_state = st.tuples(some_seed, some_seed, some_seed)


@settings(max_examples=60, deadline=None)
@given(
    path=st.lists(some_state, min_size=2, max_size=12),
    gamma=st.floats(0.8, 1.0),
    mode=st.sampled_from((*SHAPED_MODES, "loss")),
    end=st.sampled_from(["running", "truncated", "restored"]),
    operation=st.sampled_from(list(LifecycleOp)),
)
def test_shaping_telescopes_over_any_trajectory_of_reports(path, gamma, mode, end, operation):
    """P32 and P30: on any path the discounted sum is that of the ends."""
    states = [
        tuple(None if seed is None else report(slot, *seed) for slot, seed in zip(SLOTS, state, strict=True))
        for state in path
    ]
    loss, last = mode == "loss", len(states) - 2
    engine = make_engine("shaped" if loss else mode, gamma=gamma, family="loss" if loss else "contribution")
    total = 0.0
    for t in range(last + 1):
        ends = {"truncated": end == "truncated", "restored_because_of": 0 if end == "restored" else None}
        step = transition(
            step=t, before=states[t], after=states[t + 1], operation=operation, **ends if t == last else {}
        )
        total += sum(gamma**t * entry.amount for entry in engine.settle(step) if entry.source == "shaping")
    weight = 0.1 if loss else 0.3
    bare = STAGE_POTENTIAL
    worth = (lambda seed: bare.get(seed.stage.name, 0.0) if seed else 0.0) if loss else potential
    final = sum(map(worth, states[-1])) if end == "running" else 0.0
    assert total == pytest.approx(weight * (gamma ** (last + 1) * final - sum(map(worth, states[0]))), abs=1e-9)


def test_disabled_shaping_has_no_entries():
    seeds = (report("r0c0", Stage.TRAINING, 2), *EMPTY[1:])
    for mode in SHAPED_MODES:
        assert "shaping" not in sources(settled(mode, transition(after=seeds), disable_pbrs=True))


HOLDING = (None, report("r0c1", Stage.HOLDING, 5, alpha=1.0, contribution=4.0), None)
FOSSIL = (None, report("r0c1", Stage.FOSSILIZED, 1, alpha=1.0, contribution=9.0), None)
COMMIT = transition(
    operation=LifecycleOp.FOSSILIZE,
    slot=1,
    before=HOLDING,
    after=FOSSIL,
    known=solo("r0c1", 35.0, 40.0),
    measured=solo("r0c1", 41.0, 50.0),
)


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_a_refused_operation_pays_like_waiting(mode):
    """P56: reward depends on success, not on the attempt."""
    refused = replace(COMMIT, success=False, after=HOLDING)
    waited = replace(refused, operation=LifecycleOp.WAIT, success=True)
    assert settled(mode, refused) == settled(mode, waited)


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_waiting_pays_the_same_for_any_slot(mode):
    """P57."""
    seeds = (
        report("r0c0", Stage.BLENDING, 2, alpha=0.5, contribution=3.0, interaction_pp=1.0),
        report("r0c1", Stage.HOLDING, 4, alpha=1.0, contribution=2.0, interaction_pp=1.0),
        None,
    )
    measured = table({(): 40.0, ("r0c0",): 42.0, ("r0c1",): 41.0, ("r0c0", "r0c1"): 44.0})
    paid = [
        settled(mode, transition(slot=slot, before=seeds, after=seeds, known=measured, measured=measured))
        for slot in range(3)
    ]
    assert paid[0] == paid[1] == paid[2]


@pytest.mark.parametrize("mode", REWARD_MODES)
def test_the_reward_is_the_sum_of_its_entries(mode):
    """P60, in every mode; every entry has step, slot and explanation."""
    engine = make_engine(mode, control=(20.0, 20.0))
    entries = engine.settle(replace(COMMIT, truncated=True))
    assert engine.ledger.total() == sum(entry.amount for entry in entries) == sum(engine.ledger.by_source().values())
    for entry in entries:
        assert entry.step == entry.cause_step == 0
        assert entry.slot in (None, "r0c1")
        assert entry.explanation


@pytest.mark.parametrize("mode", REWARD_MODES)
@pytest.mark.parametrize("cause", [2, 9])
def test_a_rollback_is_penalised_at_its_causal_step_at_any_epoch(mode, cause):
    """P55."""
    seed = (report("r0c0", Stage.TRAINING, 2), *EMPTY[1:])
    step = transition(step=9, before=seed, after=EMPTY, restored_because_of=cause)
    entries = settled(mode, step, control=(20.0,) * 11)
    (penalty,) = [entry for entry in entries if entry.source == "rollback"]
    assert (penalty.amount, penalty.step, penalty.cause_step, penalty.slot) == (-10.0, 9, cause, None)
    lost = [(entry.amount, entry.slot, entry.cause_step) for entry in entries if entry.source == "lost seed"]
    assert lost == ([] if mode == "settlement" else [(-0.2, "r0c0", cause)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("validation loss after step 7", lambda v: {"measured": plain(50.0, loss=v)}),
        ("validation accuracy before step 7", lambda v: {"known": plain(v)}),
        ("accuracy of coalition ['r0c1'] after step 7", lambda v: {"measured": _with_broken(v)}),
    ],
)
def test_a_nonfinite_measurement_is_refused_by_name_and_nothing_is_paid(name, broken, value):
    engine = make_engine("shaped")
    with pytest.raises(RewardError, match="nothing was paid") as caught:
        engine.settle(replace(COMMIT, step=7, **broken(value)))
    assert name in str(caught.value)
    assert str(value) in str(caught.value)
    assert caught.value.reason == "non_finite_measurement"
    assert engine.ledger.entries == ()
    assert engine.accounts.accuracies_pp == (20.0,)


def _with_broken(value):
    coalitions = (Coalition(frozenset(), 30.0), Coalition(frozenset({"r0c1"}), value))
    return Measurement(1.0, 50.0, 400, ("r0c1",), coalitions)
