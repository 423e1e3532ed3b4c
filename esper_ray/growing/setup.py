"""Set-up of a session: held-out examples, slots, rules, optimizer and policy."""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from esper_policies.bundle import PolicyBundle
from esper_ray.growing.options import SessionOptions
from esper_ray.growing.policies import AnyPolicy, bundle_of, policy_of, training_epochs
from esper_ray.growing.session import GrowthSession
from esper_ray.kasmina.measurement.batches import Batch
from esper_ray.kasmina.measurement.held_out import HELD_OUT_EXAMPLES, HeldOut
from esper_ray.kasmina.measurement.objective import LossFunction, Objective, ScoreFunction
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.attachment import Attachment, attach, check_unwrapped
from esper_ray.kasmina.network.cell import Incubation
from esper_ray.kasmina.network.discovery import found_attachments, slot_table
from esper_ray.kasmina.network.spans.finding import Span
from esper_ray.kasmina.optimizer import GrowingOptimizer, OptionsOf
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import BlendOperator, Blueprint, GerminationStyle
from esper_ray.leyline.blueprints import BLUEPRINTS_OF_TOPOLOGY, Topology
from esper_ray.leyline.config.base import unknown_name_message
from esper_ray.leyline.config.blueprint_names import split_blueprint
from esper_ray.leyline.config.growth import GrowthConfig, InitialisationConfig
from esper_ray.leyline.files.validation import described
from esper_ray.leyline.legality import Limits
from esper_ray.leyline.slots import ordered_slot_ids
from esper_ray.tolaria.assembly import GrowthError, growth_limits, growth_options, lifecycle_rules

EPOCHS, SLOTS, RATE = 40, 3, 1e-3
"""Default length of a growth, maximum number of slots that are found, and learning rate."""
OFFERED = {
    Topology.IMAGES: (Blueprint.CONV_LIGHT, Blueprint.DEPTHWISE, Blueprint.BOTTLENECK, Blueprint.NORM),
    Topology.SEQUENCES: (Blueprint.MLP_SMALL, Blueprint.LORA, Blueprint.NORM),
    Topology.FEATURES: (Blueprint.MLP_SMALL, Blueprint.LORA, Blueprint.NORM),
}
"""Default blueprints by topology; slots of several topologies get those that all of them have."""
WIDENING = ("conv_light=widen_eighth", "conv_small=widen_quarter", "conv_heavy=widen_half")
"""Default blueprints of spans, in the places of built-in ones; policies of rules try the first one first."""


