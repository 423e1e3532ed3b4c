"""Round trip of events through Parquet."""

import io
import math

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nissa_builders import any_records, transition

from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.finite import json_record
from esper_ray.nissa.log.tables import by_kind, records_of, schema_of, table_of

PROVENANCE = {"run": "r", "group": "", "source": "driver", "source_seq": 0, "seq": 0}


@given(st.lists(any_records, max_size=6))
def test_records_round_trip_through_parquet(records):
    logged = [PROVENANCE | json_record(record) for record in records]
    for kind, rows in by_kind(logged).items():
        file = io.BytesIO()
        pq.write_table(table_of(kind, rows), file)
        assert records_of(kind, pq.read_table(io.BytesIO(file.getvalue()))) == rows


def test_a_nonfinite_number_stays_null_and_listed():
    record = PROVENANCE | json_record({**_rollback(), "value": math.inf})
    (restored,) = records_of("rollback", table_of("rollback", [record]))
    assert restored == record
    assert (restored["value"], restored["nonfinite"]) == (None, ["value"])
    (finite,) = records_of("rollback", table_of("rollback", [PROVENANCE | json_record(_rollback())]))
    assert "nonfinite" not in finite


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_of_a_kind_include_its_fields_without_duplicates(kind):
    names = schema_of(kind).names
    assert len(names) == len(set(names))
    assert {field.name for field in KINDS[kind].fields} <= set(names)


def test_the_schema_of_an_unknown_kind_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        schema_of("nothing")


def test_grouping_by_kind_keeps_the_order():
    rows = [transition(0, step) for step in range(3)]
    assert by_kind([rows[0], {"kind": "x"}, *rows[1:]]) == {"seed_transition": rows, "x": [{"kind": "x"}]}


def _rollback():
    clock = {"round": 0, "episode": 0, "env": 0, "step": 3}
    return {"kind": "rollback", **clock, "reason": "loss", "value": 15.0, "threshold": 7.0}
