"""Set-up of a session: held-out examples, slots, rules, optimizer and policy."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from esper_ray.growing.policies import AnyPolicy, bundle_of, policy_of
from esper_ray.growing.session import GrowthSession, StepOptions
from esper_ray.kasmina.measurement.batches import Batch
from esper_ray.kasmina.measurement.held_out import HELD_OUT_EXAMPLES, HeldOut
from esper_ray.kasmina.measurement.objective import LossFunction, Objective, ScoreFunction
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.attachment import SlotHook
from esper_ray.kasmina.network.cell import Incubation
from esper_ray.kasmina.network.discovery import find_slots, slot_table
from esper_ray.kasmina.network.growth import GrowthOptions
from esper_ray.kasmina.optimizer import GrowingOptimizer, OptionsOf
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.run import GrowthConfig
from esper_ray.leyline.slots import ordered_slot_ids
from esper_ray.tolaria.assembly import growth_limits, lifecycle_rules

EPOCHS, SLOTS, RATE = 40, 3, 1e-3
"""Default length of a growth, maximum number of slots that are found, and learning rate."""
OFFERED = {
    Topology.IMAGES: (Blueprint.CONV_LIGHT, Blueprint.DEPTHWISE, Blueprint.BOTTLENECK, Blueprint.NORM),
    Topology.SEQUENCES: (Blueprint.MLP_SMALL, Blueprint.LORA, Blueprint.NORM),
    Topology.FEATURES: (Blueprint.MLP_SMALL, Blueprint.LORA, Blueprint.NORM),
}
"""Default blueprints by topology; slots of several topologies get those that all of them have."""


def grow(
    model: nn.Module,
    held_out: Any,
    *,
    epochs: int | None = None,
    policy: AnyPolicy = "heuristic",
    slots: Mapping[str, str] | None = None,
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    groups: OptionsOf | None = None,
    seeds: Mapping[str, Any] | None = None,
    loss: LossFunction | None = None,
    score: ScoreFunction | None = None,
    growth: GrowthConfig | Mapping[str, Any] | None = None,
    clip: float | None = 1.0,
    causal: bool = True,
    examples: int = HELD_OUT_EXAMPLES,
    greedy: bool = True,
    settle_at_end: bool = True,
    seed: int = 0,
    report: Callable[[str], object] = print,
    **options: Any,
) -> GrowthSession:
    """Session in which a policy steers the growth of ``model``, which you train.

    Args:
        model: any module. It gets slots; its code stays.
        held_out: examples for measurements, never for training: a pair (inputs, targets), a mapping of named inputs
            with ``labels``, a Dataset, or an iterable of batches such as a DataLoader.
        epochs: length of the training; default: the episode length of a bundle's training, else 40.
        policy: ``heuristic``, ``tamiyo`` (the bundle that ships), ``static``, ``random``, ``schedule``,
            ``schedule:FILE``, the path of a bundle, a bundle, or an object with ``begin_episode`` and ``decide``.
        slots: slot id (``r0c0``) to the name of a submodule; default: those of
            :func:`~esper_ray.kasmina.network.discovery.find_slots`, at most three or as many as the bundle was trained
            with, which are reported.
        optimizer: class of the optimizer.
        groups: what is different for a parameter, from its name and itself, as in :class:`GrowingOptimizer`.
        seeds: what is different for live seeds, for example ``{"weight_decay": 0.0}``.
        loss: function of output and targets that returns the mean loss; default: cross-entropy of a classifier, or the
            loss in the model's own output.
        score: function of output and targets that returns one number in [0, 1] per example; default: the share of right
            predictions, or ``1 / (1 + loss / first loss)`` where there are no classes.
        growth: blueprints, gates and clocks; a mapping changes single ones of the default, or of the bundle's.
        clip: maximum gradient norm of the host, and of each live seed, in ``train_step``; ``None`` for no limit.
        causal: whether tokens see earlier tokens only (sequences); False for encoders.
        examples: maximum number of held-out examples, from the first.
        greedy: whether a learned policy takes the most probable action; False samples.
        settle_at_end: whether seeds that live after the last epoch are committed or removed.
        seed: seed of newborn weights and of sampled actions.
        report: function that shows a line of text.
        options: options of the optimizer, for example ``lr=1e-3``, which is the default.

    Raises:
        BundleError: if a bundle cannot be read, or was not trained on the features of the slots.
        GrowthError: if a blueprint does not fit a slot.
        ValueError: if model, data, slots, ``epochs``, ``examples`` or options are not valid. The model is unchanged.
    """
    bundle = bundle_of(policy)
    length = epochs or (EPOCHS if bundle is None else bundle.manifest.provenance.episode_length)
    if length < 1 or epochs == 0:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    data = HeldOut(held_out, model, Objective(loss, score), examples)
    example = example_input(data.example)
    trained = None if bundle is None else bundle.manifest.growth
    topologies = tuple(Topology) if bundle is None else bundle.manifest.topologies
    most = SLOTS if trained is None else len(trained.slots)
    places = find_slots(model, example, topologies, most) if slots is None else slots
    rules = _growth(growth, trained, length)
    with _unchanged_by_errors(model):
        growing = MorphogeneticModel.wrap(
            model,
            places,
            example,
            rules=lifecycle_rules(rules),
            options=GrowthOptions(rules.freeze_fossils),
            incubation=Incubation(rules.incubation.method, rules.incubation.weight, rules.incubation.bound),
            seed=seed,
            causal=causal,
        )
        by_slot = {slot: at.shape.topology for slot, at in growing.attachments.items()}
        if bundle is not None:
            bundle.check_serves(by_slot)
        limits = growth_limits(_for_slots(rules, by_slot, offer=trained is None and growth is None), growing)
        organism = Organism(
            growing, GrowingOptimizer(growing, optimizer, seeds=seeds, groups=groups, **{"lr": RATE} | options)
        )
        player = policy_of(policy, bundle, limits, length, str(organism.device), greedy=greedy)
        session = GrowthSession(
            organism,
            data,
            player,
            limits,
            epochs=length,
            seed=seed,
            options=StepOptions(clip, rules.incubation.share),
            settle_at_end=settle_at_end,
            report=report,
        )
    if slots is None:
        report(slot_table(growing))
    return session


def example_input(batch: Batch) -> Any:
    """Arguments of a batch as one example input: a tensor, a tuple or a mapping."""
    if batch.kwargs:
        return dict(batch.kwargs)
    return batch.args[0] if len(batch.args) == 1 else batch.args


def _growth(given: GrowthConfig | Mapping[str, Any] | None, trained: GrowthConfig | None, epochs: int) -> GrowthConfig:
    """Rules of growth: those that are given, of the bundle, or the default for this length.

    Raises:
        ValueError: if a key or value is not valid.
    """
    if isinstance(given, GrowthConfig):
        return given
    base = trained or default_growth(epochs)
    unknown = [name for name in given or () if name not in GrowthConfig.model_fields]
    if unknown:
        raise ValueError(unknown_name_message("key of growth", unknown[0], list(GrowthConfig.model_fields)))
    return GrowthConfig.model_validate(base.model_dump(mode="json") | dict(given or {}))


def default_growth(epochs: int) -> GrowthConfig:
    """Default rules for a growth of ``epochs`` epochs: a tenth of them in TRAINING, at most 4; automatic gates."""
    dwell = max(1, min(4, epochs // 10))
    return GrowthConfig(auto_forward=("g1", "g2", "g3"), min_training_epochs=dwell, min_blending_epochs=dwell)


def _for_slots(rules: GrowthConfig, topologies: Mapping[str, Topology], *, offer: bool) -> GrowthConfig:
    """Rules for the slots of a model.

    Args:
        offer: choose the default blueprints that fit all slots.
    """
    update: dict[str, Any] = {"slots": ordered_slot_ids(topologies)}
    if offer:
        offers = [OFFERED[topology] for topology in topologies.values()]
        common = [blueprint for blueprint in Blueprint if all(blueprint in offer for offer in offers)]
        update["blueprints"] = tuple(blueprint.id for blueprint in common)
    return rules.model_copy(update=update)


@contextmanager
def _unchanged_by_errors(model: nn.Module) -> Iterator[None]:
    """Context that removes the slots of ``model`` again if anything raises."""
    try:
        yield
    except BaseException:
        for module in model.modules():
            for key, hook in list(module._forward_hooks.items()):
                if isinstance(hook, SlotHook):
                    del module._forward_hooks[key]
        raise
