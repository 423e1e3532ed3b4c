"""Declaration of ``/api/v1``, from which its page in the reference is generated. A test compares it with the routes."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EndpointAbout:
    """One path of the interface."""

    path: str
    about: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Parameters of the query, or of the body of a POST, with their meaning."""
    method: str = "GET"


ENDPOINTS = (
    EndpointAbout(
        "/places", "Runs, comparisons, sweeps and evaluations in the watched folders, with a line about each."
    ),
    EndpointAbout("/runs/{name}", "The complete state of a run: its version and its sections."),
    EndpointAbout(
        "/runs/{name}/stream",
        "What changes in a run, as server-sent events `state`: only the sections that are newer than the client's.",
        {"since": "version that the client has, as does the header `Last-Event-ID`"},
    ),
    EndpointAbout(
        "/runs/{name}/episodes",
        "One page of the table of finished episodes.",
        {
            "sort": "column",
            "descending": "1: the greatest first",
            "offset": "number of rows that are passed over",
            "limit": "number of rows, 100 by default, 500 at most",
            "filter": "conditions such as `env=3 round=2 accuracy>40 rollback`, or the number of an episode",
        },
    ),
    EndpointAbout("/runs/{name}/episodes/{episode}", "One episode, step by step, in play or finished."),
    EndpointAbout(
        "/runs/{name}/episodes/{episode}/seeds/{seed}",
        "The story of a seed, named by its identity such as `r0c0-1` or by its slot.",
    ),
    EndpointAbout("/runs/{name}/policy", "Heads and operations by round, and the newest sampled decisions."),
    EndpointAbout(
        "/runs/{name}/network",
        "Layers of the host, and the seeds of an episode.",
        {"episode": "number of the episode", "step": "step of the episode; by default the newest"},
    ),
    EndpointAbout(
        "/runs/{name}/log",
        "Records of the log, newest first.",
        {
            "kind": "only this kind",
            "text": "part of the line about a record",
            "before": "number from which it goes back",
            "limit": "number of records, 200 by default, 1,000 at most",
        },
    ),
    EndpointAbout("/runs/{name}/sql/tables", "Tables and columns for SQL, and examples."),
    EndpointAbout(
        "/runs/{name}/sql",
        "Rows of one SELECT: 10 seconds, 512 MiB and 10,000 rows at most.",
        {"query": "the SELECT", "offset": "number of rows that are passed over", "limit": "number of rows"},
        "POST",
    ),
    EndpointAbout("/runs/{name}/sql", "The same as a file.", {"format": "csv", "query": "the SELECT"}),
    EndpointAbout("/runs/{name}/flight", "Recordings of the flight recorder, and what the end of the run has left."),
    EndpointAbout("/runs/{name}/flight/{number}", "One recording, item by item."),
    EndpointAbout(
        "/compare", "Settings that differ and curves of 2 to 10 runs.", {"run": "a run; given several times"}
    ),
    EndpointAbout("/comparisons/{name}", "The two sides of a comparison, with the verdict of its evaluation."),
    EndpointAbout("/sweeps/{name}", "Trials and rankings of a sweep."),
    EndpointAbout("/evaluations/{name}", "Policies of an evaluation, with their differences."),
)
"""Every path below ``/api/v1``."""

SECTION_ABOUT: Mapping[str, str] = {
    "facts": "name, path, configuration, differences from the preset, versions, links; `reading` while the log is "
    "read, `failure` if it cannot be",
    "answers": "the five answers: level, text, value, threshold, round since which it holds, reasons",
    "age": "seconds since the last beat and the last progress, phase, speed; changes once a second at most",
    "rounds": "columns by round, marks of rounds, mean of the controls",
    "environments": "the newest episode of each environment with its slots; in the stream those that changed, null for "
    "one that is gone",
    "reward": "reward by source, in all and per step of the newest round; operations; charges for gaming",
    "gates": "evaluations of gates, and checks that failed",
    "blueprints": "ended seeds by blueprint, with their mean contribution",
    "anomalies": "open anomalies",
    "faults": "the newest faults of processes and cluster",
    "notable": "the newest notable events, newest first",
    "integrity": "whether the evidence is whole, with problems and notes",
}
"""Sections of a run."""

COLUMN_ABOUT: Mapping[str, str] = {
    "val_accuracy_min": "lowest validation accuracy of an episode of the round",
    "val_accuracy_max": "highest validation accuracy of an episode of the round",
    "val_accuracy_std": "standard deviation of the validation accuracies of the round",
    "return_min": "lowest return of the round",
    "return_max": "highest return of the round",
    "control_accuracy_ratio": "mean final accuracy without growth, the same for every round",
    "head_entropy_HEAD": "normalized entropy of a head: 1 is a uniform choice",
}
"""Columns of rounds beside those of the kinds ``round`` and ``ppo_update``."""
