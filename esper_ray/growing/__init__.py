"""Growth of a user's model in the user's own training loop, without Ray.

growing = grow(model, held_out, epochs=40)
for epoch in growing:                  # the policy acts, and sees what came of it
    for batch in loader:
        growing.train_step(batch)
    print(epoch)
grown = growing.plain()
"""

from esper_ray.growing.decisions import Step
from esper_ray.growing.session import GrowthSession
from esper_ray.growing.setup import grow

__all__ = ["GrowthSession", "Step", "grow"]
