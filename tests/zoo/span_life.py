"""The life of seeds on every span of an architecture: from the search to the export of the folded network."""

import warnings

import torch
from torch import nn
from zoo_life import READY, WORTHY, Architecture, Exports, check_close, check_equal, loss_of, require, run

from esper_ray.kasmina import GrowingOptimizer, MorphogeneticModel, SpanError, find_spans


def widen(architecture: Architecture, *, export: bool) -> dict[str, str]:
    """What came of the spans: their number, then ``ok``, ``host`` or the reason for each export.

    Raises:
        AssertionError: if a step is wrong.
    """
    torch.manual_seed(0)
    host = architecture.build().eval()
    inputs = architecture.example()
    try:
        spans = find_spans(host, inputs)
    except SpanError as error:
        return {"spans": "0", "reason": " ".join(str(error).split())[:160]}
    bare = run(host, inputs)
    slots = {f"r{index // 8}c{index % 8}": span for index, span in enumerate(spans)}
    model = MorphogeneticModel.wrap(
        host, slots, inputs, rules=READY, causal=architecture.causal, layout=architecture.layout
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _live(model, inputs, bare)
        result = {"spans": str(len(spans))}
        if export:
            exports = Exports(architecture, model, inputs)
            result |= {"export": exports.export() or "ok", "onnx": exports.onnx() or "ok"}
    return result


def _live(model: MorphogeneticModel, inputs: object, bare: list[torch.Tensor]) -> None:
    """Birth, three steps, blending, commitment, folding."""
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=1e-3)
    for slot in model.slot_ids:
        require(model.germinate(slot, "widen", channels=model.cell(slot).region.blocks, style="linear_add", tempo=1))
        require(model.advance(slot))
    check_equal(run(model, inputs), bare)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        model.incubate(lambda: loss_of(model, inputs))
        optimizer.step()
    for slot in model.slot_ids:
        weight = model.cell(slot).seed.consumer.weight
        with torch.no_grad():
            weight += 0.01
        require(model.advance(slot, WORTHY))
    model.tick()
    for slot in model.slot_ids:
        require(model.advance(slot, WORTHY))
        require(model.fossilize(slot, WORTHY))
    expected, plain = run(model, inputs), model.plain()
    check_close(run(plain, inputs), expected)
    ours = [type(part).__name__ for part in plain.modules() if type(part).__module__.startswith("esper_ray")]
    require(not ours, f"modules of this package are left: {ours}")
    _check_layers(plain, model.host)
    for slot in model.slot_ids:
        require(model.fold(slot))
    check_close(run(model, inputs), expected)
    _check_sizes(plain)
    model.train()
    optimizer.zero_grad()
    loss_of(model, inputs).backward()
    optimizer.step()


def _check_layers(plain: nn.Module, host: nn.Module) -> None:
    """Check that both have the same layers by name.

    A traced host lists them in the order of its calls, and a layer whose tensors alone it reads has become their
    container.
    """
    ours, theirs = (
        {name: layer for name, layer in net.named_modules() if not any(layer.children())} for net in (plain, host)
    )
    require(ours.keys() == theirs.keys(), "the plain network has other layers than the host")
    for name, layer in ours.items():
        same = layer.state_dict().keys() == theirs[name].state_dict().keys()
        require(same and type(layer) in (type(theirs[name]), nn.Module), f"{name} is {layer} in the plain network")


def _check_sizes(plain: nn.Module) -> None:
    """Check that layers say the sizes that their weights have."""
    for layer in plain.modules():
        if isinstance(layer, nn.Linear) and type(layer) is nn.Linear:
            require(layer.weight.shape == (layer.out_features, layer.in_features), str(layer))
        if isinstance(layer, nn.Conv2d) and not hasattr(layer, "parametrizations"):
            require(layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups), str(layer))
