"""Health of a growing network: measurements, verdicts and the state for rollbacks."""

from collections.abc import Callable, Mapping
from typing import Protocol

from esper_ray.kasmina.measurement.coalition_pass import Evaluation, measure_coalitions
from esper_ray.kasmina.measurement.coalition_sampling import EXACT_PLAYERS, Chosen, chosen_coalitions, few_coalitions
from esper_ray.kasmina.measurement.gradients import GradientStatistics
from esper_ray.kasmina.measurement.seed_measurements import MeasuredSeeds
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.commitment import committed_accuracy_pp
from esper_ray.leyline.config.run import GovernorConfig, MeasurementConfig
from esper_ray.leyline.contributions import interaction_sums, leave_one_out
from esper_ray.leyline.records import Measurement, Reports
from esper_ray.runtime.snapshot import LifeProgress, TrustedState
from esper_ray.tolaria.assembly import derived_seed
from esper_ray.tolaria.governor import Governor, HealthVerdict

COALITIONS = 4
"""Key of the random stream of sampled coalitions."""


class HeldOutExamples(Evaluation, Protocol):
    """Examples for measurements, with the level of an untrained model."""

    @property
    def random_guess_loss(self) -> float:
        """Loss of an untrained model, in nats for a classifier."""

    @property
    def chance_pp(self) -> float:
        """Score of an untrained model."""


class HealthMonitor:
    """Monitor of one growing network: measurements, governor and last healthy state.

    Used by the training loop of :class:`~esper_ray.runtime.host.HostRuntime` and by those of users.
    """

    def __init__(
        self,
        organism: Organism,
        examples: HeldOutExamples,
        *,
        measurement: MeasurementConfig,
        governor: GovernorConfig,
        seed: int,
        epochs: int,
    ) -> None:
        """
        Args:
            seed: seed of the sampled coalitions, used above four live seeds.
            epochs: length of the training; all coalitions are measured after the last epoch.
        """
        self.organism = organism
        self._examples, self._measurement = examples, measurement
        self._seed, self._epochs, self._snapshot_every = seed, epochs, governor.snapshot_every
        self.seeds = MeasuredSeeds()
        self.rollbacks = 0
        self.since_snapshot = 0
        """Epochs since the last snapshot of the trusted state."""
        self.start()
        self.governor = Governor(governor, examples.random_guess_loss, examples.chance_pp, self.measured.examples)

    def start(self) -> None:
        """Measure the network before its first epoch, and trust it."""
        self.measured: Measurement = self._measure(0, complete=True)
        self.first_accuracy_pp = self.measured.accuracy_pp
        self.trust()

    def measure_again(self, epoch: int) -> None:
        """Measure the network after a change between epochs.

        Args:
            epoch: epochs trained; seed of sampled coalitions.
        """
        self.measured = self._measure(epoch, complete=True)

    def trust(self) -> None:
        """Make the present state the one that a rollback restores."""
        self.trusted = TrustedState(self.organism.snapshot(), self.seeds, self.measured)

    def reports(self) -> Reports:
        """The slots as policies see them."""
        model = self.organism.model
        return tuple(model.report(slot, self.seeds.of(slot)) for slot in model.slot_ids)

    def judge(self, epoch: int, train_loss: float | None, gradients: Mapping[str, GradientStatistics]) -> HealthVerdict:
        """Verdict on the network after an epoch of training, which is measured first.

        Args:
            epoch: counted from 0.
            train_loss: mean of the epoch in nats, ``None`` if unknown.
            gradients: gradient statistics by slot, of seeds with a gradient.
        """
        previous_pp, done = self.measured.accuracy_pp, epoch + 1
        complete = done % self._measurement.every == 0 or done >= self._epochs
        self.measured = self._measure(epoch, complete=complete)
        self.seeds = self.seeds.updated(
            self.organism.model.states,
            previous_pp,
            self.measured,
            gradients,
            leave_one_out(self.measured),
            interaction_sums(self.measured),
        )
        committed_pp = committed_accuracy_pp(self.organism.model.committed_slots, self.measured)
        verdict = self.governor.judge(train_loss, self.measured.loss, committed_pp)
        self.since_snapshot += 1
        if verdict.healthy and self.since_snapshot >= self._snapshot_every:
            self.trust()
            self.since_snapshot = 0
        return verdict

    def roll_back(self) -> None:
        """Restore the trusted state: structure, weights, optimizer and measurements."""
        self.organism.restore(self.trusted.organism)
        self.seeds, self.measured = self.trusted.seeds, self.trusted.measured
        self.rollbacks += 1

    def resume(self, progress: LifeProgress, trusted: TrustedState) -> None:
        """Restore measurements, governor and trusted state of a saved episode, without the organism."""
        self.measured, self.seeds, self.trusted = progress.measured, progress.seeds, trusted
        self.first_accuracy_pp, self.since_snapshot = progress.first_accuracy_pp, progress.since_snapshot
        self.governor.state = progress.governor

    def _measure(self, epoch: int, *, complete: bool) -> Measurement:
        """A pass over the split, with the coalitions that are due."""
        choose = self._choice(epoch, complete=complete)
        return measure_coalitions(self.organism.model, self._examples, choose)

    def _choice(self, epoch: int, *, complete: bool) -> Callable[[tuple[str, ...]], Chosen]:
        committed, permutations = self.organism.model.committed_slots, self._measurement.permutations

        def choose(players: tuple[str, ...]) -> Chosen:
            if complete or players != self.measured.players:
                seed = derived_seed(self._seed, COALITIONS, epoch) if len(players) > EXACT_PLAYERS else 0
                return chosen_coalitions(players, committed, permutations=permutations, seed=seed)
            return few_coalitions(players, committed)

        return choose
