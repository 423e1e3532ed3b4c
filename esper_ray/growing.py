"""Growth of a user's model by a trained policy, without Ray.

growing = grow(model, (held_out_images, labels), policy="tamiyo.esper", epochs=30)
for step in growing:                   # the policy acts
    for x, y in batches:               # you train an epoch, as you always do
        growing.optimizer.zero_grad()
        cross_entropy(growing.model(x), y).backward()
        growing.model.incubate(lambda: cross_entropy(growing.model(x), y))
        growing.optimizer.step()
    print(step)
grown = growing.model.plain()
"""

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper_policies.bundle import PolicyBundle, load_bundle
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.attachment import attach
from esper_ray.kasmina.network.cell import Incubation
from esper_ray.kasmina.network.discovery import find_slots
from esper_ray.kasmina.network.growth import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import Action, Blueprint, LifecycleOp
from esper_ray.leyline.config.run import GovernorConfig, GrowthConfig, MeasurementConfig
from esper_ray.leyline.records import Measurement
from esper_ray.leyline.stages import Stage
from esper_ray.runtime.health import HealthMonitor
from esper_ray.runtime.held_out import HeldOut, Pairs
from esper_ray.runtime.host import HostRuntime
from esper_ray.runtime.signals import SignalHistory
from esper_ray.tolaria.assembly import growth_limits, lifecycle_rules
from esper_ray.tolaria.measurement.gradients import GradientWatch

DEFAULT_OPTIONS = {"lr": 0.05, "momentum": 0.9}
"""Options of the optimizer for the host."""


@dataclass(frozen=True, slots=True)
class Step:
    """Action of the policy before an epoch, with the state of the network."""

    epoch: int
    """Index of the next epoch to train, counted from 0."""
    operation: str
    slot: str | None
    """Slot of the operation; ``None`` for WAIT."""
    blueprint: str | None
    """Blueprint of the germinated seed; ``None`` for other operations."""
    success: bool
    """Whether the operation took effect; a gate may refuse it."""
    val_loss: float
    val_accuracy_pp: float
    """Accuracy on the held-out examples before the epoch."""
    parameters: int
    """Parameters of host and seeds."""
    restored: str | None = None
    """Reason of a rollback after the previous epoch; ``None`` without a rollback."""

    def __str__(self) -> str:
        done = "" if self.slot is None else f"  {self.operation} {self.slot}"
        done += "" if self.blueprint is None else f" {self.blueprint}"
        done += "" if self.success else " (refused)"
        done += "" if self.restored is None else f"  restored: {self.restored}"
        return f"epoch {self.epoch:3d}  held out {self.val_accuracy_pp:5.1f} %  {self.parameters:,} parameters{done}"


