from esper_actors.session import train as train
from esper_ray.growing import grow as grow
from esper_ray.leyline.config.layers import load_config as load_config
from esper_ray.leyline.config.layers import load_preset as load_preset

__version__: str
