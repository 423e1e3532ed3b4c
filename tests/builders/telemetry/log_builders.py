"""Event logs of quarantined environments, and their lines."""

import json

from nissa_builders import quarantined

from esper_ray.nissa.log.sql import EventDatabase


def add(log, *rounds):
    log.append(quarantined(number) for number in rounds)


def lines_of(log):
    return log.tail.read_bytes().splitlines(keepends=True)


def altered(line, **changes):
    return json.dumps(json.loads(line) | changes).encode() + b"\n"


def rounds(log):
    """Rounds of the events, which every reader must give alike."""
    events = [event["round"] for event in log.records()]
    assert [event["round"] for event in log.of_kinds(["environment_quarantined"])] == events
    with EventDatabase(log) as database:
        rows = database.ask("SELECT round FROM environment_quarantined ORDER BY seq").rows
    assert [row[0] for row in rows] == events
    return events