class GrowthSession:
    """Session of a model under a policy: an iterator with one epoch per iteration.

    The policy acts before each epoch; the caller trains the epoch in the body of the loop; after it the model is
    measured and judged. A governor restores model and optimizer to their last healthy state if a loss is not finite or
    diverges, or if the committed accuracy collapses.
    """

    def __init__(
        self, organism: Organism, held_out: HeldOut, bundle: PolicyBundle, *, epochs: int, greedy: bool, seed: int
    ) -> None:
        growth = bundle.manifest.growth.model_copy(update={"slots": organism.model.slot_ids})
        self.limits = growth_limits(growth, organism.model)
        self.epochs = epochs
        self.history: list[Step] = []
        self._organism = organism
        self._policy = bundle.player(str(organism.device), greedy=greedy)
        self._policy.begin_episode(seed)
        self._watch = GradientWatch(organism)
        self.runtime = HostRuntime(
            HealthMonitor(
                organism,
                held_out,
                held_out.targets,
                measurement=MeasurementConfig(),
                governor=GovernorConfig(snapshot_every=1),
                seed=seed,
                epochs=epochs,
            )
        )
        self._signals = SignalHistory.start(epochs, self.measured)
        self._restored: str | None = None

    @property
    def model(self) -> MorphogeneticModel:
        """The growing model; ``model.plain()`` is an ordinary module."""
        return self._organism.model

    @property
    def optimizer(self) -> GrowingOptimizer:
        """The optimizer of the growing model. Step it in your loop."""
        return self._organism.optimizer

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return self.runtime.epoch

    @property
    def measured(self) -> Measurement:
        """The last pass over the held-out examples."""
        return self.runtime.measured

    def __iter__(self) -> Iterator[Step]:
        """One step before each remaining epoch.

        Raises:
            RuntimeError: if an epoch had no step of :attr:`optimizer`.
        """
        while self.epoch < self.epochs:
            action, success = self._act()
            self.model.train()
            yield self.history[-1]
            self._judge(action, success)

    def _act(self) -> tuple[Action, bool]:
        """The policy's action, and whether it took effect; appends a step to the history."""
        model = self.model
        action = self._policy.decide(self._signals.view(self.epoch, self.runtime.reports(), self.limits)).action
        success, _ = self.runtime.execute(action)
        self.runtime.tick()
        operation = action.operation
        step = Step(
            epoch=self.epoch,
            operation=operation.name,
            slot=None if operation is LifecycleOp.WAIT else model.slot_ids[action.slot],
            blueprint=Blueprint(action.blueprint).id if operation is LifecycleOp.GERMINATE else None,
            success=success,
            val_loss=self.measured.loss,
            val_accuracy_pp=self.measured.accuracy_pp,
            parameters=model.total_parameters,
            restored=self._restored,
        )
        self.history.append(step)
        return action, success

    def _judge(self, action: Action, success: bool) -> None:
        """Measure and judge the user's epoch after ``action``; a broken network is restored."""
        if not self._watch.steps:
            raise RuntimeError(
                f"epoch {self.epoch} had 0 steps of growing.optimizer, at least 1 is needed; train with it"
            )
        gradients = self._watch.collect()
        self._warn_about_missing(gradients)
        self.model.epoch_elapsed()
        verdict = self.runtime.judge(None, gradients)
        self._restored = verdict.reason if verdict.panic else None
        if verdict.panic:
            self.runtime.roll_back(verdict)
        self.runtime.epoch += 1
        self._signals = self._signals.after(action.operation, success and not verdict.panic, self.measured)

    def _warn_about_missing(self, gradients: Collection[str]) -> None:
        for slot, state in self.model.states.items():
            if state is not None and state.stage is Stage.TRAINING and slot not in gradients:
                warnings.warn(
                    f"the seed in {slot} got no gradient in epoch {self.epoch}; call growing.model.incubate(closure) "
                    "between backward() and step()",
                    stacklevel=4,
                )


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
    """Session in which a trained policy steers the growth of ``model``.

    You train the model.

    Args:
        model: any classifier that yields (B, classes) or (B, T, classes) logits. It gets slots; its code stays.
        data: held-out examples for the policy's measurements; never train on them. Two tensors, or batches of them.
        policy: a bundle, or a file written by `esper export-policy`.
        slots: slot id (``r0c0``) to the name of a submodule; default: the last large parts of the model, as many as
            the policy was trained with.
        epochs: length of the training; default: the episode length of the policy's training.
        optimizer: class of the optimizer.
        host: its options for the host; default: learning rate 0.05 and momentum 0.9.
        seeds: options that differ for live seeds.
        causal: whether tokens see earlier tokens only (sequences); False for encoders.
        examples: maximum number of held-out examples, from the first.
        greedy: choose the most probable action; False samples.
        seed: seed of newborn weights and of sampled actions.

    Raises:
        BundleError: if the policy cannot be read, or was not trained on the features of the slots.
        ValueError: if slots, data, ``epochs`` or ``examples`` are not valid.
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
    held_out.fit_classes(model)
    example = held_out.inputs[:2]
    places = find_slots(model, example, manifest.topologies, len(growth.slots)) if slots is None else slots
    attachments = attach(model, places, example, causal=causal)
    bundle.check_serves({attachment.slot: attachment.shape.topology for attachment in attachments})
    growing = _wrap(model, places, example, growth, causal=causal, seed=seed)
    organism = Organism(growing, GrowingOptimizer(growing, optimizer, seeds=seeds, **(host or DEFAULT_OPTIONS)))
    return GrowthSession(organism, held_out, bundle, epochs=length, greedy=greedy, seed=seed)


def _wrap(
    model: nn.Module, places: Mapping[str, str], example: Tensor, growth: GrowthConfig, *, causal: bool, seed: int
) -> MorphogeneticModel:
    """``model`` with slots, under the rules of ``growth``; newborn weights are random for every style."""
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
