"""Text diagram of a grown network."""

from kasmina_builders import READY, WORTHY
from torch import nn, zeros

from esper_ray.kasmina.model import MorphogeneticModel


def test_the_diagram_shows_place_shape_stage_amplitude_and_size():
    host = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    slots = {"r0c0": "0", "r0c1": "2", "r1c0": "3"}
    model = MorphogeneticModel.wrap(host, slots, zeros(2, 1, 8, 8), rules=READY)
    assert model.drawing().splitlines() == [
        "Sequential  811 parameters  epoch 0",
        "├ 0  4 x 8 x 8  BCHW  r0c0  empty",
        "├ 2  256        BD    r0c1  empty",
        "└ 3  3          BD    r1c0  empty",
    ]
    model.germinate("r0c0", "norm", style="linear_add", tempo=5)
    model.advance("r0c0")
    model.advance("r0c0", WORTHY)
    model.tick()
    model.germinate("r1c0", "lora")
    model.prune("r1c0")
    model.growth.count_epoch()
    assert model.drawing().splitlines() == [
        "Sequential  811 parameters + 12 grown  epoch 1",
        "├ 0  4 x 8 x 8  BCHW  r0c0  norm  BLENDING 1  add 0.20 ██░░░░░░░░ to 1.00  12 parameters",
        "├ 2  256        BD    r0c1  empty",
        "└ 3  3          BD    r1c0  lora  PRUNED 1",
    ]


def test_the_diagram_shows_layouts_in_the_order_of_the_host():
    host = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model = MorphogeneticModel.wrap(host, {"r0c0": "0"}, zeros(2, 6, 8, 3), rules=READY)
    assert model.drawing().splitlines()[1] == "└ 0  6 x 8 x 4  BHWC  r0c0  empty"


def test_the_diagram_shows_a_cross_fade_of_operators():
    model = MorphogeneticModel.wrap(nn.Sequential(nn.Linear(4, 4)), {"r0c0": "0"}, zeros(2, 4), rules=READY)
    model.germinate("r0c0", "norm", style="linear_add", tempo=1)
    model.advance("r0c0")
    model.advance("r0c0", WORTHY)
    model.tick()
    model.retarget("r0c0", 1.0, ticks=2, style="linear_multiply")
    model.tick()
    assert model.drawing().splitlines()[1] == (
        "└ 0  4  BD  r0c0  norm  BLENDING 0  add to multiply 1.00 ██████████ to 1.00  12 parameters"
    )
    model.tick()
    assert model.drawing().splitlines()[1].endswith("BLENDING 0  multiply 1.00 ██████████  12 parameters")
