"""Configurations of runs with other workers."""


def placed(config, workers):
    """``config`` with another ``system.workers``."""
    return config.model_copy(update={"system": config.system.model_copy(update={"workers": workers})})
