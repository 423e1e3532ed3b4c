"""Synthetic records of the kinds in the catalogue."""

import math

from hypothesis import strategies as st

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.catalogue.shapes import BOUNDS

WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
COUNTS = st.integers(0, 2**40)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
PLAIN = {
    "bool": st.booleans(),
    "int": st.integers(-(2**62), 2**62),
    "float": FLOATS,
    "text": WORDS,
    "ints": st.lists(COUNTS, max_size=3),
    "floats": st.lists(FLOATS, max_size=3),
    "texts": st.lists(WORDS, max_size=3),
    "floats by name": st.dictionaries(WORDS, FLOATS, max_size=3),
}


def bounded(field):
    """Values in the range of the unit of ``field``, and NaN."""
    low, high = (None if math.isinf(bound) else bound for bound in BOUNDS[field.unit])
    floats = st.floats(low, high) | st.just(math.nan)
    if field.type == "floats":
        return st.lists(floats, max_size=3)
    if field.type == "floats by name":
        return st.dictionaries(WORDS, floats, max_size=3)
    return COUNTS if field.type == "int" else floats


def values(field):
    """Valid values of ``field``."""
    if field.type in PLAIN:
        strategy = PLAIN[field.type] if field.unit not in BOUNDS else bounded(field)
    else:
        record = st.fixed_dictionaries({inner.name: values(inner) for inner in field.fields})
        strategy = (
            st.lists(record, max_size=3) if field.type == "records" else st.dictionaries(WORDS, record, max_size=3)
        )
    return st.none() | strategy if field.optional else strategy


def records(name):
    """Records of the kind ``name`` before they are written."""
    kind = KINDS[name]
    parts = {"kind": st.just(name)} | dict.fromkeys(kind.clock, COUNTS)
    return st.fixed_dictionaries(parts | {field.name: values(field) for field in kind.fields})


any_records = st.sampled_from(sorted(KINDS)).flatmap(records)


def quarantined(number, env=0):
    """A short record with the ids of its round and environment."""
    return {"kind": "environment_quarantined", "round": number, "env": env, "error": f"e{number}"}


def transition(env, step):
    """A record of an environment."""
    record = {"kind": "seed_transition", "round": 0, "episode": env, "env": env, "step": step, "slot": "r0c0"}
    record |= {"seed": "r0c0-1", "from": "DORMANT", "to": "GERMINATED", "ticks": 0, "reason": "", "initiator": "policy"}
    return record | {"blueprint": "norm"}


EMPTY = {"bool": False, "int": 0, "float": 0.0, "text": "", "ints": [], "floats": [], "texts": [], "records": []}


def complete(record):
    """``record`` with all other fields of its kind: null if allowed, otherwise an empty value."""
    kind = KINDS[record["kind"]]
    return dict.fromkeys(kind.clock, 0) | record | _filled(kind.fields, record)


def _filled(fields, record):
    filled = {}
    for field in fields:
        value = record.get(field.name, None if field.optional else EMPTY.get(field.type, {}))
        if field.type == "records by name":
            value = {name: _filled(field.fields, inner) | inner for name, inner in value.items()}
        filled[field.name] = value
    return filled
