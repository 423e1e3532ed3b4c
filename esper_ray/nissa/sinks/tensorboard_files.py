"""Sink for TensorBoard: event files in ``tensorboard/`` of the run directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from esper_ray.nissa.sinks.protocol import RunFacts


class TensorBoardSink:
    """Sink for TensorBoard, needs the package ``tensorboard``."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None

    def open(self, facts: RunFacts) -> None:
        """See :class:`Sink`. Removes entries after the finished rounds."""
        from torch.utils.tensorboard import SummaryWriter

        folder = str(facts.folder / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=facts.round_index or None)
        listing = "\n".join(f"    {name}: {json.dumps(value)}" for name, value in facts.config.items())
        self._writer.add_text("config", listing, facts.round_index)

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """See :class:`Sink`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, round_index)
        self._writer.flush()

    def close(self, status: str, picture: Path | None) -> None:
        """See :class:`Sink`."""
        self._writer.add_text("status", status)
        if picture is not None:
            with Image.open(picture) as image:
                self._writer.add_image("summary", np.asarray(image.convert("RGB")), dataformats="HWC")
        self._writer.close()
