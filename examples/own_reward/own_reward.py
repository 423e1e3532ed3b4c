"""Example of a reward package: gained accuracy, minus rent for grown parameters."""

from collections.abc import Iterator

from pydantic import Field

from esper_ray.leyline.config.base import Section, Weight
from esper_ray.leyline.records import LedgerEntry
from esper_ray.simic.live.transition import Transition


class Options(Section):
    """Section ``reward.options`` of this reward."""

    rent: Weight = Field(0.1, description="price of growing by the size of the host, per step")


def frugal(t: Transition, options: Options) -> Iterator[LedgerEntry]:
    """Validation accuracy gained in the step, minus rent for the parameters of all seeds.

    It depends on its arguments alone, so that a resumed episode pays the same.
    """
    gained = t.measured.accuracy_pp - t.known.accuracy_pp
    yield LedgerEntry("gain", gained, t.step, t.step, explanation=f"accuracy {gained:+.2f} points")
    for report in t.after:
        if report is not None:
            share = report.parameters / t.host_parameters
            why = f"{report.parameters} parameters, {share:.0%} of the host"
            yield LedgerEntry("rent", -options.rent * share, t.step, t.step, report.slot_id, why)
