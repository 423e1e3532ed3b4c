"""The family ``loss`` over whole live episodes: a lower validation loss is paid."""

from esper_ray.leyline.stages import WITH_MODULE
from esper_ray.simic.accounts.booking import Booking
from esper_ray.simic.rewards import losses


def loss(b: Booking) -> None:
    """Improvement of the loss, rent, shaping, and the final loss."""
    t, config = b.t, b.config.loss
    if not t.terminated:
        change = t.measured.loss - t.known.loss
        b.pay("loss", losses.change_pay(change, config), f"validation loss {t.known.loss:.4f} -> {t.measured.loss:.4f}")
    settled = [r for r in t.after if r is not None and r.stage in WITH_MODULE and r.age >= config.grace_epochs]
    overhead = sum(report.parameters for report in settled)
    b.pay("rent", -losses.rent(overhead, t.host_parameters, config), f"{overhead} extra parameters")
    b.shape(config.stage_potential_weight, dwell=False)
    if t.truncated:
        b.pay("terminal", losses.final_pay(t.measured.loss, config), f"final loss {t.measured.loss:.4f}")
