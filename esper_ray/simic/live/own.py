"""Rewards of other packages: one function of a transition to ledger entries.

The function depends on its arguments alone: an episode that is resumed calls it again, in another process.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from esper_ray.leyline.config.reward import RewardConfig
from esper_ray.leyline.errors import UserError, shortened
from esper_ray.leyline.plugins.rewards import own_reward
from esper_ray.leyline.records import SOURCE_PATTERN, LedgerEntry
from esper_ray.simic.ledger import RewardError
from esper_ray.simic.live.step_context import StepContext
from esper_ray.simic.live.transition import Transition

MOST_SOURCES = 32
"""Most sources of the entries of a step; each is a series of metrics."""


class OwnReward:
    """A reward of another package with its options."""

    def __init__(self, config: RewardConfig) -> None:
        """
        Raises:
            PluginError: if there is no such reward, or it cannot be imported.
            ConfigError: if its options are not valid.
        """
        self._function, self.origin = own_reward(config)

    def book(self, b: StepContext) -> None:
        """Book the entries of a step. Those of amount 0 are left out.

        Raises:
            RewardError: if the function fails, or an entry is not valid.
        """
        b.entries += [entry for entry in self.entries(b.t) if entry.amount != 0.0]

    def entries(self, t: Transition) -> list[LedgerEntry]:
        """Entries of a transition.

        Raises:
            RewardError: if the function fails, or an entry is not valid.
        """
        try:
            booked: Any = self._function(t)
            if isinstance(booked, str | bytes) or not isinstance(booked, Iterable):
                raise TypeError(f"it must return ledger entries, got {shortened(booked)}")
            entries = [self._checked(entry, t) for entry in booked]
        except (RewardError, UserError):
            raise
        except Exception as error:  # the function of another package can raise anything
            raise self._failure(t, f"{type(error).__name__}: {error}") from error
        if len({entry.source for entry in entries}) > MOST_SOURCES:
            raise self._failure(t, f"its entries have more than {MOST_SOURCES} sources")
        return entries

    def _checked(self, entry: Any, t: Transition) -> LedgerEntry:
        if not isinstance(entry, LedgerEntry):
            raise self._failure(t, f"it must return ledger entries, got {shortened(entry)}")
        amount = entry.amount
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise self._failure(t, f"an amount must be a number, got {shortened(amount)}")
        if not re.fullmatch(SOURCE_PATTERN, entry.source):
            rule = "at most 40 small letters, digits, spaces, '_' and '-', from a letter on"
            raise self._failure(t, f"a source has {rule}, got {shortened(entry.source)}")
        if entry.step != t.step or not 0 <= entry.cause_step <= t.step:
            steps = f"step {entry.step}, cause_step {entry.cause_step}"
            raise self._failure(t, f"an entry is booked at step {t.step} and caused then or before, got {steps}")
        slots = [report.slot_id for report in (*t.before, *t.after) if report is not None]
        if entry.slot is not None and entry.slot not in slots:
            raise self._failure(t, f"slot {shortened(entry.slot)} holds no seed; {', '.join(slots) or 'none'} do")
        return replace(entry, amount=float(amount), explanation=str(entry.explanation))

    def _failure(self, t: Transition, problem: str) -> RewardError:
        return RewardError("own_reward_failed", f"{self.origin} failed at step {t.step}: {problem}")