def grow(
    model: nn.Module,
    held_out: Any,
    *,
    epochs: int | None = None,
    policy: AnyPolicy = "heuristic",
    slots: Mapping[str, str | Span] | None = None,
    parameters: int | None = None,
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    groups: OptionsOf | None = None,
    seeds: Mapping[str, Any] | None = None,
    loss: LossFunction | None = None,
    score: ScoreFunction | None = None,
    growth: GrowthConfig | Mapping[str, Any] | None = None,
    clip: float | None = 1.0,
    causal: bool = True,
    examples: int = HELD_OUT_EXAMPLES,
    fold: bool = True,
    settle_at_end: bool = True,
    seed: int = 0,
    report: Callable[[str], object] = print,
    **options: Any,
) -> GrowthSession:
    """Session in which a policy steers the growth of ``model``, which you train.

    Args:
        held_out: a pair (inputs, targets), a mapping, a Dataset or a DataLoader; its first ``examples`` are measured.
        epochs: length of the training; default: the episode length of a bundle's training, else 40.
        policy: ``heuristic``, ``tamiyo`` (a bundle that ships), ``static``, ``random``, ``schedule``,
            ``schedule:FILE``, a bundle or its path, or an object with ``begin_episode`` and ``decide``.
        slots: slot id (``r0c0``) to the name of a submodule, or to a span; default: submodules are found.
        parameters: number of parameters that growth leads to and does not exceed; default: no target.
        optimizer: class of the optimizer; ``options`` are its own, with ``lr=1e-3`` as default.
        groups: what is different for a parameter, by its name and itself; ``seeds``: for live seeds.
        loss: mean loss from output and targets; default: cross-entropy, or the loss in the output.
        score: number in [0, 1] for each example; default: right predictions, else from the loss.
        growth: blueprints, gates and clocks; a mapping changes single ones of the default, or of the bundle's.
        clip: maximum gradient norm of host and of each live seed in ``train_step``; ``None`` for no limit.
        causal: whether tokens see earlier tokens only (sequences); False for encoders.
        fold: whether a committed seed of a span becomes part of its layers at once.
        settle_at_end: whether seeds that live after the last epoch are committed or removed.
        seed: seed of newborn weights and of sampled actions.
        report: function that shows a line of text.

    Raises:
        ValueError: if an argument is not valid (BundleError, GrowthError, ScriptError). The model is unchanged then.
    """
    _check_arguments(model, optimizer, clip)
    length = _length(epochs, bundle := bundle_of(policy))
    data, rules = HeldOut(held_out, model, Objective(loss, score), examples), _growth(growth, bundle, length)
    with _unchanged_by_errors(model):
        places = _foldable(_attachments(model, slots, data, bundle, causal), rules, fold)
        growing, limits = _wrapped(model, places, _fitting(rules, places, bundle, _chosen(growth)), seed)
        its = GrowingOptimizer(growing, optimizer, seeds=seeds, groups=groups, **{"lr": RATE} | options)
        organism, target = Organism(growing, its), _target(parameters, rules, growing)
        settings = SessionOptions(clip, rules.incubation.share, fold, target, settle_at_end)
        player = policy_of(policy, bundle, limits, length, str(organism.device), aimed=target is not None)
        session = GrowthSession(organism, data, player, limits, length, seed=seed, options=settings, report=report)
        _check_start(session, found=slots is None)
    return session


def _check_arguments(model: Any, optimizer: Any, clip: float | None) -> None:
    """Check that ``model`` has parameters with values, and that the optimizer is a class."""
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ValueError(f"model must be a torch.nn.Module, got {kind}")
    if next(model.parameters(), None) is None:
        raise ValueError(f"{type(model).__name__} has no parameters to train")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"parameter {name!r} is on the meta device, without values; load or initialise it first")
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise ValueError(
            f"optimizer must be a class such as torch.optim.AdamW, got a {type(optimizer).__name__}; its options are "
            "named beside it: grow(..., optimizer=torch.optim.SGD, lr=0.1)"
        )
    if clip is not None and not clip > 0.0:
        raise ValueError(f"clip must be above 0, or None for no limit, got {clip}")


def _check_start(session: GrowthSession, *, found: bool) -> None:
    """Check that the loss before any training is a number; report slots that were found."""
    if math.isnan(session.measured.loss):
        raise ValueError(
            f"the loss of {type(session.model.host).__name__} on the held-out examples is nan before any training, so "
            "that there is no healthy state to return to; are its weights finite?"
        )
    if found:
        session.report(slot_table(session.model))


def _length(epochs: int | None, bundle: PolicyBundle | None) -> int:
    """Length of the growth, in epochs."""
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise ValueError(f"epochs must be at least 1, a whole number, got {epochs!r}")
    return epochs or (EPOCHS if bundle is None else bundle.manifest.provenance.episode_length)


def _attachments(
    model: nn.Module, slots: Mapping[str, str | Span] | None, data: HeldOut, bundle: PolicyBundle | None, causal: bool
) -> list[Attachment]:
    """Slots that are named, or found.

    Found ones are at most three, or as many as the bundle was trained with, on features that it knows.
    """
    example = example_input(data.example)
    if slots is not None and not isinstance(slots, Mapping):
        raise ValueError(f'slots maps slot ids to places, as {{"r0c0": "layer1"}}, got a {type(slots).__name__}')
    if slots is not None:
        check_unwrapped(model)
        return attach(model, slots, example, causal=causal)
    if bundle is None:
        return found_attachments(model, example, tuple(Topology), SLOTS, causal=causal)
    manifest = bundle.manifest
    return found_attachments(model, example, manifest.topologies, len(manifest.growth.slots), causal=causal)


