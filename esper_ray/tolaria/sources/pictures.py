"""Decoder of PNG and JPEG files into 8-bit RGB."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG")
"""Formats that are decoded; others, some of which have an interpreter, never reach their plug-in."""
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of grey PNG files with 16 bits, whose values a conversion to RGB would clip at 255."""
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
"""Modes that a conversion to RGB leaves as they look."""
WIDE = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""Layouts of PNG colours with 16 bits: the one whose high byte Pillow reads, and the one that gives the low byte."""


def rgb_pixels(content: bytes, size: int, where: str) -> NDArray[np.uint8]:
    """(size, size, 3) pixels of the picture file ``content``.

    Values of 16 bits are scaled and rounded; grey, palette and 1-bit pictures become RGB.

    Args:
        where: place of the picture, for messages.

    Raises:
        ValueError: if it is not a PNG or JPEG file, damaged, of another size, animated, transparent, with an index
            outside its palette, or of a mode that has no exact RGB values, such as CMYK.
    """
    image, layout = _opened(content, size, where)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"{where}: an animation of {frames} frames; needs one picture")
    if image.mode in SIXTEEN_BIT_MODES:
        return _scaled(image, where)
    if image.mode not in EIGHT_BIT_MODES or (";16" in layout and layout not in WIDE):
        kind = f"{image.mode} ({layout})" if ";16" in layout else image.mode
        raise ValueError(f"{where}: a picture of mode {kind}; needs RGB, grey or a palette")
    if layout in WIDE:
        return _scaled_colours(image, _opened(content, size, where, WIDE[layout])[0], where)
    if image.mode == "P":
        _check_palette(image, where)
    if "A" in image.mode or "transparency" in image.info:
        alpha = int(np.asarray(image.convert("RGBA"))[:, :, 3].min())
        if alpha < 255:
            raise ValueError(f"{where}: a picture of mode {image.mode} with alpha {alpha}; needs opaque pixels (255)")
    return np.asarray(image.convert("RGB"))


def _opened(content: bytes, size: int, where: str, layout: str | None = None) -> tuple["Image.Image", str]:
    """The decoded picture and the layout of its pixels in the file, in Pillow's words.

    Its size is checked before, so that a huge picture costs nothing.

    Args:
        layout: read the pixels as if they were stored so.

    Raises:
        ValueError: if it cannot be read or has another size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if (width, height) == (size, size):
            stored = str(image.tile[0][3]) if image.tile else ""
            if layout is not None:
                image.tile = [(*tile[:3], layout) for tile in image.tile]  # type: ignore[misc]  # plain before Pillow 11
            image.load()
            return image, stored
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{where}: a picture that cannot be read: not a PNG or JPEG file, it begins with {content[:8]!r}"
        ) from error
    except Exception as error:  # plug-ins raise whatever a damaged file leads to
        raise ValueError(f"{where}: a picture that cannot be read: {' '.join(str(error).split())}") from error
    raise ValueError(f"{where}: an image of {width}x{height} pixels; must have {size}x{size}")


def _scaled(image: "Image.Image", where: str) -> NDArray[np.uint8]:
    """RGB of a grey picture with 16 bits: 0..65535 to 0..255, rounded."""
    levels = np.asarray(image).astype(np.int64)
    if image.format != "PNG" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"{where}: a {image.format} picture of mode {image.mode}; needs RGB, grey or a palette")
    if (levels == image.info.get("transparency", -1)).any():
        raise ValueError(f"{where}: a picture of mode {image.mode} with transparent pixels; needs opaque ones")
    return np.repeat(_eight_bits(levels)[:, :, None], 3, axis=2)


def _scaled_colours(high: "Image.Image", low: "Image.Image", where: str) -> NDArray[np.uint8]:
    """RGB of a colour picture with 16 bits, from its high and its low bytes.

    Raises:
        ValueError: if a pixel is transparent.
    """
    levels = 256 * np.asarray(high).astype(np.int64) + np.asarray(low)
    key = high.info.get("transparency")
    if (levels[:, :, 3:] < 65535).any() or (key is not None and (levels == np.asarray(key)).all(axis=2).any()):
        raise ValueError(f"{where}: a picture of mode {high.mode} with transparent pixels; needs opaque ones")
    return _eight_bits(levels[:, :, :3])


def _eight_bits(levels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """0..65535 to 0..255, rounded."""
    return ((levels + 128) // 257).astype(np.uint8)


def _check_palette(image: "Image.Image", where: str) -> None:
    """Check that every pixel of a palette picture has a colour. Pillow decodes others as black.

    Raises:
        ValueError: naming the largest index and the number of colours.
    """
    colours = 0 if image.palette is None else len(image.palette.palette) // 3
    largest = int(np.asarray(image).max())
    if largest >= colours:
        raise ValueError(f"{where}: a pixel has colour {largest} of a palette of {colours} colours")
