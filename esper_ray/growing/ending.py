"""Seeds that are alive at the end of growth: committed or removed."""

from dataclasses import dataclass

from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.leyline.stages import COMMITTED, WITH_MODULE, Stage


@dataclass(frozen=True, slots=True)
class Ending:
    """End of a seed that was alive after the last epoch."""

    slot: str
    blueprint: str
    committed: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.slot} {self.blueprint}: {'committed' if self.committed else 'removed'}, {self.reason}"


def settle(model: MorphogeneticModel, seeds: MeasuredSeeds) -> tuple[Ending, ...]:
    """Commit every live seed at full amplitude that passes gate G5, and remove the others.

    Args:
        seeds: last measurements.
    """
    endings = []
    for slot, state in list(model.states.items()):
        if state is None or state.stage in COMMITTED or state.stage not in WITH_MODULE:
            continue
        measured = seeds.of(slot)
        committed, reason = _committed(model, slot, measured)
        if not committed:
            model.prune(slot, reason="end of growth")
        endings.append(Ending(slot, state.blueprint, committed, reason))
    return tuple(endings)


def shortfall(model: MorphogeneticModel, target: int | None) -> str | None:
    """Line on a target that growth is more than a tenth away from; ``None`` else."""
    if target is None or model.total_parameters >= 0.9 * target:
        return None
    return f"{model.total_parameters:,} parameters, fewer than the {target:,} that growth should lead to"


def _committed(model: MorphogeneticModel, slot: str, measured: SeedMeasurements) -> tuple[bool, str]:
    """Whether the seed in ``slot`` could be committed, and why."""
    state = model.states[slot]
    assert state is not None
    if state.stage is Stage.BLENDING and not state.fading:
        model.advance(slot, measured)
    stage = state.stage if (now := model.states[slot]) is None else now.stage
    if stage is not Stage.HOLDING:
        return False, f"it was in {stage.name}, not at full amplitude"
    outcome = model.fossilize(slot, measured)
    return outcome.success, _contribution(measured) if outcome.success else outcome.message


def _contribution(measured: SeedMeasurements) -> str:
    error = "" if measured.contribution_error_pp is None else f" ± {measured.contribution_error_pp:.1f}"
    return f"contributes {measured.contribution_pp:+.1f}{error} points"
