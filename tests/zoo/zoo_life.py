"""The whole life of seeds in one architecture: from wrapping to the export of the grown network."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper_ray.kasmina.lifecycle.gates import GateRules
from esper_ray.kasmina.lifecycle.reducer import Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.network.attachment import call
from esper_ray.kasmina.network.places.outputs import tensors_in
from esper_ray.kasmina.optimizer import GrowingOptimizer
from esper_ray.leyline.blueprints import Topology
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import Stage

BLUEPRINTS = {
    Topology.IMAGES: ("conv_light", "bottleneck"),
    Topology.SEQUENCES: ("mlp_small", "lora"),
    Topology.FEATURES: ("mlp_small", "norm"),
}
WORTHY = SeedMeasurements(exploding=False, gradient_health=1.0, finite=True, contribution_pp=2.0)
READY = Rules(GateRules(min_training_epochs=0))
STEPS = ("wrap", "birth", "train", "blend", "hold", "copy", "save", "fossilise", "plain", "export", "onnx")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A host with places for slots."""

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    """Inputs for two examples, drawn from torch's global generator."""
    places: tuple[str, ...]
    """Submodules that carry slots."""
    refused: str | None = None
    """Reason that `wrap` gives, as a regular expression; ``None`` if the architecture grows."""
    layout: str | None = None
    """What `wrap` is told about the layout; ``None`` where it is found."""
    causal: bool = False
    """Whether tokens see earlier tokens only."""


@dataclass(slots=True)
class Life:
    """What came of it."""

    layouts: tuple[str, ...] = ()
    steps: dict[str, str] = field(default_factory=dict)
    """Step to ``ok``, ``host`` where the host alone fails, or the error."""

    @property
    def failed(self) -> dict[str, str]:
        """The steps that are wrong."""
        return {step: result for step, result in self.steps.items() if result not in ("ok", "host")}


