"""Grow an ordinary PyTorch module by hand: no policy, no environment, no Ray.

    python examples/grow_a_module.py

The module below has no code for seeds. A slot is attached to the output of its first block; a seed
is germinated there, trained behind the host for a few epochs, blended in, and fossilized. At the end
the grown network is an ordinary module again.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from esper_ray.kasmina import (
    GateRules,
    GrowingOptimizer,
    MorphogeneticModel,
    Organism,
    Rules,
    seeded_initialisation,
)
from esper_ray.leyline.config.run import TaskConfig
from esper_ray.leyline.records import Estimate, SeedMeasurements
from esper_ray.leyline.stages import Stage
from esper_ray.simic.attribution import leave_one_out
from esper_ray.tolaria.tasks import load_task
from esper_ray.tolaria.training import EpochSettings, Trainer
from esper_ray.tolaria.validation import measure

SLOT = "r0c0"


class Tiny(nn.Module):
    """Network too simple for its task: its kernels cover single pixels."""

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
    rules = Rules(GateRules(min_training_epochs=4))
    model = MorphogeneticModel.wrap(host, {SLOT: "first"}, torch.zeros(2, 1, 8, 8), rules=rules)
    optimizer = GrowingOptimizer(model, torch.optim.SGD, lr=0.05, momentum=0.9)
    settings = EpochSettings(host_grad_clip=1.0, seed_grad_clip=1.0, incubation_share=0.25)
    trainer = Trainer(Organism(model, optimizer), data, settings)
    measurements = SeedMeasurements()

    for epoch in range(30):
        state = model.states[SLOT]
        if epoch == 5:
            model.germinate(SLOT, "conv_light")
        elif state is not None and state.stage in (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING):
            model.advance(SLOT, measurements)
        elif state is not None and state.stage is Stage.HOLDING:
            model.fossilize(SLOT, measurements)
        model.tick({SLOT: measurements})

        result = trainer.train(data.plan(0, epoch, batch_size=64, steps=17))
        model.epoch_elapsed()
        measured = measure(model, data, data.validation)
        gradients = result.gradients.get(SLOT)
        contribution = leave_one_out(measured).get(SLOT)
        measurements = SeedMeasurements(
            contribution_pp=contribution.value_pp if isinstance(contribution, Estimate) else None,
            gradient_health=None if gradients is None else gradients.health,
            exploding=None if gradients is None else gradients.exploding,
            finite=None if gradients is None else gradients.finite,
        )
        print(f"validation {measured.accuracy_pp:5.1f} %  {model.drawing().splitlines()[1]}")

    print("\n" + "\n".join(str(event) for event in model.events if "->" in str(event)))
    grown = model.plain().eval()
    images, labels = data.prepared(data.test, 0, len(data.test))
    with torch.no_grad():
        print(f"\nas an ordinary module: test loss {cross_entropy(grown(images), labels):.3f}")
    print(grown)


if __name__ == "__main__":
    main()
