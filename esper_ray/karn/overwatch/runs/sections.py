"""Sections of a run as JSON: what a page shows of its state, and what the stream sends of it.

Rounds, episodes and environments count from 0, steps from 1, as in the log. What was not measured is null.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from esper_ray.karn.following import RunFollower
from esper_ray.karn.notable import lived_steps, newest_notable, worth_at
from esper_ray.karn.overwatch.runs.history import RoundHistory
from esper_ray.karn.recent import Recent
from esper_ray.karn.record_lines import record_line
from esper_ray.karn.reports.html.run.sections import differences
from esper_ray.leyline.actions import CHOICE_NAMES, HEADS
from esper_ray.leyline.config.loading import preset_names, read_preset
from esper_ray.leyline.config.run import flatten
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.state.answers import Sight, answers
from esper_ray.nissa.state.episode import EpisodeState, SlotState
from esper_ray.nissa.state.measures import normalized_entropy
from esper_ray.nissa.state.run_state import RunState

NOTABLE_EVENTS = 40
ROUND_COLUMNS = tuple(
    field.name for field in KINDS["round"].fields if field.type in ("int", "float") and field.name not in ("staleness",)
)
"""Columns of a round that are sent as they are in the log."""
LEVELS_OF = {"rollback": "wrong", "environment_quarantined": "wrong", "malformed": "wrong"}


def facts(
    follower: RunFollower, identity: str, shown: str, differing: Mapping[str, Any], choices: Mapping[str, int]
) -> dict[str, Any]:
    """Name, configuration and origin of a run.

    Args:
        identity: name of the run in URLs.
        shown: its path as it is written in commands.
        differing: see :func:`preset_differences`.
        choices: greatest number of legal choices, by head.
    """
    manifest, pulse = follower.manifest, follower.sight.pulse or {}
    config = _mapping(manifest.get("config"))
    versions, hardware = _mapping(manifest.get("versions")), _mapping(manifest.get("hardware"))
    growth, ppo, system = (_mapping(config.get(name)) for name in ("growth", "ppo", "system"))
    status = follower.state.status or manifest.get("status")
    return {
        "id": identity,
        "name": follower.run.run_id,
        "path": shown,
        "folder": str(follower.run.path.parent),
        "status": status,
        "started": manifest.get("started"),
        "updated": manifest.get("updated"),
        "version": versions.get("esper-ray"),
        "program_version": versions.get("esper-ray"),
        "versions": versions,
        "git": manifest.get("git"),
        "config_sha256": manifest.get("config_sha256"),
        "preset": config.get("name"),
        "task": _mapping(config.get("task")).get("name"),
        "reward_mode": _mapping(config.get("reward")).get("mode"),
        "seed": config.get("seed"),
        "group": manifest.get("group") or "",
        "host": _mapping(config.get("host")).get("family"),
        "host_parameters": follower.state.host["parameters"] if follower.state.host else None,
        "machine": pulse.get("host") or hardware.get("host"),
        "pid": pulse.get("pid"),
        "rounds": pulse.get("rounds") or ppo.get("rounds"),
        "environments": system.get("envs"),
        "slots": list(growth.get("slots") or ()),
        "choices": dict(choices),
        "choice_names": _choice_names(growth),
        "floors": dict(ENTROPY_FLOORS),
        "config": flatten(config),
        "problems": list(follower.problems),
        "differs": dict(differing),
        "links": _links(pulse.get("links")),
        "command": [str(word) for word in manifest.get("command") or ()],
        "command_resume": f"esper train ppo --resume {shown}",
        "command_flight": f"esper flight {shown}",
        "telemetry": pulse.get("telemetry") or _mapping(config.get("telemetry")).get("level"),
    }


def _choice_names(growth: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the choices of each head, by index, with own blueprints."""
    own = dict(str(name).split("=", 1) for name in growth.get("blueprints") or () if "=" in str(name))
    names = {head: [own.get(name, name) for name in choices] for head, choices in CHOICE_NAMES.items()}
    return names | {"slot": list(growth.get("slots") or ())}


