"""Files of figures."""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from esper_ray.leyline.files.durable import write_file


def write_picture(path: Path, figure: Figure, dpi: int = 120) -> None:
    """Write a figure as PNG.

    Args:
        dpi: pixels per inch.

    Raises:
        WriteError: if the file cannot be written.
    """
    content = BytesIO()
    figure.savefig(content, dpi=dpi)
    write_file(path, content.getvalue())
