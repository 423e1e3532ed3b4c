"""The terms of all reward modes as pure functions. Accuracies and contributions in percentage points, losses in nats.

:mod:`esper_ray.simic.live` combines them into the rewards of live episodes.
"""
