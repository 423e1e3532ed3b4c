"""Sink for Weights & Biases: project from ``WANDB_PROJECT``, mode from ``WANDB_MODE``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper_ray.nissa.sinks.protocol import RunFacts

PROJECT = "esper-ray"
INIT_SECONDS = 20.0


class WandbSink:
    """Sink for Weights & Biases, needs the package ``wandb``."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, facts: RunFacts) -> None:
        """See :class:`Sink`."""
        import wandb

        settings = wandb.Settings(console="off", silent=True, init_timeout=INIT_SECONDS)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=facts.name.replace("/", "-"),
            name=facts.name,
            group=facts.run if facts.group else None,
            dir=str(facts.folder),
            config=dict(facts.config),
            resume="allow",
            settings=settings,
        )

    def round(self, values: Mapping[str, float], round_index: int) -> None:
        """See :class:`Sink`."""
        self._run.log(dict(values), step=round_index)

    def close(self, status: str, picture: Path | None) -> None:
        """See :class:`Sink`."""
        import wandb

        self._run.summary["status"] = status
        if picture is not None:
            self._run.log({"summary": wandb.Image(str(picture))})
        self._run.finish(exit_code=0 if status == "finished" else 1)


def problem() -> str | None:
    """Why the sink cannot be used: no login, and not offline; ``None`` if it can."""
    import wandb

    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or wandb.login(prompt=False):
        return None
    return "no login: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
