"""Decoding of actions to lifecycle commands, and logging of lifecycle events."""

import pytest
from lifecycle_builders import seed_in

from esper_ray.kasmina.lifecycle import reducer
from esper_ray.kasmina.lifecycle.commands import lifecycle_command, logged
from esper_ray.kasmina.lifecycle.gates import Check, Gate, GateResult
from esper_ray.kasmina.lifecycle.reducer import AlphaMoved, GateEvaluated, Refused, StageChanged
from esper_ray.leyline.actions import TEMPO_TICKS, WAIT, Action, AlphaCurve, Blueprint, GerminationStyle
from esper_ray.leyline.records import Event
from esper_ray.leyline.stages import Stage


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ((1, 2, 8, 3, 2, 1, 0, 0), reducer.Germinate("s-9", "lora", GerminationStyle.GATED_GATE, 8, 0.7)),
        (
            (2, 0, 0, 1, 0, 0, 2, 4),
            reducer.SetAlphaTarget(0.5, 5, AlphaCurve.SIGMOID, 24.0, GerminationStyle.LINEAR_MULTIPLY),
        ),
        ((3, 0, 0, 0, 0, 0, 3, 1), reducer.Prune(8, AlphaCurve.COSINE, 12.0)),
        ((3, 0, 0, 0, 0, 0, 0, 2), reducer.Prune(0, AlphaCurve.SIGMOID, 6.0)),
        ((4, 0, 0, 0, 0, 0, 0, 0), reducer.Fossilize()),
        ((5, 1, 0, 0, 0, 0, 0, 0), reducer.Advance()),
    ],
)
def test_action_indices_decode_to_commands(indices, expected):
    assert lifecycle_command(Action(*indices), "s-9") == expected


def test_a_live_widening_has_no_first_ramp():
    birth, own = Action(1, 2, 1, 2, 1, 2, 0, 0), {Blueprint(1): "widen_half"}
    assert lifecycle_command(birth, "s-9", own).tempo == TEMPO_TICKS[1]
    assert lifecycle_command(birth, "s-9", own, live_widenings=True).tempo == 0
    assert lifecycle_command(birth, "s-9", live_widenings=True).tempo == TEMPO_TICKS[1]


def test_wait_has_no_command():
    with pytest.raises(ValueError, match="WAIT is not a command"):
        lifecycle_command(WAIT, "s-1")


def test_transitions_and_gate_verdicts_are_logged_and_amplitudes_are_not():
    shut = GateResult(Gate.G2, Stage.BLENDING, (Check("epochs in training", 4, 10), Check("health", None, 0.5)))
    events = [
        StageChanged(Stage.TRAINING, Stage.PRUNED, 4, "weak"),
        AlphaMoved(0.0),
        Refused("no"),
        GateEvaluated(shut),
    ]
    ids = {"slot": "r0c0", "seed": "r0c0-1"}
    assert logged("r0c0", seed_in(Stage.TRAINING), events, 7, "policy") == [
        Event(
            "seed_transition",
            7,
            ids
            | {"from": "TRAINING", "to": "PRUNED", "ticks": 4, "reason": "weak"}
            | {"initiator": "policy", "blueprint": "norm"},
        ),
        Event(
            "gate",
            7,
            ids
            | {
                "gate": "G2",
                "passed": False,
                "checks": [
                    {"name": "epochs in training", "value": 4, "threshold": 10, "margin": -6, "passed": False},
                    {"name": "health", "value": None, "threshold": 0.5, "margin": None, "passed": False},
                ],
            },
        ),
    ]
