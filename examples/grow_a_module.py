"""Grow an ordinary PyTorch module by hand: no policy, no environment, no Ray.

    python examples/grow_a_module.py

The module below knows nothing of seeds. A slot is attached to the output of its first block; a seed
is germinated there, trained behind the host for a few epochs, blended in, and kept.
"""

import torch
from torch import Tensor, nn

from esper_ray.kasmina.blueprints import seeded_initialisation
from esper_ray.kasmina.gates import GateRules
from esper_ray.kasmina.lifecycle import Advance, Fossilize, Germinate, Rules
from esper_ray.kasmina.model import MorphogeneticModel
from esper_ray.kasmina.optimizer import GroupSettings
from esper_ray.kasmina.organism import Organism
from esper_ray.leyline.actions import Blueprint
from esper_ray.leyline.config import TaskConfig
from esper_ray.leyline.records import SeedMeasurements
from esper_ray.simic.attribution import leave_one_out
from esper_ray.tolaria.data import epoch_batches
from esper_ray.tolaria.measurement import measure
from esper_ray.tolaria.tasks import load_task
from esper_ray.tolaria.training import EpochSettings, train_epoch


class Tiny(nn.Module):
    """A network too simple for its task: it never looks at neighbouring pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


def main() -> None:
    data = load_task(TaskConfig(), torch.device("cpu"))
    with seeded_initialisation(0):
        host = Tiny()
    model = MorphogeneticModel.wrap(host, {"r0c0": "first"}, example_input=torch.zeros(2, 1, 8, 8))
    rules = Rules(GateRules(min_training_epochs=4))
    organism = Organism(model, GroupSettings(lr=0.05, seed_lr=0.05, momentum=0.9, weight_decay=5e-4), rules, seed=0)
    settings = EpochSettings(host_grad_clip=1.0, seed_grad_clip=1.0, incubation_weight=10.0)
    known = SeedMeasurements()

    for epoch in range(30):
        state = organism.states["r0c0"]
        command = None
        if epoch == 5:
            command = Germinate(organism.next_seed_id("r0c0"), Blueprint.CONV_LIGHT)
        elif state is not None and state.stage.name in ("GERMINATED", "TRAINING", "BLENDING"):
            command = Advance()
        elif state is not None and state.stage.name == "HOLDING":
            command = Fossilize()
        opened = command is not None and organism.execute("r0c0", command, known).success
        organism.tick({"r0c0": known})

        batches = epoch_batches(0, epoch, len(data.train), batch_size=64, steps=17)
        result = train_epoch(organism, data, batches, settings)
        organism.epoch_elapsed()
        measured = measure(model, data, data.validation)
        gradients = result.gradients.get("r0c0")
        known = SeedMeasurements(
            contribution_pp=leave_one_out(measured).get("r0c0"),
            gradient_health=None if gradients is None else gradients.health,
            exploding=None if gradients is None else gradients.exploding,
            finite=None if gradients is None else gradients.finite,
        )
        state = organism.states["r0c0"]
        stage = "empty" if state is None else f"{state.stage.name} alpha {state.alpha.alpha:.2f}"
        note = f"  {type(command).__name__}" if opened else ""
        print(f"epoch {epoch + 1:2d}  validation {measured.accuracy_pp:5.1f} %  slot {stage}{note}")


if __name__ == "__main__":
    main()
