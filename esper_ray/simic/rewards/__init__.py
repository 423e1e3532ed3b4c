"""The terms of all reward modes as pure functions. Accuracies and contributions in percentage points, losses in nats.

:mod:`~esper_ray.simic.rewards.step` puts them together as the historical modes do, for one step and one slot;
:mod:`esper_ray.simic.accounts` does so for whole live episodes.
"""
