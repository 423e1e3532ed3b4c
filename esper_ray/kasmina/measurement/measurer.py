"""Measurements of the seeds of a model that is grown by hand."""

from typing import Any

from esper_ray.kasmina.measurement.coalition_pass import measure_coalitions
from esper_ray.kasmina.measurement.coalition_sampling import chosen_coalitions
from esper_ray.kasmina.measurement.gradients import GradientWatch
from esper_ray.kasmina.measurement.held_out import HeldOut
from esper_ray.kasmina.measurement.objective import Objective
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.kasmina.network.slotted import SlottedNetwork
from esper_ray.leyline.contributions import interaction_sums, leave_one_out
from esper_ray.leyline.records import Measurement, SeedMeasurements


class Measurer:
    """Measurements of one model from call to call: gradients, seeds, and the last pass over held-out examples."""

    def __init__(self) -> None:
        self.watch = GradientWatch()
        self.seeds = MeasuredSeeds()
        self.last: Measurement | None = None
        self._source: tuple[Any, Objective, int] | None = None
        self._held_out: HeldOut | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Measurer":
        """Measurements of a copied model, which begin anew."""
        return Measurer()

    def measure(
        self, model: SlottedNetwork, data: Any, objective: Objective, examples: int
    ) -> dict[str, SeedMeasurements]:
        """See :meth:`~esper_ray.kasmina.model.MorphogeneticModel.measure`."""
        held_out = self._prepared(model, data, objective, examples)
        committed = model.committed_slots
        measured = measure_coalitions(
            model, held_out, lambda players: chosen_coalitions(players, committed, seed=model.growth.epoch)
        )
        self.seeds = self.seeds.updated(
            model.states,
            None if self.last is None else self.last.accuracy_pp,
            measured,
            self.watch.collect(),
            leave_one_out(measured),
            interaction_sums(measured),
        )
        self.last = measured
        return {slot: self.seeds.of(slot) for slot in model.slot_ids}

    def _prepared(self, model: SlottedNetwork, data: Any, objective: Objective, examples: int) -> HeldOut:
        """Held-out examples of ``data``, read once for each loader."""
        known = self._source
        if self._held_out is None or known is None or known[0] is not data or known[1:] != (objective, examples):
            first = None if self._held_out is None or known is None or known[1] != objective else self._held_out
            self._held_out = HeldOut(data, model, objective, examples)
            self._held_out.first_loss = None if first is None else first.first_loss
            self._source = data, objective, examples
        return self._held_out