def live(architecture: Architecture, *, until: str = "onnx") -> Life:
    """The life of seeds at the places of ``architecture``, up to the step ``until``. The first wrong step ends it.

    Raises:
        ValueError: if `wrap` refuses it.
    """
    life = Life()
    torch.manual_seed(0)
    host = architecture.build().eval()
    inputs = architecture.example()
    bare = run(host, inputs)
    model = _wrapped(architecture, host, inputs)
    life.layouts = tuple(at.layout.value for at in model.attachments.values())
    for step, action in _actions(architecture, model, inputs, bare):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                life.steps[step] = action() or "ok"
        except Exception as error:  # whatever the code of a host raises
            life.steps[step] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            break
        if step == until:
            break
    return life


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Floating-point outputs of an evaluation pass."""
    model.eval()
    with torch.no_grad():
        torch.manual_seed(1)
        return _floats(call(model, inputs))


def _wrapped(architecture: Architecture, host: nn.Module, inputs: Any) -> MorphogeneticModel:
    slots = {f"r0c{index}": place for index, place in enumerate(architecture.places)}
    return MorphogeneticModel.wrap(
        host, slots, inputs, rules=READY, causal=architecture.causal, layout=architecture.layout
    )


def _actions(
    architecture: Architecture, model: MorphogeneticModel, inputs: Any, bare: list[Tensor]
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=1e-3)
    yield "wrap", lambda: check_equal(run(model, inputs), bare)
    yield "birth", lambda: _give_birth(model, inputs, bare)
    yield "train", lambda: _train(model, optimizer, inputs)
    yield "blend", lambda: _blend(model, inputs)
    yield "hold", lambda: _hold(model)
    yield "copy", lambda: check_equal(run(copy.deepcopy(model), inputs), run(model, inputs))
    yield "save", lambda: _save(architecture, model, inputs)
    yield "fossilise", lambda: _fossilise(model)
    yield "plain", lambda: _plain(model, inputs)
    exports = Exports(architecture, model, inputs)
    yield "export", exports.export
    yield "onnx", exports.onnx


def _give_birth(model: MorphogeneticModel, inputs: Any, bare: list[Tensor]) -> None:
    for index, slot in enumerate(model.slot_ids):
        blueprint = BLUEPRINTS[model.cell(slot).shape.topology][index % 2]
        require(model.germinate(slot, blueprint, style=("linear_add", "gated_gate")[index % 2], tempo=1))
        require(model.advance(slot))
    check_equal(run(model, inputs), bare)


def _train(model: MorphogeneticModel, optimizer: GrowingOptimizer, inputs: Any) -> None:
    before = {slot: model.cell(slot).seed.scale.detach().clone() for slot in model.slot_ids}
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        model.incubate(lambda: loss_of(model, inputs))
        optimizer.step()
    for slot, scale in before.items():
        require(not torch.equal(scale, model.cell(slot).seed.scale), f"the seed in {slot} has not learned")
        with torch.no_grad():
            model.cell(slot).seed.scale.add_(0.01)


def loss_of(model: nn.Module, inputs: Any) -> Tensor:
    return torch.stack([(part.float() - 1.0).pow(2).mean() for part in _floats(call(model, inputs))]).mean()


def _blend(model: MorphogeneticModel, inputs: Any) -> None:
    before = run(model, inputs)
    for slot in model.slot_ids:
        require(model.advance(slot, WORTHY))
    model.tick()
    after = run(model, inputs)
    require(any(not torch.equal(one, other) for one, other in zip(before, after, strict=True)), "nothing changes")


def _hold(model: MorphogeneticModel) -> None:
    for slot in model.slot_ids:
        require(model.advance(slot, WORTHY))
        require(model.states[slot].stage is Stage.HOLDING, "the seed does not hold")


def _save(architecture: Architecture, model: MorphogeneticModel, inputs: Any) -> None:
    torch.manual_seed(5)
    other = _wrapped(architecture, architecture.build().eval(), inputs)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        other.load(Path(folder) / "model")
    check_equal(run(other, inputs), run(model, inputs))


def _fossilise(model: MorphogeneticModel) -> None:
    for slot in model.slot_ids:
        require(model.fossilize(slot, WORTHY))


def _plain(model: MorphogeneticModel, inputs: Any) -> None:
    plain = model.plain()
    ours = [type(part).__name__ for part in plain.modules() if type(part).__module__.startswith("esper_ray")]
    require(not ours, f"modules of this package are left: {ours}")
    expected = run(model, inputs)
    check_close(run(plain, inputs), expected)
    check_close(run(copy.deepcopy(plain), inputs), expected)
    count = sum(parameter.numel() for parameter in plain.parameters())
    require(count == model.total_parameters, f"{count} parameters instead of {model.total_parameters}")
    plain.train()
    loss_of(plain, inputs).backward()


class Exports:
    """Exports of the grown network; ``host`` where the host alone cannot be exported."""

    def __init__(self, architecture: Architecture, model: MorphogeneticModel, inputs: Any) -> None:
        self.architecture, self.model, self.inputs = architecture, model, inputs
        self.program: torch.export.ExportedProgram | None = None

    def export(self) -> str | None:
        """Compare the program of ``torch.export`` with the plain module."""
        plain = self.model.eval().plain().eval()
        try:
            program = _exported(plain, self.inputs)
        except Exception:  # whatever the code of a host raises
            if self._host_alone(lambda host: _exported(host, self.inputs)):
                raise
            return "host"
        self.program = program
        check_close(run(_Called(program.module()), self.inputs), run(plain, self.inputs), 1e-3)
        return None

    def onnx(self) -> str | None:
        """Compare the ONNX file of the program with the grown network."""
        if self.program is None:
            return "host"
        try:
            outputs = _onnx(self.program, self.inputs)
        except Exception:  # see above
            if self._host_alone(lambda host: _onnx(_exported(host, self.inputs), self.inputs)):
                raise
            return "host"
        check_close(outputs, run(self.model, self.inputs), 1e-3)
        return None

    def _host_alone(self, export: Callable[[nn.Module], Any]) -> bool:
        """Whether ``export`` works on the host without slots."""
        torch.manual_seed(0)
        try:
            export(self.architecture.build().eval())
        except Exception:  # see above
            return False
        return True


def _exported(module: nn.Module, inputs: Any) -> torch.export.ExportedProgram:
    args, kwargs = _arguments(inputs)
    with torch.no_grad():
        return torch.export.export(module, args, kwargs)


class _Called(nn.Module):
    """An exported module, which has no modes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.program = [module]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program[0](*args, **kwargs)


def _onnx(program: torch.export.ExportedProgram, inputs: Any) -> list[Tensor]:
    import onnxruntime

    args, kwargs = _arguments(inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grown.onnx"
        torch.onnx.export(program, args, path, kwargs=kwargs, dynamo=True, verbose=False, optimize=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        values = [tensor.numpy() for tensor in tensors_in([*args, *kwargs.values()])]
        names = [entry.name for entry in session.get_inputs()]
        outputs = session.run(None, dict(zip(names, values, strict=True)))
    return _floats([torch.from_numpy(output) for output in outputs])


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _floats(output: Any) -> list[Tensor]:
    if not isinstance(output, Tensor | tuple | list | dict):
        output = list(vars(output).values())
    return [part for part in tensors_in(output) if part.is_floating_point()]


def check_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    require(len(actual) == len(expected), "another number of outputs")
    for one, other in zip(actual, expected, strict=True):
        require(torch.equal(one, other), f"outputs differ by {(one - other).abs().max():.2g}")


def check_close(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    require(len(actual) == len(expected), "another number of outputs")
    for one, other in zip(actual, expected, strict=True):
        difference = (one - other).abs().max().item()
        limit = tolerance * max(1.0, other.abs().max().item())
        require(one.shape == other.shape and difference <= limit, f"outputs differ by {difference:.2g}")


def require(condition: Any, message: str = "refused") -> None:
    if not condition:
        raise AssertionError(message if message != "refused" else str(condition))
