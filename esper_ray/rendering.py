"""Drawing of an episode: text for a terminal, a picture for a video.

A slot is a lane from the first epoch to the last; its colour or letter is the stage of the seed in that epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from esper_ray.leyline.palette import INK, STAGE_COLOURS
from esper_ray.leyline.records import Reports, SlotReport
from esper_ray.leyline.stages import AMPLIFIED, Stage
from esper_ray.leyline.step_outcome import StepOutcome

RENDER_MODES = ("ansi", "rgb_array")
"""Modes of Gymnasium that an environment can draw in."""
STAGE_LETTERS: Mapping[Stage, str] = {
    stage: "F" if stage is Stage.FOSSILIZED else stage.name[0].lower() for stage in STAGE_COLOURS
}
"""Letter of a stage in a lane of text; an empty slot is a dot, an epoch that was not recorded a space."""
LANE_COLUMNS = 60
"""Maximum number of characters of a lane of text."""
WIDTH, HEADER, LANE, LEFT, MARGIN = 720, 44, 40, 60, 10
"""Pixels of a picture: its width, its heading, a lane with its gap, the names of slots, the margin."""
BAR, TEXT = 20, 14
"""Pixels of the bar of a lane, and of a line of text."""
PAPER, EMPTY = "#ffffff", "#f2f4f5"


@dataclass(frozen=True, slots=True)
class Drawing:
    """Drawing of one episode up to the present epoch."""

    outcome: StepOutcome
    """The last step."""
    slots: Sequence[str]
    length: int
    """Epochs of the episode."""
    lanes: Mapping[int, Reports]
    """The slots at the end of each recorded epoch, counted from 1."""

    def text(self) -> str:
        """Lines of plain text: heading, one lane for each slot, and the letters of the stages."""
        lines = [*self._heading()]
        for row, slot in enumerate(self.slots):
            lines.append(f"{slot:<6}|{self._lane(row)}| {_described(self.outcome.reports[row])}")
        letters = ", ".join(f"{letter} {stage.name.lower()}" for stage, letter in STAGE_LETTERS.items())
        return "\n".join([*lines, f"stages: {letters}"]) + "\n"

    def picture(self) -> NDArray[np.uint8]:
        """(height, width, 3) RGB picture; its size depends on the number of slots alone."""
        image = Image.new("RGB", (WIDTH, HEADER + LANE * len(self.slots)), PAPER)
        canvas = ImageDraw.Draw(image)
        for line, text in enumerate(self._heading()):
            canvas.text((MARGIN, MARGIN + line * TEXT), text, fill=INK)
        for row, slot in enumerate(self.slots):
            top = HEADER + LANE * row
            canvas.text((MARGIN, top + BAR // 4), slot, fill=INK)
            canvas.rectangle((LEFT, top, WIDTH - MARGIN, top + BAR), fill=EMPTY)
            for epoch, reports in self.lanes.items():
                self._draw_epoch(canvas, top, epoch, reports[row])
            canvas.text((LEFT, top + BAR + 1), _described(self.outcome.reports[row]), fill=INK)
        return np.asarray(image, dtype=np.uint8)

    def _heading(self) -> tuple[str, str]:
        outcome = self.outcome
        action = outcome.operation.name + ("" if outcome.slot is None else f" {outcome.slot}")
        failed = "" if outcome.success else " (illegal)" if outcome.illegal else " (no effect)"
        return (
            f"epoch {outcome.epoch} of {self.length}: validation accuracy {outcome.val_accuracy_pp:.1f} %, "
            f"committed {outcome.committed_accuracy_pp:.1f} %, {outcome.total_parameters:,} parameters "
            f"({outcome.growth_ratio:.2f} x host)",
            f"last action: {action}{failed}, reward {outcome.reward:+.3f}",
        )

    def _lane(self, row: int) -> str:
        """Letters of a lane. If there are more epochs than columns, a column shows its last recorded epoch."""
        columns = min(self.length, LANE_COLUMNS)
        letters = [" "] * columns
        for epoch in sorted(self.lanes):
            report = self.lanes[epoch][row]
            letters[(epoch - 1) * columns // self.length] = "." if report is None else STAGE_LETTERS[report.stage]
        return "".join(letters)

    def _draw_epoch(self, canvas: ImageDraw.ImageDraw, top: int, epoch: int, report: SlotReport | None) -> None:
        """Fill the cell of an epoch; the height of an amplified seed is its amplitude."""
        if report is None:
            return
        span = WIDTH - MARGIN - LEFT
        begin, end = (LEFT + span * place // self.length for place in (epoch - 1, epoch))
        share = report.alpha if report.stage in AMPLIFIED else 1.0
        height = max(1, round(BAR * min(max(share, 0.0), 1.0)))
        canvas.rectangle((begin, top + BAR - height, max(begin, end - 1), top + BAR), fill=STAGE_COLOURS[report.stage])


def _described(report: SlotReport | None) -> str:
    """Blueprint, stage, amplitude, size and contribution of a seed."""
    if report is None:
        return "empty"
    contribution = report.measured.contribution_pp
    measured = "not measured" if contribution is None else f"{contribution:+.2f} pp"
    return (
        f"{report.blueprint_name}, {report.stage.name}, amplitude {report.alpha:.2f}, "
        f"{report.parameters:,} parameters, contribution {measured}"
    )
