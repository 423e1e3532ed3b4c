"""Lines about records: every kind has one, whatever the record holds."""

from hypothesis import given
from nissa_builders import any_records, complete

from esper_ray.karn.record_lines import TEXT_CHARACTERS, record_line
from esper_ray.nissa.catalogue.kinds import KINDS
from esper_ray.nissa.log.finite import json_record


@given(any_records)
def test_every_record_is_one_printable_line(record):
    line = record_line(json_record(record))
    assert line.isprintable()
    assert 0 < len(line) <= TEXT_CHARACTERS
    assert "not as declared" not in line


def test_every_kind_with_an_empty_record_has_a_line():
    for kind in KINDS:
        assert record_line({"kind": kind})
        assert "not as declared" not in record_line(complete({"kind": kind}))


def test_a_closed_gate_names_the_checks_that_failed():
    checks = [{"name": "contribution", "value": 0.5, "threshold": 1.0, "margin": -0.5, "passed": False}]
    record = {"kind": "gate", "round": 1, "env": 0, "step": 4, "slot": "r0c0", "gate": "G5", "checks": checks}
    assert record_line(complete(record)) == "r2 e0 s4  r0c0 gate G5 closed: contribution 0.5, needed 1"
