"""The dashboard, once: seven rows of panels, and marks. ``dashboards/esper.json`` follows from here.

An operator reads it from above: is the run alive, does it learn, what grows, does the policy decide, is it
paid for the right thing, is anything broken, is the machine enough.
"""

from esper_ray.nissa.catalogue.panels_growth import LIFECYCLE, PULSE, TASK
from esper_ray.nissa.catalogue.panels_policy import POLICY, REWARD, SAFETY, SYSTEM
from esper_ray.nissa.catalogue.queries import series

ROWS = (PULSE, TASK, LIFECYCLE, POLICY, REWARD, SAFETY, SYSTEM)
ANNOTATIONS = (
    ("Rollbacks", f"sum by (reason) (increase({series('rollbacks_total')}[1m])) > 0", "{{reason}}", "red"),
    (
        "Fossilised",
        f"sum by (blueprint) (increase({series('seed_outcomes_total', 'outcome=`fossilized`')}[1m])) > 0",
        "{{blueprint}}",
        "green",
    ),
    ("Anomalies", f"sum by (type) (increase({series('anomalies_total')}[1m])) > 0", "{{type}}", "orange"),
)
"""Title, query, text and colour of marks on all time series."""
