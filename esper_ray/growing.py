"""A trained Tamiyo at the helm of a model and a training loop of your own. No Ray, no environment.

growing = grow(model, (held_out_images, labels), policy="tamiyo.esper", epochs=30)
for step in growing:                   # Tamiyo acts
    for x, y in batches:               # you train an epoch, as you always do
        growing.optimizer.zero_grad()
        cross_entropy(growing.model(x), y).backward()
        growing.model.incubate(lambda: cross_entropy(growing.model(x), y))
        growing.optimizer.step()
    print(step)
grown = growing.model.plain()
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from esper_policies.bundle import PolicyBundle, load_bundle
from esper_ray.kasmina.lifecycle.commands import command_of
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.attachment import attach, evaluation_mode
from esper_ray.kasmina.network.cell import Incubation
from esper_ray.kasmina.network.discovery import find_slots
from esper_ray.kasmina.network.growth import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism, OrganismSnapshot
from esper_ray.leyline.actions import Blueprint, LifecycleOp
from esper_ray.leyline.config.run import GovernorConfig, GrowthConfig
from esper_ray.leyline.legality import legality
from esper_ray.leyline.observation import HISTORY
from esper_ray.leyline.policy import Decision, View
from esper_ray.leyline.records import HostSignals, Measurement
from esper_ray.leyline.stages import Stage
from esper_ray.simic.attribution import interaction_sums, leave_one_out
from esper_ray.tolaria.assembly import growth_limits, lifecycle_rules
from esper_ray.tolaria.governor import Governor
from esper_ray.tolaria.gradients import GradientWatch
from esper_ray.tolaria.measurement import measure
from esper_ray.tolaria.seed_measurements import MeasuredSeeds

Pairs = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Inputs and targets, as two tensors or in batches."""
SGD = {"lr": 0.05, "momentum": 0.9}


@dataclass(frozen=True, slots=True)
class Step:
    """What Tamiyo did before an epoch, and what it went by."""

    epoch: int
    """Counted from 0; the epoch that is to be trained now."""
    operation: str
    slot: str | None
    """None for WAIT."""
    blueprint: str | None
    """Of the seed that was germinated."""
    success: bool
    """Whether it took effect: gates may refuse."""
    val_loss: float
    val_accuracy_pp: float
    """On the held-out examples, before the epoch."""
    parameters: int
    """Of host and seeds."""
    restored: str | None = None
    """Why the network was put back to its last healthy state after the epoch before, if it was."""

    def __str__(self) -> str:
        done = "" if self.slot is None else f"  {self.operation} {self.slot}"
        done += "" if self.blueprint is None else f" {self.blueprint}"
        done += "" if self.success else " (refused)"
        done += "" if self.restored is None else f"  restored: {self.restored}"
        return f"epoch {self.epoch:3d}  held out {self.val_accuracy_pp:5.1f} %  {self.parameters:,} parameters{done}"


