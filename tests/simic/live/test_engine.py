"""The table of reward modes: one rule for each mode of the configuration."""

import pytest
from pydantic import ValidationError

from esper_ray.leyline.config.reward import REWARD_MODES, RewardConfig
from esper_ray.simic.live.engine import RULES, needs_control


def test_every_mode_and_family_of_the_configuration_has_a_rule():
    assert RULES.keys() == {*(("contribution", mode) for mode in REWARD_MODES), ("loss", "shaped")}
    assert len({rule.book for rule in RULES.values()}) == len(RULES)


def test_the_rules_are_the_combinations_that_the_configuration_accepts():
    for mode in REWARD_MODES:
        for family in ("contribution", "loss"):
            if (family, mode) in RULES:
                assert RewardConfig(family=family, mode=mode).mode == mode
            else:
                with pytest.raises(ValidationError, match="has the mode 'shaped' only"):
                    RewardConfig(family=family, mode=mode)


def test_only_settlement_needs_a_control():
    assert [mode for mode in REWARD_MODES if needs_control(RewardConfig(mode=mode))] == ["settlement"]
    assert not needs_control(RewardConfig(family="loss"))
