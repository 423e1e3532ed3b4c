from esper_actors.session import train as train
from esper_ray.growing import grow as grow
from esper_ray.leyline.config.loading import load_preset as load_preset

__version__: str
