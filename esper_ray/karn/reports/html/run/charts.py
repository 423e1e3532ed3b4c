"""The curves of a run, by round."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from esper_ray.karn.reports.html.charts import GRAY, Band, Chart, ChartLevel, ChartPoints, Marks, Series, figure
from esper_ray.karn.reports.html.elements import Markup, tag
from esper_ray.karn.reports.html.numbers import NOT_RECORDED, counted, finite
from esper_ray.karn.reports.html.run.content import RunContent
from esper_ray.leyline.actions import HEADS
from esper_ray.leyline.records import Record
from esper_ray.nissa.catalogue.alerts import LARGE_KL_NATS
from esper_ray.nissa.catalogue.metrics import ENTROPY_FLOORS
from esper_ray.nissa.metrics.publisher import head_choices
from esper_ray.nissa.state.measures import normalized_entropy

SMALL_WIDTH, SMALL_HEIGHT = 280.0, 130.0
MOST_MARKS = 100
"""Marks of single rounds; more are joined where they are in a row."""


def curves(content: RunContent) -> Markup:
    """All charts over rounds."""
    if not content.state.rounds:
        return tag("p", "No round is over, so there are no curves.")
    charts = [
        _accuracy(content),
        _returns(content),
        _growth(content),
        _kl(content),
        _clip(content),
        _explained(content),
    ]
    large = tag("div", *map(figure, charts), class_="grid")
    heading = tag("h3", "Normalized entropy of the heads")
    note = "Entropy at steps with more than one legal choice, over the logarithm of the number of choices; 1: uniform."
    floor = " The dashed line is the floor below which a head has collapsed."
    small = tag("div", *(_entropy(content, head) for head in HEADS), class_="small")
    return tag("div", large, heading, tag("p", note + floor, class_="soft"), small)


def column(rounds: Sequence[Record], name: str, factor: float = 1.0) -> list[tuple[float, float | None]]:
    """Values of a column by round, which counts from 1."""
    return [(row["round"] + 1, None if row.get(name) is None else factor * row[name]) for row in rounds]


def _accuracy(content: RunContent) -> Chart:
    rounds, by_round = content.state.rounds, content.accuracies_pp
    spreads = {index: (fmean(values), pstdev(values)) for index, values in by_round.items()}
    logged = {row["round"] for row in rounds}
    band = [(i + 1, max(0.0, m - s), min(100.0, m + s)) for i, (m, s) in sorted(spreads.items()) if i in logged]
    controls = content.state.control_accuracies_pp
    level = [ChartLevel(f"without growth, n = {len(controls)}", fmean(controls))] if controls else []
    cells = [_spread_cells(by_round.get(row["round"], []), row) for row in rounds]
    note = "The band is one standard deviation of the episodes of a round to both sides."
    note += "" if controls else " No control without growth was measured."
    return Chart(
        "accuracy",
        "Validation accuracy at the end of an episode",
        "Accuracy in percent",
        (
            Series("mean", column(rounds, "val_accuracy_ratio", 100.0), form=".1f", unit="%"),
            Series("fossilized seeds only", column(rounds, "committed_accuracy_ratio", 100.0), "3", 2, ".1f", "%"),
        ),
        bands=(Band("one standard deviation", band),),
        levels=level,
        marks=_marks(content),
        note=note,
        headings=("lowest, %", "highest, %", "n", "rollbacks"),
        cells=cells,
    )


def _spread_cells(values: Sequence[float], row: Record) -> tuple[str, ...]:
    bounds = (f"{min(values):.1f}", f"{max(values):.1f}") if values else ("-", "-")
    return (*bounds, str(row["episodes"]), str(row["rollbacks"]))


def _marks(content: RunContent) -> tuple[Marks, ...]:
    """Rounds with rollbacks, and rounds in which an anomaly was open."""
    rolled = sorted({record["round"] + 1 for record in content.listed["rollback"]})
    count = len(content.listed["rollback"])
    last = content.state.rounds[-1]["round"] + 1
    spans = anomaly_spans(content.listed["anomaly"], last)
    begun = sum(record["open"] for record in content.listed["anomaly"])
    return (
        Marks("R", f"rounds with rollbacks ({count} in all)", round_spans(rolled)),
        Marks("A", f"anomalies, while they are open ({begun} in all)", spans),
    )


def round_spans(rounds: Sequence[int]) -> list[tuple[float, float]]:
    """One mark for each round; of many, those in a row are one."""
    if len(rounds) <= MOST_MARKS:
        return [(number, number) for number in rounds]
    known, spans = set(rounds), list[tuple[float, float]]()
    for number in rounds:
        if number - 1 in known:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def anomaly_spans(records: Sequence[Record], last: int) -> list[tuple[float, float]]:
    """First and last round of every anomaly. One that has no end lasts until round ``last``."""
    spans: list[tuple[float, float]] = []
    begun: dict[tuple[str, str | None], int] = {}
    for record in records:
        identity = (record["type"], record["subject"])
        if record["open"]:
            begun[identity] = record["round"] + 1
        elif identity in begun:
            spans.append((begun.pop(identity), record["round"]))
    return sorted([*spans, *((first, max(first, last)) for first in begun.values())])


def _returns(content: RunContent) -> Chart:
    rounds = content.state.rounds
    mean, deviation = column(rounds, "return_mean"), dict(column(rounds, "return_std"))
    spread = [(x, y, deviation.get(x)) for x, y in mean]
    band = [(x, y - s, y + s) for x, y, s in spread if y is not None and s is not None]
    return Chart(
        "returns",
        "Return of an episode",
        "Undiscounted reward",
        (Series("mean", mean, form="+.3f"),),
        bands=(Band("one standard deviation", band),),
        note="The band is one standard deviation of the episodes of a round to both sides.",
    )


def _growth(content: RunContent) -> Chart:
    rounds = content.state.rounds
    return Chart(
        "growth",
        "Growth at the end of an episode",
        "Parameters over those of the host; fossilized seeds",
        (
            Series("parameters over those of the host", column(rounds, "growth_ratio"), form=".2f"),
            Series("fossilized seeds of a network", column(rounds, "fossilised_mean"), "2", 1, ".2f"),
        ),
        floor=0.0,
        note="Both are means over the episodes of a round.",
    )


def _kl(content: RunContent) -> Chart:
    target = content.config.ppo.target_kl
    levels = [] if target is None else [ChartLevel("limit that ends an update", target)]
    stopped = sum(row["stopped_by_kl"] == 1.0 for row in content.state.rounds)
    return Chart(
        "kl",
        "Approximate KL divergence of an update",
        "Divergence from the behavior policy in nats",
        (Series("approximate KL", column(content.state.rounds, "kl"), form=".4f", unit="nats"),),
        levels=levels,
        floor=0.0,
        note=f"The limit ended {counted(stopped, 'update')} early. More than {LARGE_KL_NATS:g} nats are an anomaly.",
    )


def _clip(content: RunContent) -> Chart:
    updates = content.listed["ppo_update"]
    up, down = column(updates, "clip_share_up"), column(updates, "clip_share_down")
    is_recorded = bool(finite(y for _, y in (*up, *down)))
    parts = (Series("above the range", up, "2", 1, ".3f"), Series("below the range", down, "3", 2, ".3f"))
    return Chart(
        "clip",
        "Clipped probability ratios",
        "Share of ratios outside the clip range",
        (Series("clip share", column(content.state.rounds, "clip_share"), form=".3f"), *(parts if is_recorded else ())),
        floor=0.0,
        note="" if is_recorded else f"Shares above and below the range: {NOT_RECORDED}.",
    )


def _explained(content: RunContent) -> Chart:
    rounds = content.state.rounds
    points = column(rounds, "explained_variance")
    hardly = [row["low_variance"] == 1.0 for row in rounds]
    series = [Series("explained variance", _where(points, [not low for low in hardly]), form=".3f")]
    if any(hardly):
        series.append(Series("where returns hardly vary: no meaning", _where(points, hardly), GRAY, 2, ".3f"))
    return Chart(
        "explained",
        "Explained variance of the critic",
        "Share of the variance of returns that values explain",
        series,
        floor=0.0,
        top=1.0,
        note=f"In {counted(sum(hardly), 'round')} returns hardly varied.",
    )


def _where(points: ChartPoints, chosen: Sequence[bool]) -> list[tuple[float, float | None]]:
    return [(x, y if is_chosen else None) for (x, y), is_chosen in zip(points, chosen, strict=True)]


def normalized_entropies(rounds: Sequence[Record], head: str, choices: Mapping[str, int]) -> ChartPoints:
    """Entropy of a head over that of a uniform choice, by round."""
    if choices[head] < 2:
        return []
    return [(row["round"] + 1, normalized_entropy(row, head, choices)) for row in rounds]


def _entropy(content: RunContent, head: str) -> Markup:
    points = normalized_entropies(content.state.rounds, head, head_choices(content.config))
    name = head.replace("_", " ")
    if not finite(y for _, y in points):
        return tag("figure", tag("h3", name), tag("p", "This head has only one choice.", class_="soft"))
    chart = Chart(
        f"entropy{head.replace('_', '')}",
        name,
        "Normalized entropy",
        (Series("entropy", points, form=".3f"),),
        levels=(ChartLevel("floor", ENTROPY_FLOORS[head]),),
        floor=0.0,
        top=1.0,
        width=SMALL_WIDTH,
        height=SMALL_HEIGHT,
    )
    return figure(chart)
