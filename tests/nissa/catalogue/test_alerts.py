"""Alert rules in promtool: every alert fires for its injected fault and resolves afterwards."""

import shutil
import subprocess
from dataclasses import dataclass

import pytest
import yaml

from esper_ray.nissa.catalogue.alerts import ALERTS
from esper_ray.nissa.grafana.dashboard import files

PROMTOOL = shutil.which("promtool")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine (Debian's package prometheus has it)"),
]
RUN = 'run="r",group="g"'
TRAINING = f'ray_esper_run_state{{{RUN},state="training"}}'
FINISHED = f'ray_esper_run_state{{{RUN},state="finished"}}'


@dataclass(frozen=True)
class Case:
    """Series with one value per minute in Prometheus' notation; minutes when the alert fires and when it does not."""

    series: dict[str, str]
    firing: str
    """Minute."""
    silent: tuple[str, ...]
    labels: tuple[str, ...] = ()
    """Labels besides run and group, as name=value."""


def own(name, labels=""):
    return f"ray_esper_{name}{{{RUN}{',' if labels else ''}{labels}}}"


CASES = {
    "RunStalled": Case(
        {
            own("last_event_timestamp_seconds", 'source="env"'): "0x20 1200+60x20",
            own("longest_silence_seconds"): "100x40",
            TRAINING: "1x40",
        },
        "15m",
        ("8m", "30m"),
    ),
    "ExporterGone": Case({TRAINING: "1x5 _x20 1x10"}, "14m", ("4m", "30m")),
    "RunFailed": Case({own("run_state", 'state="failed"'): "0x5 1x5 0x10"}, "7m", ("4m", "15m")),
    "EvidenceLost": Case(
        {own("telemetry_dropped_total", 'delivery="evidence",reason="malformed"'): "_x5 1x40"}, "7m", ("4m", "30m")
    ),
    "NonFinite": Case(
        {own("nonfinite_total", 'where="ppo_update"'): "_x5 2x40"}, "7m", ("4m", "30m"), ("where=ppo_update",)
    ),
    "MinibatchesSkipped": Case({own("ppo_skipped_minibatches_total"): "_x5 2x60"}, "7m", ("4m", "60m")),
    "UpdatesWithoutSteps": Case(
        {own("ppo_updates_total", 'result="nothing"'): "0x5 0+1x10 10x60"}, "12m", ("3m", "60m")
    ),
    "EnvironmentQuarantined": Case({own("environments_quarantined"): "0x5 1x5 0x10"}, "7m", ("4m", "15m")),
    "RollbackStorm": Case(
        {
            own("rollbacks_total", 'reason="loss"'): "0x5 0+4x20 80x60",
            own("episodes_total", 'outcome="finished"'): "0+8x90",
        },
        "20m",
        ("4m", "80m"),
    ),
    "HeadCollapsed": Case(
        {
            own("head_entropy_ratio", 'head="op"'): "0.5x5 0.01x20 0.5x20",
            own("head_entropy_floor_ratio", 'head="op"'): "0.08x60",
        },
        "20m",
        ("10m", "40m"),
        ("head=op",),
    ),
    "UpdateTooLarge": Case({own("ppo_kl_nats"): "0.01x5 0.5x20 0.01x40"}, "20m", ("5m", "60m")),
    "CriticUseless": Case(
        {own("ppo_explained_variance_ratio"): "0.5x5 -1x40 0.5x20", own("ppo_low_return_variance"): "0x70"},
        "40m",
        ("20m", "60m"),
    ),
    "AccuracyRegressed": Case({own("round_accuracy_rolling_ratio"): "0.8x10 0.7x40 0.8x20"}, "30m", ("12m", "60m")),
    "BelowControl": Case(
        {
            own("round_accuracy_rolling_ratio"): "0.4x90 0.6x30",
            own("round_accuracy_control_ratio"): "0.5x120",
        },
        "80m",
        ("50m", "110m"),
    ),
    "RewardGamed": Case(
        {
            own("reward_gaming_total", 'pattern="claims"'): "0x5 0+40x20 800x60",
            own("env_steps_total"): "0+100x90",
        },
        "25m",
        ("4m", "80m"),
    ),
    "SampleLoss": Case(
        {
            own("telemetry_dropped_total", 'delivery="sample",reason="in_transit"'): "0x5 0+5x40 200x60",
            own("telemetry_events_total", 'delivery="sample"'): "0+100x110",
        },
        "40m",
        ("10m", "90m"),
    ),
    "LifecycleDead": Case(
        {
            own("rounds_total"): "0+1x200",
            own("seed_transitions_total", 'from_stage="DORMANT",to_stage="GERMINATED"'): "0+1x20 20x80 20+1x90",
        },
        "95m",
        ("20m", "120m"),
    ),
    "NoAgency": Case({own("decision_density_ratio"): "0.6x5 0.01x40 0.6x20"}, "30m", ("10m", "60m")),
    "RewardInverted": Case({own("reward_accuracy_correlation_ratio"): "0.6x5 -0.5x90 0.6x20"}, "80m", ("30m", "110m")),
    "ThroughputHalved": Case({own("env_steps_total"): "0+100x120 12000+1x60 12060+100x300"}, "150m", ("100m", "400m")),
    "GpuMemoryTight": Case(
        {
            'ray_node_gram_used{NodeAddress="n",GpuIndex="0"}': "50x5 99x10 50x10",
            'ray_node_gram_available{NodeAddress="n",GpuIndex="0"}': "50x5 1x10 50x10",
        },
        "12m",
        ("7m", "20m"),
        ("NodeAddress=n", "GpuIndex=0"),
    ),
}