def _wrapped(
    model: nn.Module, attachments: list[Attachment], rules: GrowthConfig, seed: int
) -> tuple[MorphogeneticModel, Limits]:
    """``model`` with slots, under ``rules``, and the limits of its growth."""
    growing = MorphogeneticModel(
        model,
        attachments,
        rules=lifecycle_rules(rules),
        options=growth_options(rules),
        incubation=Incubation(rules.incubation.method, rules.incubation.weight, rules.incubation.bound, None),
        seed=seed,
    )
    return growing, growth_limits(rules, growing)


def _chosen(growth: GrowthConfig | Mapping[str, Any] | None) -> Container[str]:
    """Keys of ``growth`` that the caller chose."""
    return set(growth or ()) if not isinstance(growth, GrowthConfig) else set(GrowthConfig.model_fields)


def _fitting(
    rules: GrowthConfig, attachments: Sequence[Attachment], bundle: PolicyBundle | None, chosen: Container[str]
) -> GrowthConfig:
    """``rules`` for these slots.

    Args:
        chosen: keys that stay; default blueprints and styles are those that fit all slots, unless a bundle has its own.

    Raises:
        BundleError: if the bundle was not trained on the features of the slots.
        GrowthError: if some slots sit on spans, others do not.
    """
    update: dict[str, Any] = {"slots": ordered_slot_ids([at.slot for at in attachments])}
    if bundle is not None:
        bundle.check_serves({at.slot: at.shape.topology for at in attachments})
        if "blueprints" not in chosen:
            update["blueprints"] = _learned(rules, attachments)
        return rules.model_copy(update=update)
    if "blueprints" not in chosen:
        update["blueprints"] = _offered(attachments)
    if "styles" not in chosen and all(at.region is not None for at in attachments):
        update["styles"] = tuple(style for style in rules.styles if _adds(style))
    return rules.model_copy(update=update)


def _learned(rules: GrowthConfig, attachments: Sequence[Attachment]) -> tuple[str, ...]:
    """Blueprints of a policy without built-in ones that a slot cannot hold: a mix of tasks has those of all topologies.

    All are returned if none would be left, so that the error names one.
    """
    topologies = {at.shape.topology for at in attachments}
    fitting = tuple(
        entry
        for entry in rules.blueprints
        if split_blueprint(entry)[1] is not None
        or all(split_blueprint(entry)[0] in BLUEPRINTS_OF_TOPOLOGY[topology] for topology in topologies)
    )
    return fitting or rules.blueprints


def _adds(style: str) -> bool:
    return GerminationStyle.from_id(style).operator is BlendOperator.ADD


def _offered(attachments: Sequence[Attachment]) -> tuple[str, ...]:
    """Default blueprints that fit all slots.

    Raises:
        GrowthError: if some slots sit on spans, others do not.
    """
    on_span = {at.slot: at.region is not None for at in attachments}
    if all(on_span.values()):
        return WIDENING
    if any(on_span.values()):
        first = {on: next(slot for slot, value in on_span.items() if value is on) for on in (True, False)}
        raise GrowthError(
            f"slot {first[True]} sits on a span and slot {first[False]} does not: a policy chooses from one list of "
            "blueprints, which must fit every slot; grow the spans in one session, other slots in another"
        )
    offers = [OFFERED[at.shape.topology] for at in attachments]
    return tuple(b.id for b in Blueprint if all(b in offer for offer in offers))


