"""Names that the sections of a run give to choices."""

from esper_ray.karn.overwatch.runs.sections import _choice_names


def test_a_blueprint_of_ones_own_has_its_name_at_the_index_of_the_built_in_one():
    names = _choice_names({"blueprints": ["norm", "conv_light=my_block"], "slots": ["r0c0", "r0c1"]})
    assert names["blueprint"][:4] == ["noop", "my_block", "attention", "norm"]
    assert names["slot"] == ["r0c0", "r0c1"]
    assert names["op"][:2] == ["wait", "germinate"]


def test_without_own_blueprints_the_built_in_names_stand():
    assert _choice_names({})["blueprint"][:2] == ["noop", "conv_light"]