def test_every_alert_has_a_case():
    assert set(CASES) == set(ALERTS)


def check(folder, name, case, moments):
    """Result of promtool for the rules; ``moments``: (minute, whether the alert fires then)."""
    (folder / "alerts.yaml").write_text(files()["alerts.yaml"])
    alert = ALERTS[name]
    labels = dict(label.split("=") for label in case.labels) | {"severity": alert.severity}
    if name != "GpuMemoryTight":
        labels |= {"run": "r", "group": "g"}
    summary = f"{name}: {labels.get('run', '')}"
    expected = [{"exp_labels": labels, "exp_annotations": {"summary": summary, "description": alert.about}}]
    tests = [
        {"eval_time": minute, "alertname": name, "exp_alerts": expected if firing else []} for minute, firing in moments
    ]
    series = [{"series": series, "values": values} for series, values in case.series.items()]
    tree = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": tests}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(tree))
    command = [PROMTOOL, "test", "rules", "test.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_for_its_fault_and_neither_before_nor_after(name, tmp_path):
    case = CASES[name]
    moments = sorted([(case.firing, True), *((minute, False) for minute in case.silent)])
    result = check(tmp_path, name, case, moments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", CASES)
def test_the_check_fails_when_a_firing_alert_is_expected_to_be_silent(name, tmp_path):
    result = check(tmp_path, name, CASES[name], [(CASES[name].firing, False)])
    assert result.returncode == 1
    assert "exp:[" in result.stdout + result.stderr


def test_exporter_gone_does_not_fire_for_a_finished_run(tmp_path):
    case = Case({TRAINING: "1x5 0x1 _x30", FINISHED: "0x5 1x1 _x30"}, "", ())
    result = check(tmp_path, "ExporterGone", case, [(f"{minute}m", False) for minute in range(5, 35, 3)])
    assert result.returncode == 0, result.stdout + result.stderr


def test_run_stalled_does_not_fire_within_a_long_episode(tmp_path):
    """30 minutes without an event, after an earlier silence of 20 minutes."""
    events = own("last_event_timestamp_seconds", 'source="env"')
    case = Case({events: "0x60", own("longest_silence_seconds"): "1200x90", TRAINING: "1x90"}, "", ())
    result = check(tmp_path, "RunStalled", case, [("30m", False), ("55m", False)])
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_accepts_the_rules():
    from pathlib import Path

    file = Path(__file__).parents[3] / "dashboards" / "alerts.yaml"
    result = subprocess.run([PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(ALERTS)} rules found" in result.stdout + result.stderr
