"""Picture files of every kind: right 8-bit RGB, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from esper_ray.tolaria.sources.pictures import rgb_pixels

SIZE = 32
COLOURS = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
GREY = COLOURS[:, :, 0]


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content):
    return rgb_pixels(content, SIZE, "a.parquet, row 3")


def refusal(content):
    with pytest.raises(ValueError) as error:
        decoded(content)
    assert str(error.value).startswith("a.parquet, row 3: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(rows, width, height, depth, colour, before=b""):
    """A PNG file of the given bytes by row, made by hand, with the chunks ``before`` its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def grey_as_rgb(levels):
    return np.repeat(np.asarray(levels, dtype=np.uint8)[:, :, None], 3, axis=2)


def test_rgb_pixels_are_unchanged():
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(COLOURS))), COLOURS)


def test_grey_pixels_become_three_equal_channels():
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(GREY))), grey_as_rgb(GREY))


def test_one_bit_pixels_become_black_and_white():
    expected = np.where(GREY > 127, 255, 0)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(GREY > 127))), grey_as_rgb(expected))


@pytest.mark.parametrize(("depth", "factor"), [(2, 85), (4, 17)])
def test_few_grey_levels_span_the_whole_range(depth, factor):
    levels = GREY >> (8 - depth)
    bits = np.unpackbits(levels[:, :, None], axis=2)[:, :, 8 - depth :].reshape(SIZE, -1)
    content = raw_png([np.packbits(row).tobytes() for row in bits], SIZE, SIZE, depth, 0)
    np.testing.assert_array_equal(decoded(content), grey_as_rgb(levels * factor))


def test_palette_pixels_become_their_colours():
    image = Image.fromarray(COLOURS).quantize(16)
    np.testing.assert_array_equal(decoded(encoded(image)), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_is_scaled_by_257():
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(GREY.astype(np.uint16) * 257))), grey_as_rgb(GREY))


def test_sixteen_bit_grey_is_rounded():
    levels = np.zeros((SIZE, SIZE), dtype=np.uint16)
    levels[0, :6] = [128, 129, 385, 386, 65406, 65535]
    assert decoded(encoded(Image.fromarray(levels)))[0, :6, 1].tolist() == [0, 1, 1, 2, 254, 255]


@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bit_colours_are_scaled(alpha):
    samples = np.concatenate([COLOURS, np.full((SIZE, SIZE, 1), 255, np.uint8)], axis=2) if alpha else COLOURS
    wide = (samples.astype(">u2") * 257).astype(">u2")
    content = raw_png([row.tobytes() for row in wide], SIZE, SIZE, 16, 6 if alpha else 2)
    np.testing.assert_array_equal(decoded(content), COLOURS)


WIDE = [0, 128, 129, 385, 386, 32895, 32896, 65406, 65407, 65535]
ROUNDED = [0, 0, 1, 1, 2, 128, 128, 254, 255, 255]


@pytest.mark.parametrize("channels", [3, 4], ids=["colour", "colour and alpha"])
def test_sixteen_bit_colours_are_rounded_like_grey(channels):
    wide = np.full((SIZE, SIZE, channels), 65535, dtype=">u2")
    for channel in range(3):
        wide[channel, : len(WIDE), channel] = WIDE
    pixels = decoded(raw_png([row.tobytes() for row in wide], SIZE, SIZE, 16, {3: 2, 4: 6}[channels]))
    for channel in range(3):
        assert pixels[channel, : len(ROUNDED), channel].tolist() == ROUNDED
    levels = np.zeros((SIZE, SIZE), dtype=np.uint16)
    levels[0, : len(WIDE)] = WIDE
    assert decoded(encoded(Image.fromarray(levels)))[0, : len(WIDE), 0].tolist() == ROUNDED


def test_sixteen_bit_colours_with_transparent_pixels_are_refused():
    wide = np.full((SIZE, SIZE, 4), 65535, dtype=">u2")
    wide[3, 4, 3] = 65534  # 255 in 8 bits
    message = refusal(raw_png([row.tobytes() for row in wide], SIZE, SIZE, 16, 6))
    assert "mode RGBA with transparent pixels; needs opaque ones" in message
    rows = [row.tobytes() for row in wide[:, :, :3]]
    key = chunk(b"tRNS", struct.pack(">HHH", 65535, 65535, 65535))
    assert "mode RGB with transparent pixels" in refusal(raw_png(rows, SIZE, SIZE, 16, 2, key))
    other = chunk(b"tRNS", struct.pack(">HHH", 65535, 65535, 65280))  # equal in 8 bits
    assert decoded(raw_png(rows, SIZE, SIZE, 16, 2, other)).min() == 255


def test_sixteen_bit_grey_with_alpha_is_refused_by_name():
    content = raw_png([bytes([200, 255, 255, 255]) * SIZE] * SIZE, SIZE, SIZE, 16, 4)
    assert "mode RGBA (LA;16B); needs RGB, grey or a palette" in refusal(content)


