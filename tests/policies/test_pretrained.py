"""The bundles that ship, and their cards."""

import pytest

from esper_policies.bundle import PRETRAINED, load_bundle, pretrained_names, pretrained_path

MOST_BYTES = 2_000_000


def test_one_bundle_ships_under_the_name_tamiyo():
    assert pretrained_names() == ["tamiyo"]
    assert pretrained_path("tamiyo") == PRETRAINED / "tamiyo.esper"
    assert pretrained_path("tamyo") is None


@pytest.mark.parametrize("name", pretrained_names())
def test_a_bundle_that_ships_is_small_and_its_card_is_about_it(name):
    path = pretrained_path(name)
    assert path.stat().st_size <= MOST_BYTES
    manifest, card = load_bundle(path).manifest, path.with_suffix(".md").read_text()
    provenance = manifest.provenance
    assert manifest.weights_sha256 in card
    assert f"{manifest.parameters:,} parameters" in card
    assert f"{provenance.round} rounds" in card
    assert all(topology.value in card for topology in manifest.topologies)
