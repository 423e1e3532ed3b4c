"""Measurements of each live seed, updated step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from esper_ray.kasmina.lifecycle.reducer import SeedState
from esper_ray.kasmina.measurement.gradients import GradientStatistics
from esper_ray.leyline.records import UNMEASURED, Attribution, Estimate, Measurement, SeedMeasurements
from esper_ray.leyline.stages import COMMITTED, WITH_MODULE, Stage

VELOCITY_DECAY = 0.7


@dataclass(frozen=True, slots=True)
class _Entry:
    seed_id: str
    stage: Stage
    baseline_pp: float | None
    """Validation accuracy when the stage began, or at its first measurement if that was not measured."""
    measured: SeedMeasurements = UNMEASURED


@dataclass(frozen=True, slots=True)
class MeasuredSeeds:
    """Measurements by slot, immutable, so that a snapshot is a reference."""

    entries: Mapping[str, _Entry] = field(default_factory=dict)

    def of(self, slot: str) -> SeedMeasurements:
        """Measurements of the seed in ``slot``."""
        entry = self.entries.get(slot)
        return UNMEASURED if entry is None else entry.measured

    def by_slot(self) -> dict[str, SeedMeasurements]:
        """Measurements of every seed."""
        return {slot: entry.measured for slot, entry in self.entries.items()}

    def updated(
        self,
        states: Mapping[str, SeedState | None],
        known_accuracy_pp: float | None,
        measured: Measurement,
        gradients: Mapping[str, GradientStatistics],
        contributions: Mapping[str, Attribution],
        interactions: Mapping[str, float],
    ) -> "MeasuredSeeds":
        """The measurements after one more epoch.

        Args:
            states: lifecycle after the epoch.
            known_accuracy_pp: validation accuracy before the epoch; the baseline of stages entered in this step.
                ``None`` if unknown.
            measured: the pass over the validation split after the epoch.
            gradients: gradient statistics of the epoch, of seeds with a gradient.
            contributions: leave-one-out contribution of each player.
            interactions: summed pair interactions of each measured seed.
        """
        entries = {}
        for slot, state in states.items():
            if state is None or state.stage not in WITH_MODULE:
                continue
            entry = self.entries.get(slot)
            if entry is None or entry.seed_id != state.seed_id:
                entry = _Entry(state.seed_id, state.stage, known_accuracy_pp)
            elif entry.stage is not state.stage:
                entry = replace(entry, stage=state.stage, baseline_pp=known_accuracy_pp)
            learns = state.stage not in COMMITTED and not state.fading
            new = _with_gradients(entry.measured, gradients.get(slot), learns=learns)
            new = _with_contribution(new, contributions.get(slot), interactions.get(slot))
            gain = None if entry.baseline_pp is None else measured.accuracy_pp - entry.baseline_pp
            baseline = measured.accuracy_pp if entry.baseline_pp is None else entry.baseline_pp
            entries[slot] = replace(entry, baseline_pp=baseline, measured=replace(new, improvement_pp=gain))
        return MeasuredSeeds(entries)


def _with_gradients(
    previous: SeedMeasurements, gradients: GradientStatistics | None, *, learns: bool
) -> SeedMeasurements:
    """Measurements with the gradients of the epoch.

    A seed that rests keeps its last ones. One that learns and had none is unmeasured, so that no gate opens on a
    gradient that is no longer there.
    """
    if gradients is None and learns:
        return replace(
            previous,
            gradient_norm=None,
            gradient_ratio=None,
            gradient_health=None,
            previous_gradient_health=previous.gradient_health,
            vanishing=None,
            exploding=None,
            finite=None,
        )
    if gradients is None:
        return replace(previous, previous_gradient_health=previous.gradient_health)
    return replace(
        previous,
        gradient_norm=gradients.norm,
        gradient_ratio=gradients.ratio,
        gradient_health=gradients.health,
        previous_gradient_health=previous.gradient_health,
        vanishing=gradients.vanishing,
        exploding=gradients.exploding,
        finite=gradients.finite,
    )


def _with_contribution(
    previous: SeedMeasurements, contribution: Attribution | None, interaction: float | None
) -> SeedMeasurements:
    if not isinstance(contribution, Estimate):
        age = previous.epochs_since_measured
        return replace(previous, epochs_since_measured=None if age is None else age + 1)
    velocity = None
    if previous.contribution_pp is not None:
        change = contribution.value_pp - previous.contribution_pp
        velocity = VELOCITY_DECAY * (previous.contribution_velocity_pp or 0.0) + (1.0 - VELOCITY_DECAY) * change
    return replace(
        previous,
        contribution_pp=contribution.value_pp,
        contribution_error_pp=contribution.error_pp,
        contribution_velocity_pp=velocity,
        interaction_pp=interaction,
        epochs_since_measured=0,
    )
