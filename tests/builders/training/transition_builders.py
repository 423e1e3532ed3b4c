"""Transitions and reward engines of synthetic episodes."""

from dataclasses import replace
from itertools import combinations

from esper_ray.leyline.actions import AlphaMode, BlendOperator, Blueprint, LifecycleOp
from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.records import Coalition, Measurement, SeedMeasurements, SlotReport
from esper_ray.leyline.stages import Stage
from esper_ray.simic.live.engine import RewardEngine
from esper_ray.simic.live.transition import Transition

GAMMA = 0.995
EMPTY = (None, None, None)


def report(slot, stage, ticks=0, alpha=0.0, parameters=100, contribution=None, age=None, seed=None, **measured):
    return SlotReport(
        slot_id=slot,
        seed_id=seed or f"{slot}-1",
        blueprint=Blueprint.CONV_LIGHT,
        stage=stage,
        previous_stage=Stage.DORMANT,
        ticks_in_stage=ticks,
        age=ticks if age is None else age,
        alpha=alpha,
        alpha_mode=AlphaMode.HOLD,
        alpha_target=1.0,
        alpha_velocity=0.0,
        ramp_total=0,
        ramp_done=0,
        operator=BlendOperator.ADD,
        tempo=5,
        parameters=parameters,
        measured=SeedMeasurements(
            contribution_pp=contribution, epochs_since_measured=None if contribution is None else 0, **measured
        ),
    )


def plain(accuracy, loss=1.0):
    return Measurement(loss, accuracy, 400)


def table(worth, loss=1.0):
    """Measurement of every coalition; ``worth`` maps tuples of slots to accuracies, the longest of all players."""
    players = max(worth, key=len)
    subsets = [c for n in range(len(players) + 1) for c in combinations(players, n)]
    coalitions = tuple(Coalition(frozenset(members), worth[members]) for members in subsets)
    return Measurement(loss, worth[players], 400, players, coalitions)


def solo(slot, without, full, loss=1.0):
    return table({(): without, (slot,): full}, loss)


def transition(**changes):
    base = Transition(
        step=0,
        max_steps=40,
        operation=LifecycleOp.WAIT,
        slot=0,
        success=True,
        before=EMPTY,
        after=EMPTY,
        known=plain(40.0),
        measured=plain(50.0),
        host_parameters=160,
    )
    return replace(base, **changes)


def make_engine(mode, first=20.0, gamma=GAMMA, control=(), family="contribution", **config):
    defaults = {"param_budget": 2000, "param_penalty_weight": 0.1}
    settlement = {"window_epochs": 1} | config.pop("settlement", {})
    tree = RewardConfig(mode=mode, family=family, settlement=settlement, **defaults | config)
    return RewardEngine(tree, gamma, 10.0, first, control)


def settled(mode, step, **options):
    """Entries of the single transition ``step`` of a new episode."""
    control = (20.0, 20.0) if mode == "settlement" else ()
    return make_engine(mode, **{"control": control, **options}).settle(step)


def amounts(entries):
    """Sums of amounts by source and slot."""
    sums = {}
    for entry in entries:
        key = entry.source, entry.slot
        sums[key] = sums.get(key, 0.0) + entry.amount
    return sums


def sources(entries):
    return {entry.source for entry in entries}


def discounted(ledger, steps, gamma=GAMMA):
    """Discounted return of an episode with every amount at the step that caused it."""
    return sum(gamma**t * amount for t, amount in enumerate(ledger.by_cause(steps)))