class HeldOut:
    """Examples that a model is measured on and never trained on, in memory."""

    def __init__(self, pairs: Pairs, most: int, device: torch.device) -> None:
        """
        Args:
            most: keep so many, from the first.

        Raises:
            ValueError: if there are none, or inputs and targets differ in number.
        """
        is_pair = isinstance(pairs, tuple) and len(pairs) == 2 and all(isinstance(part, Tensor) for part in pairs)
        batches = cast(Iterable[tuple[Tensor, Tensor]], [pairs] if is_pair else pairs)
        inputs, targets = [], []
        for x, y in batches:
            if len(x) != len(y):
                raise ValueError(f"held-out examples: {len(x)} inputs and {len(y)} targets")
            inputs.append(x[:most].to(device))
            targets.append(y[:most].to(device))
            if sum(map(len, targets)) >= most:
                break
        if not targets or not sum(map(len, targets)):
            raise ValueError("a policy goes by held-out examples, but there are none in data")
        self.inputs, self.targets = torch.cat(inputs)[:most], torch.cat(targets)[:most]
        self.classes = 0

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def prepared(self, split: Any, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples ``start`` to ``stop``."""
        return self.inputs[start:stop], self.targets[start:stop]

    def look_at(self, model: nn.Module) -> None:
        """Learn from ``model`` how many classes there are.

        Raises:
            ValueError: if it does not yield (B, classes) or (B, T, classes) logits for these targets.
        """
        with torch.no_grad(), evaluation_mode(model):
            logits = model(self.inputs[:2])
        expected = (*self.targets[:2].shape, "classes")
        if not isinstance(logits, Tensor) or logits.shape[:-1] != self.targets[:2].shape:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the model must yield logits of shape {expected} for these targets, got {got}")
        self.classes = logits.shape[-1]
        if int(self.targets.max()) >= self.classes or int(self.targets.min()) < 0:
            low, high = int(self.targets.min()), int(self.targets.max())
            raise ValueError(f"targets must lie in 0..{self.classes - 1}, the classes of the model; got {low}..{high}")


class GrowthSession:
    """A growing model that Tamiyo steers, epoch by epoch: iterate over it, and train in the body of the loop.

    The policy acts when the next step is asked for, and measures what came of it when the one after is. A
    governor puts model and optimiser back to their last healthy state if a loss is not finite, diverges, or what
    is committed collapses.
    """

    def __init__(
        self, organism: Organism, held_out: HeldOut, bundle: PolicyBundle, *, epochs: int, greedy: bool, seed: int
    ) -> None:
        growth = bundle.manifest.growth.model_copy(update={"slots": organism.model.slot_ids})
        self.limits = growth_limits(growth, organism.model)
        self.epoch, self.epochs = 0, epochs
        self.history: list[Step] = []
        self._organism, self._data = organism, held_out
        self._policy = bundle.player(str(organism.device), greedy=greedy)
        self._policy.begin_episode(seed)
        self._watch, self._vitals = GradientWatch(organism), MeasuredSeeds()
        self.measured: Measurement = self._measured()
        chance_pp = 100.0 / held_out.classes
        guess = float(np.log(held_out.classes))
        self._governor = Governor(GovernorConfig(), guess, chance_pp, self.measured.examples)
        self._losses = deque([self.measured.loss], maxlen=HISTORY)
        self._accuracies = deque([self.measured.accuracy_pp], maxlen=HISTORY)
        self._last_operation, self._last_success = LifecycleOp.WAIT, True
        self._restored: str | None = None
        self._trusted = self._snapshot()

    @property
    def model(self) -> MorphogeneticModel:
        """The growing model; ``model.plain()`` is an ordinary module."""
        return self._organism.model

    @property
    def optimizer(self) -> GrowingOptimizer:
        """The optimiser that follows its growth. Step it in your loop."""
        return self._organism.optimizer

    def __iter__(self) -> Iterator[Step]:
        """One step before each epoch that is left.

        Raises:
            RuntimeError: if an epoch went by without a step of :attr:`optimizer`.
        """
        while self.epoch < self.epochs:
            step = self._act()
            self.history.append(step)
            self.model.train()
            yield step
            self._look_back()

    def _act(self) -> Step:
        model = self.model
        decision = self._decide()
        action, command_slot, blueprint, success = decision.action, None, None, True
        if action.operation is not LifecycleOp.WAIT:
            command_slot = model.slot_ids[action.slot]
            command = command_of(action, model.growth.next_seed_id(command_slot))
            success = model.execute(command_slot, command, self._vitals.of(command_slot)).success
            if action.operation is LifecycleOp.GERMINATE:
                blueprint = Blueprint(action.blueprint).id
        model.tick(self._vitals.by_slot())
        self._last_operation, self._last_success = action.operation, success
        parameters = model.host_parameters + sum(map(model.seed_parameters, model.slot_ids))
        restored, self._restored = self._restored, None
        return Step(
            self.epoch,
            action.operation.name,
            command_slot,
            blueprint,
            success,
            self.measured.loss,
            self.measured.accuracy_pp,
            parameters,
            restored,
        )

    def _decide(self) -> Decision:
        reports = tuple(self.model.report(slot, self._vitals.of(slot)) for slot in self.model.slot_ids)
        signals = HostSignals(
            epoch=self.epoch,
            max_epochs=self.epochs,
            val_loss=self.measured.loss,
            val_accuracy_pp=self.measured.accuracy_pp,
            loss_history=tuple(self._losses),
            accuracy_history_pp=tuple(self._accuracies),
            last_op=int(self._last_operation),
            last_success=self._last_success,
        )
        return self._policy.decide(View.of(signals, reports, legality(reports, self.limits)))

    def _look_back(self) -> None:
        """After an epoch of the user's: count it, measure, and see whether the network is healthy."""
        if not self._watch.steps:
            raise RuntimeError(
                f"epoch {self.epoch} went by without a step of growing.optimizer; train growing.model with it"
            )
        model, gradients, known = self.model, self._watch.collect(), self.measured.accuracy_pp
        learning = [s for s, state in model.states.items() if state is not None and state.stage is Stage.TRAINING]
        for slot in learning:
            if slot not in gradients:
                warnings.warn(
                    f"the seed in {slot} got no gradient in epoch {self.epoch}; call growing.model.incubate(loss_of) "
                    "between backward() and step()",
                    stacklevel=3,
                )
        model.epoch_elapsed()
        self.epoch += 1
        self.measured = self._measured()
        self._vitals = self._vitals.updated(
            model.states,
            known,
            self.measured,
            gradients,
            leave_one_out(self.measured),
            interaction_sums(self.measured),
        )
        self._judge()
        self._losses.append(self.measured.loss)
        self._accuracies.append(self.measured.accuracy_pp)

    def _judge(self) -> None:
        fossils = {slot for slot, state in self.model.states.items() if state and state.stage is Stage.FOSSILIZED}
        committed = self.measured.accuracy_of(frozenset(fossils) & frozenset(self.measured.players))
        verdict = self._governor.judge(self.measured.loss, self.measured.loss, committed)
        if verdict.panic:
            snapshot, self._vitals, self.measured = self._trusted
            self._organism.restore(snapshot)
            self._restored, self._last_success = verdict.reason, False
        elif verdict.healthy:
            self._trusted = self._snapshot()

    def _snapshot(self) -> tuple[OrganismSnapshot, MeasuredSeeds, Measurement]:
        return self._organism.snapshot(), self._vitals, self.measured

    def _measured(self) -> Measurement:
        return measure(self.model, self._data, self._data.targets)


def grow(
    model: nn.Module,
    data: Pairs,
    *,
    policy: str | Path | PolicyBundle,
    slots: Mapping[str, str] | None = None,
    epochs: int | None = None,
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
    host: Mapping[str, Any] | None = None,
    seeds: Mapping[str, Any] | None = None,
    causal: bool = True,
    examples: int = 2000,
    greedy: bool = True,
    seed: int = 0,
) -> GrowthSession:
    """Let a trained Tamiyo steer the growth of ``model`` while you train it.

    Args:
        model: any classifier that yields (B, classes) or (B, T, classes) logits. It gets slots; its code stays.
        data: held-out examples that the policy goes by; never train on them. Two tensors, or batches of them.
        policy: a bundle, or the file that `esper export-policy` wrote.
        slots: slot id (``r0c0``) to the name of a submodule; the last large parts of the model if left out, as many
            as the policy was trained with.
        epochs: length of the training; that of the policy's own training if left out.
        optimizer: class of the optimiser.
        host: its options for the host, SGD with learning rate 0.05 and momentum 0.9 if left out.
        seeds: what is different for live seeds.
        causal: whether tokens may see earlier tokens only (sequences). Say False for encoders.
        examples: keep so many held-out examples, from the first.
        greedy: take the likeliest action; else draw.
        seed: of newborn weights and of draws.

    Raises:
        BundleError: if the policy cannot be read, or has not learnt to grow on what the slots yield.
        ValueError: if slots, data or numbers make no sense.
    """
    bundle = policy if isinstance(policy, PolicyBundle) else load_bundle(Path(policy))
    manifest, growth = bundle.manifest, bundle.manifest.growth
    length = manifest.provenance.episode_length if epochs is None else epochs
    if length < 1 or examples < 1:
        raise ValueError(f"epochs and examples must be at least 1, got {length} and {examples}")
    first = next(model.parameters(), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    held_out = HeldOut(data, examples, first.device)
    held_out.look_at(model)
    example = held_out.inputs[:2]
    places = find_slots(model, example, manifest.topologies, len(growth.slots)) if slots is None else slots
    attachments = attach(model, places, example, causal=causal)
    bundle.check_serves({attachment.slot: attachment.shape.topology for attachment in attachments})
    growing = _wrapped(model, places, example, growth, causal=causal, seed=seed)
    organism = Organism(growing, GrowingOptimizer(growing, optimizer, host=host or SGD, seeds=seeds))
    return GrowthSession(organism, held_out, bundle, epochs=length, greedy=greedy, seed=seed)


def _wrapped(
    model: nn.Module, places: Mapping[str, str], example: Tensor, growth: GrowthConfig, *, causal: bool, seed: int
) -> MorphogeneticModel:
    """``model`` with slots, under the rules of ``growth``; newborn weights are drawn at random in any case."""
    return MorphogeneticModel.wrap(
        model,
        places,
        example,
        rules=lifecycle_rules(growth),
        options=GrowthOptions(growth.freeze_fossils),
        incubation=Incubation(growth.incubation.method, growth.incubation.weight, growth.incubation.bound),
        seed=seed,
        causal=causal,
    )
