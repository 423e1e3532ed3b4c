"""An ``nn.Module`` with slots on its submodules, in which seeds grow.

A slot sits on the output of a named submodule, through a forward hook: the host's code and its
parameter names stay as they are.

    model = MorphogeneticModel.wrap(host, {"r0c0": "layer1"}, example_input=torch.zeros(2, 3, 32, 32))
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9)
    model.germinate("r0c0", "conv_light")
    ...                               # per batch: loss.backward(); model.incubate(closure); optimizer.step()
    model.epoch_elapsed()             # per epoch: counts it, and moves amplitudes
    measured = model.measure(held_out)
    model.advance("r0c0", measured["r0c0"])  # the gate opens, or the outcome says why not
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from esper_ray.kasmina.export.checkpoints import (
    load_model,
    load_state,
    manifest_tensor,
    rebuild_seeds,
    save_model,
    tied_values,
)
from esper_ray.kasmina.export.plain import plain_module
from esper_ray.kasmina.export.text_diagram import draw
from esper_ray.kasmina.lifecycle import reducer
from esper_ray.kasmina.lifecycle.commands import seed_report
from esper_ray.kasmina.lifecycle.reducer import LifecycleEvent, Refused
from esper_ray.kasmina.measurement.held_out import HELD_OUT_EXAMPLES
from esper_ray.kasmina.measurement.measurer import Measurer
from esper_ray.kasmina.measurement.objective import LossFunction, Objective, ScoreFunction
from esper_ray.kasmina.measurement.places import PlaceScore, place_scores
from esper_ray.kasmina.network.attachment import evaluation_mode
from esper_ray.kasmina.network.incubation import incubate, shadowed
from esper_ray.kasmina.network.passes.switching import switched
from esper_ray.kasmina.network.records import LossClosure, Outcome
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.kasmina.ranks.exchange import GradientExchange
from esper_ray.kasmina.ranks.wrapping import SeedNames
from esper_ray.leyline.actions import AlphaCurve, Blueprint, GerminationStyle
from esper_ray.leyline.blueprints import WIDEN, widening_name
from esper_ray.leyline.records import UNMEASURED, SeedMeasurements, SlotReport


class LifecycleError(ValueError):
    """A command that the state of its slot does not allow."""


class MorphogeneticModel(SlottedNetwork):
    """A growing network. Build it with :meth:`wrap`; ``forward`` is the host's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.exchange = GradientExchange(self)
        """Exchange of gradients with the other processes of a group."""
        self.measurer = Measurer()
        """Gradients and measurements of the seeds since the last :meth:`measure`."""

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> SeedNames:
        """What ``DistributedDataParallel`` reads when it is built: names that it leaves to :attr:`exchange`."""
        return SeedNames(self)

    # What one does with a seed

    def germinate(
        self,
        slot: str,
        blueprint: str | Blueprint,
        *,
        style: GerminationStyle | str = GerminationStyle.SIGMOID_ADD,
        tempo: int = 5,
        target: float = 1.0,
        channels: int | None = None,
        closure: LossClosure | None = None,
    ) -> Outcome:
        """Start a seed in an empty slot.

        Args:
            blueprint: a built-in or registered one; on a span ``widen``, ``widen_eighth``, ``_quarter`` or ``_half``.
            tempo: ticks of the first ramp, once the seed blends in; 0: at its target from its first step.
            target: amplitude that it leads to, in (0, 1].
            channels: number of new channels; with ``widen`` only.
            closure: runs the model on a batch and returns the loss; for a gradient-informed start.

        Raises:
            LifecycleError: if the slot is occupied or cooling down.
            ValueError: if the blueprint does not exist or does not fit the slot, or a number is out of range.
        """
        name = blueprint.id if isinstance(blueprint, Blueprint) else blueprint
        if not isinstance(name, str):
            raise ValueError(f"a blueprint is a Blueprint or a registered name, got {name!r}")
        if channels is not None:
            if name != WIDEN:
                raise ValueError(f"channels are chosen with the blueprint {WIDEN!r}, got {channels!r} with {name!r}")
            name = widening_name(channels)
        self.cell(slot)
        command = reducer.Germinate(
            self.growth.next_seed_id(slot),
            name,
            GerminationStyle.parse(style),
            tempo,
            target,
        )
        return self._obeyed(slot, self.execute(slot, command, closure=closure))

    def advance(self, slot: str, measured: SeedMeasurements = UNMEASURED) -> Outcome:
        """Advance a seed to the next stage, subject to its gate; see the outcome.

        Raises:
            LifecycleError: if the slot is empty or its seed has nowhere to advance to.
        """
        return self._obeyed(slot, self.execute(slot, reducer.Advance(), measured))

    def retarget(
        self,
        slot: str,
        target: float,
        *,
        ticks: int = 5,
        curve: AlphaCurve = AlphaCurve.LINEAR,
        steepness: float = 12.0,
        style: GerminationStyle | str | None = None,
    ) -> Outcome:
        """Ramp the amplitude of a blending or holding seed to ``target``.

        ``target`` is in (0, 1]; 0 ticks jump.

        Raises:
            LifecycleError: if the seed has no amplitude or it is ramping.
            ValueError: if the target is out of range.
        """
        new = None if style is None else GerminationStyle.parse(style)
        command = reducer.SetAlphaTarget(target, ticks, curve, steepness, new)
        return self._obeyed(slot, self.execute(slot, command))

    def prune(
        self, slot: str, *, ticks: int = 0, curve: AlphaCurve = AlphaCurve.LINEAR, reason: str = "by hand"
    ) -> Outcome:
        """Remove a seed, at once or after a ramp to zero.

        There is a ramp if the seed has amplitude and ``ticks`` > 0.

        Raises:
            LifecycleError: if the slot is empty, or its seed is committed or removed already.
        """
        return self._obeyed(slot, self.execute(slot, reducer.Prune(ticks, curve, reason=reason)))

    def fossilize(self, slot: str, measured: SeedMeasurements) -> Outcome:
        """Commit a holding seed permanently, subject to its gate; see the outcome.

        Raises:
            LifecycleError: if the slot is empty or its seed does not hold.
        """
        return self._obeyed(slot, self.execute(slot, reducer.Fossilize(), measured))

    def fold(self, slot: str) -> Outcome:
        """Fold the committed seed of a span into its layers, which become truly wider.

        The slot is empty then. The output of the model stays as it was. An optimizer keeps its state of all channels,
        old and new, and the span can be widened again.

        Raises:
            LifecycleError: if the slot is empty or its seed is not committed.
            ValueError: if the slot does not sit on a span, its seed is frozen, or ``DistributedDataParallel`` wraps the
                model. Nothing has changed then.
        """
        return self._obeyed(slot, self.execute(slot, reducer.FoldIn()))

    def execute(
        self,
        slot: str,
        command: reducer.Command,
        measured: SeedMeasurements = UNMEASURED,
        closure: LossClosure | None = None,
    ) -> Outcome:
        """Execute a command; the outcome carries a refusal. If it raises, nothing has changed.

        Raises:
            ValueError: if there is no such slot, or the command carries a value that no state allows.
        """
        self.cell(slot)
        if isinstance(command, reducer.FoldIn):
            self.exchange.check_not_covered(self.host.parameters())
        outcome = self.growth.execute(
            slot, command, measured, None if closure is None else self._in_evaluation_mode(closure)
        )
        self.refresh_places()
        return outcome

    def tick(self, measured: Mapping[str, SeedMeasurements] | None = None) -> dict[str, tuple[LifecycleEvent, ...]]:
        """Advance ramps, cooldowns and automatic gates by one step; events by slot.

        :meth:`epoch_elapsed` does it once per epoch; call this only if your steps are not epochs.

        Args:
            measured: measurements for automatic gates; default: the last ones of :meth:`measure`.
        """
        return self.growth.tick(self.measurer.seeds.by_slot() if measured is None else measured)

    def epoch_elapsed(self) -> dict[str, tuple[LifecycleEvent, ...]]:
        """Count one trained epoch and advance the lifecycle by one tick; events by slot.

        Call it once after each epoch of your loop. Amplitudes move, cooldowns end, automatic gates open.
        """
        self.growth.count_epoch()
        return self.tick()

    def measure(
        self,
        held_out: Any,
        *,
        loss: LossFunction | None = None,
        score: ScoreFunction | None = None,
        examples: int = HELD_OUT_EXAMPLES,
    ) -> dict[str, SeedMeasurements]:
        """Measure every seed on held-out examples, as the gates need it. The model is not changed.

        The contribution of a seed is the score with it minus the score without it, on the same examples, with its
        paired standard error. Gradients are those of the optimizer steps since the last call. The improvement counts
        from the last call before the stage began. Unmeasured values are ``None``.

        Args:
            held_out: a pair (inputs, targets), a mapping, a Dataset, or an iterable of batches such as a DataLoader.
            loss: function of output and targets that returns the mean loss; default: cross-entropy of a classifier,
                or the loss in the model's own output.
            score: function of output and targets that returns one number in [0, 1] per example; default: the share of
                right predictions, or ``1 / (1 + loss / first loss)`` where there are no classes.
            examples: maximum number of examples, from the first.

        Returns:
            Measurements by slot; those of an empty slot are all ``None``.

        Raises:
            ValueError: if there are no examples, the model cannot work on them, or loss or score return something else.
        """
        return self.measurer.measure(self, held_out, Objective(loss, score), examples)

    def place_scores(
        self, batches: Iterable[Any], loss: Callable[[Any], Tensor], *, seed: int = 0
    ) -> dict[str, PlaceScore]:
        """First-order gain that new parameters promise at each slot, empty or not.

        It is computed from a few batches, as :mod:`~esper_ray.kasmina.measurement.places` says. Nothing is changed.

        Args:
            batches: batches of training data, as ``loss`` takes them.
            loss: runs this model on a batch and returns the scalar loss.
            seed: seeds the random features that stand for a seed.

        Raises:
            ValueError: if there is no batch, or the loss does not depend on a slot.
        """
        return place_scores(self, batches, loss, seed=seed)

    # What training and measuring need

    def incubate(self, closure: LossClosure) -> None:
        """Compute gradients of incubating seeds; call it between ``backward`` and ``step``.

        One more pass, in evaluation mode, in which these seeds are on at full amplitude. Each learns from what
        it does to the loss there, with the host and the other seeds held fixed. The gradient reaches nothing
        but these seeds, so the host is trained as if they were not there; it is clipped for each seed, with a
        warning, and added to what they have, as ``backward`` does. Nothing happens without such seeds, or where they
        learn straight through.

        Args:
            closure: runs this model on a batch (a part of it will do) and returns the loss, scaled as yours is.

        Raises:
            ValueError: if that loss carries no gradient.
        """
        if incubate(self, closure):
            self.exchange.after_incubation()

    @contextmanager
    def shadow(self) -> Iterator[None]:
        """Context of evaluation mode with incubating seeds at full amplitude.

        It shows their effect on the loss.
        """
        with shadowed(self):
            yield

    @contextmanager
    def branching(
        self, slots: frozenset[str], coalitions: Collection[frozenset[str]] | None = None
    ) -> Iterator[tuple[frozenset[str], ...]]:
        """Context in which a forward pass computes many coalitions of ``slots`` at once.

        The batch of B rows forks at each of the slots: some blocks of rows skip its seed, some pass it; this is
        it. What lies before the first slot is computed once, and what coalitions have in common after it too.
        Where a shortcut leads around a slot, the whole pass runs on a copy of the batch for each coalition. Where
        rows of a batch influence each other, as in batch normalisation without running statistics, each coalition
        has a pass of its own. The first pass within the context is compared with single passes of few rows to find it,
        unless host and seeds consist of known layers.

        Yields the coalition of each block of B rows of the output. Only for evaluation.

        Args:
            slots: whose seeds are switched; others stay as they are.
            coalitions: subsets of ``slots`` to compute; default: all of them.

        Raises:
            ValueError: if a slot holds no seed that could be switched, or a coalition has other members.
        """
        with switched(self, slots, coalitions) as blocks:
            yield blocks

    def report(self, slot: str, measured: SeedMeasurements = UNMEASURED) -> SlotReport | None:
        """Public report of ``slot``, ``None`` if it is empty.

        Raises:
            ValueError: if the seed's blueprint is neither one of the thirteen built-in ones nor in the place of one.
        """
        parameters, state, own = self.seed_parameters(slot), self.states[slot], self.growth.options.own_blueprints
        return None if state is None else seed_report(slot, state, parameters, measured, own)

    # Storing

    def get_extra_state(self) -> Tensor:
        """The manifest as a tensor of bytes, part of ``state_dict()``."""
        return manifest_tensor(self)

    def set_extra_state(self, state: Any) -> None:
        """Nothing: the seeds of the state were rebuilt before its tensors were loaded."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Rebuild the seeds of a state; the module that loads it may hold this one."""
        rebuild_seeds(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Rebuild the seeds that the state holds, then load all tensors.

        Args:
            strict: every state must fit exactly; without it names of tied tensors may be missing where another of
                their names is there, as in files of safetensors.

        Raises:
            TopologyError: naming every difference, if the state belongs to another host, other slots or other
                shapes. Nothing has changed then.
            ValueError: if ``assign`` would replace the tensors that an optimizer holds.
        """
        if assign:
            raise ValueError("a grown model is loaded with assign=False, got True")
        aliases = {} if strict else tied_values(self, state_dict)
        state = {**state_dict, **aliases} if aliases else state_dict  # a copy would lose the versions of its modules
        result = load_state(self, state, super().load_state_dict)
        return result._replace(missing_keys=[*aliases])

    def save(self, path: str | Path) -> None:
        """Write weights and manifest to one safetensors file, atomically."""
        save_model(self, Path(path))

    def load(self, path: str | Path) -> None:
        """Load a file of :meth:`save`; host and slots must be the same.

        Raises:
            FileNotFoundError: if there is no such file.
            TopologyError: if it is not such a file, or belongs to another model; nothing has changed then.
        """
        load_model(self, Path(path))

    def plain(self) -> nn.Module:
        """A copy as a plain torch module: the host with its committed seeds.

        Submodules keep their class, attributes and tensor names; :meth:`wrap` has tried that it works. Seeds that
        are not committed are left out, with a warning. A decoder with a seed that mixes tokens generates without a
        cache of keys and values, also with a warning. A host of this package is traced: its layers keep their names,
        but lie in the order of their calls.

        Raises:
            ValueError: if the host cannot be copied any more.
        """
        return plain_module(self)

    def drawing(self) -> str:
        """Text diagram of the network, its slots and seeds."""
        return draw(self)

    def _in_evaluation_mode(self, closure: LossClosure) -> LossClosure:
        def loss() -> Tensor:
            with evaluation_mode(self):
                return closure()

        return loss

    def _obeyed(self, slot: str, outcome: Outcome) -> Outcome:
        for event in outcome.events:
            if isinstance(event, Refused):
                raise LifecycleError(f"slot {slot}: {event.reason}")
        return outcome
