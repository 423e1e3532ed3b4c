"""esper-ray: morphogenetic neural networks, trained on Ray.

Networks that grow, blend in, keep or prune seed modules while they train, under a policy that is
itself trained by PPO. The packages, from the contracts upwards:

- ``leyline``: stages, actions, legality, observation layout, records, run configuration
- ``kasmina``: the growing network
- ``tolaria``: tasks, data, epoch training, measurement, governor
- ``simic``: rewards, attribution, PPO mathematics
- ``nissa``: run directories, event log, pictures
- ``environment``: ``MorphogenesisEnv``, the Gymnasium environment made of the above

None of them imports Ray; ``actors`` does. Importing this package registers the environment
``esper_ray/Morphogenesis-v0`` with Gymnasium.
"""

from esper_ray.registration import register

__version__ = "0.1.0"

register()