def _target(parameters: int | None, rules: GrowthConfig, model: MorphogeneticModel) -> int | None:
    """Target of the growth: ``parameters``, or that of the rules.

    Raises:
        ValueError: unless it is a whole number, at least the parameters of the host; if both are given and differ.
    """
    if parameters is None:
        parameters = rules.target_parameters or None
    elif rules.target_parameters not in (0, parameters):
        raise ValueError(
            f"parameters is {parameters!r} and growth.target_parameters {rules.target_parameters}; give one of the two"
        )
    if parameters is None:
        return None
    if isinstance(parameters, bool) or not isinstance(parameters, int) or parameters < model.host_parameters:
        raise ValueError(
            f"parameters is a whole number, at least the {model.host_parameters:,} of the model, got {parameters!r}"
        )
    return parameters


def example_input(batch: Batch) -> Any:
    """Arguments of a batch as one example input: a tensor, a tuple or a mapping."""
    if batch.kwargs:
        return dict(batch.kwargs)
    return batch.args[0] if len(batch.args) == 1 else batch.args


def _growth(given: GrowthConfig | Mapping[str, Any] | None, bundle: PolicyBundle | None, epochs: int) -> GrowthConfig:
    """Rules of growth: those that are given, of the bundle, or the default for this length.

    Raises:
        ValueError: if a key or value is not valid.
    """
    if isinstance(given, GrowthConfig):
        return _startable(given)
    base = default_growth(epochs) if bundle is None else bundle.manifest.growth
    unknown = [name for name in given or () if name not in GrowthConfig.model_fields]
    if unknown:
        raise ValueError(unknown_name_message("key of growth", unknown[0], list(GrowthConfig.model_fields)))
    try:
        rules = GrowthConfig.model_validate(base.model_dump(mode="json") | dict(given or {}))
    except ValidationError as error:
        raise ValueError(f"growth.{described(error)}") from error
    return _startable(rules)


def _foldable(places: list[Attachment], rules: GrowthConfig, fold: bool) -> list[Attachment]:
    """``places``, whose committed seeds can be folded if that is asked for.

    Raises:
        GrowthError: if they are frozen.
    """
    if fold and rules.freeze_fossils and any(at.region is not None for at in places):
        raise GrowthError(
            "growth.freeze_fossils: a frozen seed cannot become part of layers that train; give fold=False, or freeze "
            "nothing"
        )
    return places


def _startable(rules: GrowthConfig) -> GrowthConfig:
    """``rules``, whose seeds can be born between two epochs, without a loss.

    Raises:
        ValueError: if seeds of a style start with gradmax.
    """
    for style, start in rules.initialisation.model_dump().items():
        if start in ("gradmax", "tiny"):
            raise ValueError(
                f"growth.initialisation.{style}: {start} needs a loss at birth, and a session has none "
                f"between epochs; take {'paired' if style == 'widen' else 'zero_scale or zero_output'}"
            )
    return rules


def default_growth(epochs: int) -> GrowthConfig:
    """Default rules for a growth of ``epochs`` epochs: a tenth of them in TRAINING, at most 4; automatic gates.

    Newborn seeds start with a zero last layer: a growth is often short, and a scale alone learns slowly.
    """
    dwell = training_epochs(epochs)
    return GrowthConfig(
        auto_forward=("g1", "g2", "g3"),
        min_training_epochs=dwell,
        min_blending_epochs=dwell,
        initialisation=InitialisationConfig.model_validate({style.id: "zero_output" for style in GerminationStyle}),
    )


@contextmanager
def _unchanged_by_errors(model: nn.Module) -> Iterator[None]:
    """Context that removes new hooks of ``model`` again if anything raises."""
    before = [set(hooks) for hooks in _hooks(model)]
    try:
        yield
    except BaseException:
        for hooks, keys in zip(_hooks(model), before, strict=True):
            for key in hooks.keys() - keys:
                del hooks[key]
        raise


def _hooks(model: nn.Module) -> list[dict[int, Any]]:
    """Tables of the hooks around the forward passes of all submodules."""
    names = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    return [getattr(module, name) for module in model.modules() for name in names]