def preset_differences(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Value of the run and of its preset, by key in which both differ. Empty without such a preset."""
    config = _mapping(manifest.get("config"))
    name = str(config.get("name"))
    if name not in preset_names():
        return {}
    return {key: [own, preset] for key, own, preset in differences(flatten(config), flatten(read_preset(name)))}


def _mapping(tree: Any) -> dict[str, Any]:
    return tree if isinstance(tree, dict) else {}


def _links(links: Any) -> dict[str, str]:
    """Addresses of other views: those of the web alone, since a page makes links of them."""
    found = {str(name): str(address) for name, address in _mapping(links).items()}
    return {name: address for name, address in found.items() if urlsplit(address).scheme in ("http", "https")}


def answer_section(state: RunState, sight: Sight) -> dict[str, Any]:
    """The five answers. Ages are whole seconds, so that the section changes once a second at most."""
    section = {}
    for name, answer in answers(state, sight).items():
        tree = asdict(answer)
        if name == "alive" and tree["value"] is not None:
            tree["value"] = None if answer.level == "ok" else math.floor(tree["value"])
        section[name] = tree
    return section


def age(state: RunState, sight: Sight) -> dict[str, Any]:
    """What changes all the time: ages by the clock of the server, phase, speed, progress."""
    pulse = sight.pulse or {}
    return {
        "beat_age_s": None if sight.pulse is None else round(sight.beat_age_s, 1),
        "moved_age_s": None if sight.pulse is None else round(sight.moved_age_s, 1),
        "phase": pulse.get("phase"),
        "round": pulse.get("round"),
        "episodes": pulse.get("episodes"),
        "of": pulse.get("of"),
        "steps_per_second": state.timings[-1].get("env_steps_per_second") if state.timings else None,
    }


class RoundSection:
    """Columns by round; rows that were computed are kept."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._last: Record | None = None
        self._revision = 0

    def section(self, state: RunState, history: RoundHistory, choices: Mapping[str, int]) -> dict[str, Any]:
        """Columns, marks and control of the rounds of ``state``."""
        known = len(self._columns.get("round", ()))
        continues = 0 < known <= len(state.rounds) and state.rounds[known - 1] is self._last
        continues, self._revision = continues and history.revision == self._revision, history.revision
        if not continues:
            self._columns, known = {}, 0
        for row in state.rounds[known:]:
            for name, value in _round_row(row, history, choices).items():
                self._columns.setdefault(name, []).append(_short(value))
        self._last = state.rounds[-1] if state.rounds else None
        controls = state.control_accuracies_pp
        control = [state.control_accuracy_ratio] * len(state.rounds)
        return {
            "columns": {**self._recorded(), "control_accuracy_ratio": control} if self._columns else {},
            "control": {"mean_pp": fmean(controls), "n": len(controls)} if controls else None,
            "marks": history.marks(),
        }

    def _recorded(self) -> dict[str, list[Any]]:
        """The columns that a round has; what no round recorded is left out."""
        return {name: values for name, values in self._columns.items() if any(value is not None for value in values)}


def _round_row(row: Record, history: RoundHistory, choices: Mapping[str, int]) -> dict[str, Any]:
    index = row["round"]
    cells = {"round": index, **{name: row.get(name) for name in ROUND_COLUMNS if not name.startswith("entropy_")}}
    for head in HEADS:
        cells[f"entropy_{head}"] = row.get(f"entropy_{head}")
        cells[f"head_entropy_{head}"] = normalized_entropy(row, head, choices)
    accuracy, returns = history.accuracies_pp.get(index), history.returns.get(index)
    cells |= {
        "val_accuracy_min": None if accuracy is None else accuracy.least / 100.0,
        "val_accuracy_max": None if accuracy is None else accuracy.greatest / 100.0,
        "val_accuracy_std": None if accuracy is None else accuracy.deviation / 100.0,
        "return_min": None if returns is None else returns.least,
        "return_max": None if returns is None else returns.greatest,
    }
    details = history.updates.get(index)
    if details is not None:
        cells |= details
    else:
        cells |= dict.fromkeys((field.name for field in KINDS["ppo_update"].fields if field.added), None)
    return cells


def _short(value: Any) -> Any:
    """A number with six digits: no screen shows more."""
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def environment(episode: EpisodeState, *, live: bool, quarantined: str | None) -> dict[str, Any]:
    """The newest episode of an environment."""
    return {
        "env": episode.env,
        "episode": episode.episode,
        "round": episode.round,
        "step": episode.step,
        "val_accuracy_pp": episode.val_accuracy_pp,
        "committed_accuracy_pp": episode.committed_accuracy_pp,
        "best_accuracy_pp": episode.best_accuracy_pp,
        "best_step": episode.best_step,
        "growth_ratio": episode.growth_ratio,
        "total_parameters": episode.total_parameters,
        "episode_return": episode.episode_return,
        "reward": episode.reward,
        "operation": episode.operation,
        "success": episode.success,
        "finished": episode.finished,
        "rollback": episode.rollback,
        "quarantined": quarantined,
        "live": live,
        "slots": {name: _slot(slot) for name, slot in episode.slots.items()},
    }


def _slot(slot: SlotState) -> dict[str, Any]:
    return {
        "stage": slot.stage.name,
        "blueprint": slot.blueprint,
        "seed": slot.seed,
        "alpha": slot.alpha,
        "contribution_pp": slot.contribution_pp,
        "contribution_error_pp": slot.contribution_error_pp,
        "measured_contribution_pp": slot.measured_contribution_pp,
        "parameters": slot.parameters,
        "germinated_step": slot.germinated_step,
    }


def reward(state: RunState) -> dict[str, Any]:
    """Reward by source: per step of the newest round, and in all."""
    tally = state.last_tally
    per_step = {} if tally is None or not tally.steps else tally.reward_by_source
    return {
        "by_source_per_step": {name: amount / tally.steps for name, amount in per_step.items() if tally},
        "round": state.rounds[-1]["round"] if state.rounds else None,
        "by_source": dict(state.totals.reward_by_source),
        "steps": state.totals.steps,
        "gaming": dict(state.totals.gaming),
        "correlation": state.reward_accuracy_correlation,
        "operations": dict(state.totals.operations),
        "refused": dict(state.totals.refused),
    }


def gates(state: RunState) -> dict[str, Any]:
    """Evaluations of the gates, and checks that failed."""
    totals = state.totals
    return {
        "passed": dict(totals.gates_passed),
        "failed": dict(totals.gates_failed),
        "checks": {gate: dict(checks) for gate, checks in totals.failed_checks.items()},
        "vetoes": dict(totals.vetoes),
    }


def blueprints(state: RunState) -> list[dict[str, Any]]:
    """Ended seeds by blueprint, the most often fossilized first."""
    ranked = sorted(state.blueprints.items(), key=lambda item: (-item[1].fossilized, item[0]))
    return [
        {
            "name": name,
            "fossilized": record.fossilized,
            "pruned": record.pruned,
            "contribution_pp": record.contribution_pp,
            "error": record.contribution_error_pp,
            "n": record.measured,
        }
        for name, record in ranked
    ]


def anomalies(state: RunState) -> list[dict[str, Any]]:
    """Open anomalies."""
    return [{**asdict(state.anomalies[key]), "key": key} for key in sorted(state.anomalies)]


def faults(state: RunState) -> list[dict[str, Any]]:
    """The newest faults of processes and cluster, oldest first."""
    return [asdict(fault) for fault in state.faults]


def notable(recent: Recent, base: str) -> list[dict[str, Any]]:
    """The newest notable events, newest first.

    Args:
        base: address of the run.
    """
    found = []
    for record in newest_notable(recent, NOTABLE_EVENTS):
        clock = {name: record.get(name) for name in ("round", "episode", "env", "step", "slot", "seed")}
        found.append({**clock, "seq": record["seq"], "kind": record["kind"], **_notable_text(record, recent, base)})
    return found


def _notable_text(record: Record, recent: Recent, base: str) -> dict[str, Any]:
    text, url = record_line(record), f"{base}/log?before={int(record['seq']) + 1}"
    level = LEVELS_OF.get(record["kind"], "")
    if record["kind"] == "anomaly":
        level = "look" if record["open"] else "ok"
    if "episode" in record:
        url = f"{base}/episodes/{record['episode']}?step={record.get('step', 0)}"
    if record["kind"] == "seed_transition":
        level = "kept" if record["to"] == "FOSSILIZED" else "lost"
        worth = worth_at(record, recent.by_kind.get("env_epoch", ()))
        lived = lived_steps(record, recent.by_kind.get("seed_transition", ()))
        text += "" if worth is None else f", worth {worth:+.1f} pp"
        text += "" if lived is None else f", lived {lived} {'step' if lived == 1 else 'steps'}"
    return {"text": text, "level": level, "url": url}


def integrity(follower: RunFollower, counts: Mapping[str, Any] | None, notes: Sequence[str]) -> dict[str, Any]:
    """Whether the evidence is whole.

    Args:
        counts: content of ``integrity.json`` of a finished run.
        notes: what a viewer must know beside what the follower notes.
    """
    totals = follower.state.totals
    problems = list(follower.problems)
    if counts is not None and counts.get("complete") is not True:
        problems.append("the counts in integrity.json say that the log is not complete")
    return {
        "whole": not problems and not totals.malformed,
        "problems": problems,
        "notes": [*notes, *follower.notes],
        "samples_lost": sum(totals.samples_lost.values()),
        "malformed": totals.malformed,
        "nonfinite": sum(totals.nonfinite.values()),
        "events": sum(totals.events.values()),
        "live_is_full": follower.live_is_full,
    }


def slots_of(section: Mapping[str, Any], environments: Sequence[EpisodeState]) -> list[str]:
    """Slots of the configuration; without one those that the episodes have had."""
    return section["slots"] or sorted({name for episode in environments for name in episode.slots})
