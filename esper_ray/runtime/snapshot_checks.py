"""Consistency of saved episodes: whether an episode can have led to a state that was read."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from esper_ray.kasmina.organism import Organism, OrganismSnapshot
from esper_ray.leyline.actions import LifecycleOp
from esper_ray.leyline.config.run import RunConfig
from esper_ray.leyline.files.tensors import TensorSpec, dtype_name
from esper_ray.leyline.files.validation import SavedRecord, validated
from esper_ray.leyline.observation import HISTORY
from esper_ray.leyline.records import Measurement
from esper_ray.leyline.stages import WITH_MODULE
from esper_ray.runtime.snapshot import EpisodeSnapshot, EpisodeStateError, LifeProgress, PlayProgress
from esper_ray.simic.live.engine import SavedRewards, needs_control
from esper_ray.tolaria.assembly import derived_seed

ADAM_KEYS = frozenset({"step", "exp_avg", "exp_avg_sq"})
GROWTH_STREAM = 2
"""Key of the random stream of newborn seeds, see ``build_organism``."""


class _Pcg64(SavedRecord):
    state: Annotated[int, Field(ge=0, lt=2**128)]
    inc: Annotated[int, Field(ge=0, lt=2**128)]


class _Generator(SavedRecord):
    bit_generator: Literal["PCG64"]
    state: _Pcg64
    has_uint32: Annotated[int, Field(ge=0, le=1)]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


def checked_generator(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a random stream, which numpy accepts.

    Raises:
        EpisodeStateError: if it is not the state of a PCG64 generator.
    """
    checked: Any = validated(_Generator, dict(state), "the saved episode: generator", EpisodeStateError).model_dump()
    probe = np.random.PCG64(0)
    probe.state = checked
    if probe.state != checked:
        raise EpisodeStateError("the saved episode is damaged: generator is not a state of PCG64")
    return dict(checked)


def check_snapshot(state: EpisodeSnapshot, config: RunConfig, organism: Organism, examples: int) -> None:
    """Check that an episode of ``config`` can have led to ``state``. Nothing is changed.

    Args:
        organism: a fresh one, with the host and the slots of the episode.
        examples: number of validation examples.

    Raises:
        ValueError: with the place, the value and the constraint.
    """
    slots = organism.model.slot_ids
    check_life(state.life, config.episode_length, config.governor.window, slots)
    _check_growth(state)
    for place, measured in (("measured", state.life.measured), ("trusted", state.trusted.measured)):
        check_measurement(place, measured, slots, examples)
    _check_play(state.play, state.life)
    _check_rewards(state.play.rewards, state.life, config, slots)
    for owner, snapshot in (("now", state.organism), ("trusted", state.trusted.organism)):
        _check_organism(owner, snapshot, organism, adam=config.training.optimizer == "adamw")
    _check_seeds(state)


def check_life(life: LifeProgress, epochs: int, window: int, slots: Sequence[str]) -> None:
    """Check that a network can have this progress.

    Args:
        epochs: length of the episode.
        window: number of epochs in the statistics of the governor.

    Raises:
        ValueError: with the place, the value and the constraint.
    """
    governor = life.governor
    require(life.seed >= 0, "seed", life.seed, "at least 0")
    require(0 <= life.epoch <= epochs, "epoch", life.epoch, f"in [0, {epochs}]")
    require(0 <= life.since_snapshot <= life.epoch, "since_snapshot", life.since_snapshot, f"in [0, {life.epoch}]")
    _percentages("first_accuracy_pp", [life.first_accuracy_pp])
    require(set(life.seeds.entries) <= set(slots), "seeds", sorted(life.seeds.entries), f"among {', '.join(slots)}")
    same = len(governor.losses) == len(governor.accuracies_pp) <= window
    require(same, "governor.losses", len(governor.losses), "as many as accuracies, within the window")
    _finite("governor.losses", governor.losses)
    _percentages("governor.accuracies_pp", governor.accuracies_pp)
    require(governor.suspicions >= 0, "governor.suspicions", governor.suspicions, "at least 0")


def _check_growth(state: EpisodeSnapshot) -> None:
    seed, epoch = derived_seed(state.life.seed, GROWTH_STREAM), state.life.epoch
    for place, growth in (("growth", state.organism.growth), ("trusted_growth", state.trusted.organism.growth)):
        require(growth.seed == seed, f"{place}.seed", growth.seed, f"{seed}, which follows from that of the episode")
        require(0 <= growth.epoch <= epoch, f"{place}.epoch", growth.epoch, f"in [0, {epoch}]")
    present = state.organism.growth.epoch
    require(state.play.over or present == epoch, "growth.epoch", present, f"{epoch}, as the episode's")


def check_measurement(place: str, measured: Measurement, slots: Sequence[str], examples: int) -> None:
    """Check that a measurement on ``examples`` examples agrees with itself.

    Raises:
        ValueError: with the place, the value and the constraint.
    """
    players = measured.players
    _finite(f"{place}.loss", [measured.loss])
    _percentages(f"{place}.accuracy_pp", [measured.accuracy_pp])
    require(measured.examples == examples, f"{place}.examples", measured.examples, f"{examples}")
    ordered = tuple(slot for slot in slots if slot in players)
    require(players == ordered, f"{place}.players", players, f"some of {', '.join(slots)}, in this order")
    require(
        bool(players) == bool(measured.coalitions), f"{place}.coalitions", len(measured.coalitions), "those of players"
    )
    for coalition in measured.coalitions:
        name = f"{place}.coalitions {sorted(coalition.members)}"
        require(coalition.members <= set(players), name, sorted(coalition.members), f"among {', '.join(players)}")
        if coalition.scores is not None:
            require(len(coalition.scores) == examples, f"{name}.scores", len(coalition.scores), f"{examples} numbers")
            mean_pp = 100.0 * float(coalition.scores.sum(dtype=np.float64)) / examples
            require(coalition.accuracy_pp == mean_pp, f"{name}.accuracy_pp", coalition.accuracy_pp, f"{mean_pp}")
    full = measured.coalition(frozenset(players))
    if players:
        accuracy_pp = None if full is None else full.accuracy_pp
        require(accuracy_pp == measured.accuracy_pp, f"{place}.accuracy_pp", measured.accuracy_pp, f"{accuracy_pp}")
    for order in measured.orders:
        require(sorted(order) == sorted(players), f"{place}.orders", order, f"an order of {', '.join(players)}")


