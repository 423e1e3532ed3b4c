"""Rewards of other packages: their entries are booked, and what is wrong is refused."""

import sys
import types

import pytest
from plugin_builders import install_examples
from transition_builders import EMPTY, make_engine, plain, report, transition

from esper_ray.leyline.config.loading import ConfigError
from esper_ray.leyline.records import LedgerEntry
from esper_ray.leyline.stages import Stage
from esper_ray.simic.ledger import RewardError

HELD = (report("r0c0", Stage.HOLDING, parameters=80), None, None)


@pytest.fixture
def offered(monkeypatch):
    """A function that makes a reward importable as ``paying:pay``."""

    def make(pay):
        module = types.ModuleType("paying")
        module.pay = pay
        monkeypatch.setitem(sys.modules, "paying", module)
        return make_engine("paying:pay")

    return make


def test_the_example_pays_the_gain_and_charges_rent(tmp_path, monkeypatch):
    install_examples(tmp_path / "site", monkeypatch, ("own_reward",))
    engine = make_engine("frugal", options={"rent": 0.5})
    entries = engine.settle(transition(after=HELD, known=plain(40.0), measured=plain(41.5)))
    assert [(e.source, e.amount, e.slot, e.step, e.cause_step) for e in entries] == [
        ("gain", 1.5, None, 0, 0),
        ("rent", -0.25, "r0c0", 0, 0),  # 80 of the host's 160 parameters
    ]
    assert engine.ledger.total() == 1.25
    with pytest.raises(ConfigError, match=r"reward\.options\.rent: Input should be greater than or equal to 0"):
        make_engine("frugal", options={"rent": -0.5})


def test_entries_of_zero_are_left_out_and_integers_become_floats(offered):
    engine = offered(lambda t: [LedgerEntry("nothing", 0.0, t.step, t.step), LedgerEntry("one", 1, t.step, t.step)])
    (entry,) = engine.settle(transition())
    assert (entry.source, entry.amount, type(entry.amount)) == ("one", 1.0, float)


def test_a_rollback_is_charged_besides(offered):
    engine = offered(lambda t: [])
    entries = engine.settle(transition(step=4, restored_because_of=2))
    assert [(e.source, e.amount, e.cause_step) for e in entries] == [("rollback", -10.0, 2)]


def test_entries_before_a_resumed_state_count_as_before(offered):
    engine = offered(lambda t: [LedgerEntry("one", 1.0, t.step, t.step)])
    engine.settle(transition())
    other = make_engine("paying:pay")
    other.resume(engine.saved())
    assert (other.ledger.entries, other.accounts) == (engine.ledger.entries, engine.accounts)


def entry(**changes):
    return LedgerEntry(**{"source": "one", "amount": 1.0, "step": 3, "cause_step": 3} | changes)


@pytest.mark.parametrize(
    ("paid", "message"),
    [
        (lambda t: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda t: 3, "it must return ledger entries, got 3"),
        (lambda t: None, "it must return ledger entries, got None"),
        (lambda t: "entries", "it must return ledger entries, got 'entries'"),
        (lambda t: [1.0], r"it must return ledger entries, got 1\.0"),
        (lambda t: [entry(amount="1")], "an amount must be a number, got '1'"),
        (lambda t: [entry(amount=True)], "an amount must be a number, got True"),
        (lambda t: [entry(source="Big Gain")], "a source has at most 40 small letters.* got 'Big Gain'"),
        (lambda t: [entry(step=2)], "booked at step 3 and caused then or before, got step 2, cause_step 3"),
        (lambda t: [entry(cause_step=4)], "got step 3, cause_step 4"),
        (lambda t: [entry(slot="r0c1")], "slot 'r0c1' holds no seed; r0c0 do"),
        (lambda t: [entry(source=f"s{i}") for i in range(33)], "its entries have more than 32 sources"),
    ],
)
def test_a_reward_that_fails_or_pays_nonsense_is_refused_and_nothing_is_paid(offered, paid, message):
    engine = offered(paid)
    with pytest.raises(RewardError, match=f"reward 'paying:pay' failed at step 3: .*{message}"):
        engine.settle(transition(step=3, after=HELD))
    assert engine.ledger.entries == ()
    assert len(engine.accounts.accuracies_pp) == 1


def test_an_amount_that_is_not_finite_is_refused(offered):
    engine = offered(lambda t: [entry(amount=float("nan"))])
    with pytest.raises(ValueError, match="ledger entry 'one' at step 3 has amount nan"):
        engine.settle(transition(step=3, before=EMPTY))
    assert engine.ledger.entries == ()
