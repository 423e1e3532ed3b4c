"""Rewards of live episodes, paid on success and for every slot alike.

:class:`~esper_ray.simic.live.engine.RewardEngine` turns each transition into ledger entries. Shaping runs over the
potentials of all slots and ends at 0; pay that comes late names the step that caused it.
"""