def _check_play(play: PlayProgress, life: LifeProgress) -> None:
    epoch = life.epoch
    require(0 <= play.illegal_actions <= epoch, "illegal_actions", play.illegal_actions, f"in [0, {epoch}]")
    operations = [int(operation) for operation in LifecycleOp]
    require(play.last_operation in operations, "last_operation", play.last_operation, f"one of {operations}")
    last = play.last_intervention
    require(last is None or 0 <= last < epoch, "last_intervention", last, f"below {epoch}")
    steps = min(epoch + 1, HISTORY)
    for place, history, present in (
        ("losses", play.losses, life.measured.loss),
        ("accuracies_pp", play.accuracies_pp, life.measured.accuracy_pp),
    ):
        require(len(history) == steps, place, len(history), f"{steps} numbers after {epoch} epochs")
        require(history[-1] == present, f"{place}.{steps - 1}", history[-1], f"{present}, as measured")
    _finite("losses", play.losses)
    _percentages("accuracies_pp", play.accuracies_pp)


def _check_rewards(rewards: SavedRewards, life: LifeProgress, config: RunConfig, slots: Sequence[str]) -> None:
    length, accounts = config.episode_length, rewards.accounts
    require(
        len(rewards.control_pp) == (length + 1 if needs_control(config.reward) else 0),
        "rewards.control_pp",
        len(rewards.control_pp),
        f"one for each of {length} epochs and one more, or none without a control",
    )
    _percentages("rewards.control_pp", rewards.control_pp)
    known = len(accounts.accuracies_pp)
    require(known == life.epoch + 1, "accounts.accuracies_pp", known, f"{life.epoch + 1} after {life.epoch} epochs")
    _percentages("accounts.accuracies_pp", accounts.accuracies_pp)
    require(set(accounts.slots) <= set(slots), "accounts.slots", sorted(accounts.slots), f"among {', '.join(slots)}")
    for slot, account in accounts.slots.items():
        steps = [account.germinated_step, account.operated_step, account.held_step, account.committed_step]
        steps += [boost.cause_step for boost in account.boosts.values()]
        possible = all(step is None or 0 <= step < life.epoch for step in steps)
        require(possible, f"accounts.slots.{slot} steps", steps, f"below {life.epoch}")
        require(all(boost.steps > 0 for boost in account.boosts.values()), f"{slot}.boosts", account.boosts, "measured")
    for entry in rewards.entries:
        require(0 <= entry.step < life.epoch, "rewards.entries step", entry.step, f"below {life.epoch}")
        require(entry.slot is None or entry.slot in slots, "rewards.entries slot", entry.slot, "one of the network")


def _check_seeds(state: EpisodeSnapshot) -> None:
    """Check that every seed of the network was measured and has an account."""
    if state.play.over or state.life.epoch == 0:  # after a rollback the network is an earlier one
        return
    states, accounts = state.organism.growth.states, state.play.rewards.accounts.slots
    live = {slot: seed.seed_id for slot, seed in states.items() if seed is not None and seed.stage in WITH_MODULE}
    measured = {slot: entry.seed_id for slot, entry in state.life.seeds.entries.items()}
    require(measured == live, "seeds", measured, f"{live}, as in the network")
    known = {slot: accounts[slot].seed_id for slot in live if slot in accounts}
    require(known == live, "accounts.slots", known, f"{live}, as in the network")


def _check_organism(owner: str, snapshot: OrganismSnapshot, organism: Organism, *, adam: bool) -> None:
    modules = organism.check(snapshot)
    parameters = organism.parameters(modules)
    for name, state in snapshot.optimizer.items():
        parameter, place, host = parameters[name], f"{owner} optimizer state of {name}", name.startswith("host.")
        keys = frozenset(state)
        require(keys == ADAM_KEYS if adam else keys == {"momentum_buffer"}, place, sorted(keys), "complete")
        for key, value in state.items():
            if not isinstance(value, Tensor):
                require(value is None and not adam, f"{place} {key}", value, "a tensor")
                continue
            spec = TensorSpec(dtype_name(parameter), tuple(parameter.shape), finite=host)
            if key == "step":
                spec = TensorSpec("float32", (), least=0.0, whole=True)
            problem = spec.problem(value)
            if problem is not None:
                raise ValueError(f"{place}: {key} {problem}")
    for name, tensor in snapshot.tensors.items():
        if name in parameters and name.startswith("host."):
            require(bool(tensor.isfinite().all()), f"{owner} tensor {name}", "not finite", "finite")


def _finite(place: str, values: Sequence[float]) -> None:
    for value in values:
        require(isfinite(value), place, value, "finite")


def _percentages(place: str, values: Sequence[float]) -> None:
    for value in values:
        require(0.0 <= value <= 100.0, place, value, "in [0, 100]")


def require(holds: bool, place: str, value: object, rule: str) -> None:
    """Raise an error if ``value`` at ``place`` breaks ``rule``.

    Raises:
        ValueError: with the place, the value and the constraint.
    """
    if not holds:
        raise ValueError(f"{place} is {value!r}, it must be {rule}")
