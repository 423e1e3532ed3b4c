"""All episodes of a run in a table that is sorted, filtered and paged."""

import re
from typing import Any

from esper_ray.karn.questions.tables import LogTables
from esper_ray.leyline.errors import UsageError, shortened

COLUMNS = (
    "episode", "env", "round", "steps", "return", "val_accuracy_pp", "gain_pp", "growth_ratio", "fossilized", "pruned",
    "rollback", "seed", "peak_pp", "loss_from_peak_pp",
)  # fmt: skip
"""Columns of the table; each can be sorted by."""
MOST_EPISODES = 500
_CONDITION = re.compile(r"([a-z_]+)(<=|>=|!=|=|<|>|:)(-?[0-9]+(?:\.[0-9]+)?)")
_SHORT = {"accuracy": "val_accuracy_pp", "gain": "gain_pp", "growth": "growth_ratio", "peak": "peak_pp"}
"""Short names of columns in filters."""
_TABLE = """
WITH controls AS (SELECT episode, any_value(val_accuracy_pp) AS accuracy FROM control GROUP BY episode),
  pruned AS (SELECT episode, count(*) AS n FROM seed_transition WHERE "to" = 'PRUNED' GROUP BY episode),
  fossilized AS (SELECT episode, count(*) AS n FROM seed_transition WHERE "to" = 'FOSSILIZED' GROUP BY episode),
  reasons AS (SELECT episode, any_value(reason) AS reason FROM rollback GROUP BY episode),
  peaks AS (SELECT episode, max(val_accuracy_pp) AS peak FROM env_epoch GROUP BY episode),
  mean_control AS (SELECT avg(val_accuracy_pp) AS accuracy FROM control)
SELECT o.episode, o.env, o.round, o.step AS steps, o.total_reward AS "return", o.val_accuracy_pp,
  o.val_accuracy_pp - coalesce(c.accuracy, (SELECT accuracy FROM mean_control)) AS gain_pp,
  c.accuracy IS NOT NULL AS control_is_own, o.growth_ratio,
  coalesce(f.n, 0) AS fossilized, coalesce(p.n, 0) AS pruned,
  CASE WHEN o.rollback THEN coalesce(r.reason, 'rolled back') END AS rollback, o.seed,
  k.peak AS peak_pp, k.peak - o.val_accuracy_pp AS loss_from_peak_pp
FROM outcome o LEFT JOIN controls c USING (episode) LEFT JOIN pruned p USING (episode)
  LEFT JOIN fossilized f USING (episode) LEFT JOIN reasons r USING (episode) LEFT JOIN peaks k USING (episode)
"""


def all_episodes(tables: LogTables) -> list[dict[str, Any]]:
    """Every finished episode, in order."""
    return tables.rows(f"{_TABLE} ORDER BY o.seq")


def episode_page(
    tables: LogTables,
    sort: str = "episode",
    *,
    descending: bool = True,
    offset: int = 0,
    limit: int = 100,
    words: str = "",
) -> dict[str, Any]:
    """One page of the table: ``total`` rows that fit, and ``rows``.

    Args:
        sort: one of ``COLUMNS``. Rows without that value come last.
        words: conditions such as ``env=3 accuracy>40 rollback``, all of which hold. Rounds count from 1 here.

    Raises:
        UsageError: if a column or a condition is unknown.
    """
    if sort not in COLUMNS:
        raise UsageError(f"sort {shortened(sort)}: it must be one of {', '.join(COLUMNS)}")
    condition = filter_condition(words)
    order = f'"{sort}" {"DESC" if descending else "ASC"} NULLS LAST, episode {"DESC" if descending else "ASC"}'
    page = f"LIMIT {max(0, min(limit, MOST_EPISODES))} OFFSET {max(0, offset)}"
    rows = tables.rows(
        f"SELECT *, count(*) OVER () AS _total FROM ({_TABLE}) WHERE {condition} ORDER BY {order} {page}"
    )
    total = rows[0]["_total"] if rows else 0
    if not rows and offset:
        total = tables.rows(f"SELECT count(*) AS n FROM ({_TABLE}) WHERE {condition}")[0]["n"]
    for row in rows:
        del row["_total"]
    return {"total": total, "rows": rows}


def filter_condition(words: str) -> str:
    """SQL of the conditions in ``words``.

    Raises:
        UsageError: if one is unknown.
    """
    conditions = []
    for word in words.lower().split():
        match = _CONDITION.fullmatch(word)
        if word in ("rollback", "rollbacks"):
            conditions.append("rollback IS NOT NULL")
        elif match is not None and _SHORT.get(match[1], match[1]) in COLUMNS and match[1] != "rollback":
            name, operator = _SHORT.get(match[1], match[1]), match[2].replace(":", "=")
            value = f"{match[3]} - 1" if name == "round" else match[3]
            conditions.append(f'"{name}" {operator} {value}')
        elif word.isascii() and word.isdigit():
            conditions.append(f"episode = {word[:18]}")
        else:
            example = "env=3, round=2, accuracy>40, rollback, or the number of an episode"
            raise UsageError(f"filter {shortened(word)}: write conditions such as {example}")
    return " AND ".join(conditions) or "true"
