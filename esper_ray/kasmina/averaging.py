"""Moving average of the weights of a growing network."""

from torch import nn
from torch.optim.swa_utils import AveragedModel

from esper_ray.kasmina.model import MorphogeneticModel


class AveragedGrowth(AveragedModel):
    """``torch.optim.swa_utils.AveragedModel`` that follows births, stages and ends.

    The average of a newborn seed starts from its weights at the next update. ``AveragedModel`` itself keeps the
    structure that it has copied, and averages parameters by their position: with seeds born later it is wrong.
    """

    def update_parameters(self, model: nn.Module) -> None:
        """Follow the structure of ``model``, then average its weights.

        Args:
            model: the averaged model, or a module around it such as ``DistributedDataParallel``.

        Raises:
            ValueError: if the module has other growing networks than the averaged one, or has folded a seed that the
                average has never seen.
        """
        averages, sources = _growing(self.module), _growing(model)
        if list(map(_places, averages)) != list(map(_places, sources)):
            raise ValueError(
                f"the average has {len(averages)} growing networks with slots {[a.slot_ids for a in averages]}, "
                f"the model {len(sources)} with {[s.slot_ids for s in sources]}"
            )
        for average, source in zip(averages, sources, strict=True):
            average.growth.follow(source.growth)
            average.refresh_places()
        super().update_parameters(model)


def _places(model: MorphogeneticModel) -> list[tuple[object, ...]]:
    return [(at.slot, at.place, at.layout, at.dtype) for at in model.attachments.values()]


def _growing(module: nn.Module) -> list[MorphogeneticModel]:
    return [part for part in module.modules() if isinstance(part, MorphogeneticModel)]
