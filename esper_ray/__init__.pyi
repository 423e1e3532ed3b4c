from esper_actors.session import train as train
from esper_ray.growing.session import GrowthSession as GrowthSession
from esper_ray.growing.setup import grow as grow
from esper_ray.kasmina.lifecycle.gates import GateRules as GateRules
from esper_ray.kasmina.lifecycle.reducer import Rules as Rules
from esper_ray.kasmina.model import MorphogeneticModel as MorphogeneticModel
from esper_ray.kasmina.optimizer import GrowingOptimizer as GrowingOptimizer
from esper_ray.leyline.config.layers import load_config as load_config
from esper_ray.leyline.config.layers import load_preset as load_preset

__version__: str