@pytest.mark.parametrize(
    ("palette", "colours"),
    [(None, 0), (b"", 0), (bytes(range(15)), 5), (bytes(range(17)), 5)],
    ids=["no palette", "empty", "one colour too few", "part of a colour"],
)
def test_an_index_outside_the_palette_is_refused_with_the_number_of_colours(palette, colours):
    before = b"" if palette is None else chunk(b"PLTE", palette)
    content = raw_png([bytes([0, 1, 2, 5] * 8)] * SIZE, SIZE, SIZE, 8, 3, before)
    assert f"a pixel has colour 5 of a palette of {colours} colours" in refusal(content)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_an_index_of_few_bits_outside_the_palette_is_refused(depth):
    rows = [bytes([255]) * (SIZE * depth // 8)] * SIZE
    short, right = bytes(3 * (2**depth - 1)), bytes([9, 8, 7]) * 2**depth
    expected = f"a pixel has colour {2**depth - 1} of a palette of {2**depth - 1} colours"
    assert expected in refusal(raw_png(rows, SIZE, SIZE, depth, 3, chunk(b"PLTE", short)))
    pixels = decoded(raw_png(rows, SIZE, SIZE, depth, 3, chunk(b"PLTE", right)))
    assert pixels.reshape(-1, 3).tolist() == [[9, 8, 7]] * SIZE**2


def test_the_last_colour_of_a_palette_is_decoded():
    content = raw_png([bytes([5]) * SIZE] * SIZE, SIZE, SIZE, 8, 3, chunk(b"PLTE", bytes(range(18))))
    assert decoded(content)[31, 31].tolist() == [15, 16, 17]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_opaque_alpha_channel_is_dropped(mode):
    image = Image.fromarray(COLOURS).convert(mode[:-1]).convert(mode)
    np.testing.assert_array_equal(decoded(encoded(image)), np.asarray(image.convert("RGB")))


def test_transparent_pixels_are_refused_with_their_alpha():
    for mode in ("RGBA", "LA"):
        image = Image.fromarray(COLOURS).convert(mode)
        image.putalpha(Image.fromarray(np.full((SIZE, SIZE), 40, np.uint8)))
        assert f"mode {mode} with alpha 40; needs opaque pixels (255)" in refusal(encoded(image))
    palette = encoded(Image.fromarray(COLOURS).quantize(16), transparency=3)
    assert "mode P with alpha 0; needs opaque pixels (255)" in refusal(palette)
    key = encoded(Image.fromarray(GREY), transparency=int(GREY[0, 0]))
    assert "mode L with alpha 0" in refusal(key)
    rows = [(row.astype(np.uint16) * 257).astype(">u2").tobytes() for row in GREY]
    wide = raw_png(rows, SIZE, SIZE, 16, 0, chunk(b"tRNS", rows[0][:2]))
    assert "with transparent pixels; needs opaque ones" in refusal(wide)


def test_cmyk_is_refused_by_name():
    message = refusal(encoded(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"))
    assert "a picture of mode CMYK; needs RGB, grey or a palette" in message


def test_jpeg_in_colour_and_grey_is_decoded():
    flat = np.full((SIZE, SIZE, 3), (200, 100, 50), dtype=np.uint8)
    colours = decoded(encoded(Image.fromarray(flat), "JPEG", quality=100))
    assert np.abs(colours.astype(int) - flat).max() <= 2
    grey = decoded(encoded(Image.fromarray(flat[:, :, 0]), "JPEG", quality=100))
    assert np.abs(grey.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "PPM", "WEBP"])
def test_other_formats_are_refused_with_their_first_bytes(kind):
    content = encoded(Image.fromarray(COLOURS), kind)
    assert f"not a PNG or JPEG file, it begins with {content[:8]!r}" in refusal(content)


def test_float_pictures_are_refused():
    content = encoded(Image.fromarray((GREY / 255.0).astype(np.float32)), "TIFF")
    assert "not a PNG or JPEG file" in refusal(content)


def test_postscript_does_not_reach_its_interpreter(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "EpsImageFile", lambda *args, **kwargs: pytest.fail("opened"))
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    assert "not a PNG or JPEG file, it begins with b'%!PS-Ado'" in refusal(content)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (32, 33), (8000, 8000)])
def test_another_size_is_refused_before_decoding(width, height):
    content = raw_png([b"not pixels"], width, height, 8, 2)
    assert f"an image of {width}x{height} pixels; must have 32x32" in refusal(content)


def test_decompression_bombs_are_refused_with_their_size():
    for edge in (12_000, 60_000):  # Pillow warns of the first and refuses the second
        message = refusal(raw_png([b""], edge, edge, 8, 2))
        assert f"{edge**2} pixels" in message


def test_animations_are_refused_with_the_number_of_frames():
    other = Image.fromarray(255 - COLOURS)
    content = encoded(Image.fromarray(COLOURS), save_all=True, append_images=[other])
    assert "an animation of 2 frames; needs one picture" in refusal(content)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_decoded_or_refused_in_one_line(seed):
    random = np.random.default_rng(seed)
    content = bytearray(encoded(Image.fromarray(COLOURS), "PNG" if seed % 2 else "JPEG"))
    for place in random.integers(0, len(content), 5):
        content[place] = random.integers(0, 256)
    damaged = bytes(content[: random.integers(1, len(content) + 1)])
    message, shape = "a.parquet, row 3: ", (SIZE, SIZE, 3)
    try:
        shape = decoded(damaged).shape
    except ValueError as error:
        message = str(error)
    assert shape == (SIZE, SIZE, 3)
    assert message.startswith("a.parquet, row 3: ")
