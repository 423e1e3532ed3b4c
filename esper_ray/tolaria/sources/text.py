"""Text task from one plain file, as characters or bytes."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import TokenData, TokenSplit

PREFERRED = "input.txt"
MOST_CHARACTERS = 256
MOST_BYTES = 1 << 27
"""Maximum size of a text file (128 MiB); reading takes about ten times as much memory."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COPY = 512
"""Tokens of a passage; natural text does not repeat so long ones."""
MOST_PASSAGES = 256
"""Maximum number of passages of a held-out stretch that are looked for in the training text."""
MOST_COPIED = 0.1
"""Share of held-out passages that may be in the training text too, such as headers of files."""
OTHER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip"}
"""What a file is that begins so."""


def load_text(config: TaskConfig, device: torch.device) -> TokenData:
    """The text file in ``config.data_dir``, as characters (at most 256 distinct) or bytes.

    The vocabulary is the sorted distinct characters of the whole file, or the 256 bytes. The end of the file is
    the test split, the stretch before it the validation split, both as many blocks long as asked for; training
    blocks are those before, from the beginning.

    Raises:
        FileNotFoundError, ValueError: if there is not exactly one such file, it is not UTF-8, it is too short, or
            passages of its end are in the training text too.
    """
    assert config.data_dir is not None  # check_task has seen to it
    path = find_text(config.data_dir)
    tokens, vocabulary = encode(read_utf8(path))
    block = config.block_size
    lengths = [stretch(size, block) for size in (config.train_size or 1, config.validation_size, config.test_size)]
    if len(tokens) < sum(lengths):
        raise ValueError(
            f"{path} holds {len(tokens)} tokens; {config.train_size or 1} training, {config.validation_size} "
            f"validation and {config.test_size} test blocks of {block} need {sum(lengths)}"
        )
    end = len(tokens) - lengths[2]
    begin = end - lengths[1]
    last = lengths[0] if config.train_size else begin
    for name, held in (("validation", tokens[begin:end]), ("test", tokens[end:])):
        check_held_out(tokens[:last], held, f"{path}: {name}")
    whole = torch.from_numpy(tokens).to(device)
    return TokenData(
        TokenSplit(whole[:last], block),
        TokenSplit(whole[begin:end], block),
        TokenSplit(whole[end:], block),
        classes=vocabulary,
        shifted=config.augment,
    )


def check_held_out(train: NDArray[np.uint8], held: NDArray[np.uint8], place: str) -> None:
    """Refuse held-out text that is in the training text too.

    Passages of :data:`COPY` tokens are looked for; a shorter stretch has none.

    Raises:
        ValueError: if they are more than the share :data:`MOST_COPIED`.
    """
    starts = range(0, len(held) - COPY + 1, COPY)
    starts = starts[:: max(1, -(-len(starts) // MOST_PASSAGES))]
    known = train.tobytes()
    copied = sum(held[start : start + COPY].tobytes() in known for start in starts)
    if copied > MOST_COPIED * len(starts):
        raise ValueError(
            f"{place}: {copied} of {len(starts)} passages of {COPY} tokens are in the training text too; at most "
            f"{MOST_COPIED:.0%} may be, for accuracy on them says nothing"
        )


def stretch(blocks: int, block: int) -> int:
    """Number of tokens in ``blocks`` blocks plus the following one."""
    return blocks * block + 1


def find_text(folder: Path) -> Path:
    """``input.txt`` in ``folder``, or the only ``*.txt``.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several.
    """
    if (folder / PREFERRED).is_file():
        return folder / PREFERRED
    paths = sorted(path for path in folder.glob("*.txt") if path.is_file())
    if not paths:
        raise FileNotFoundError(f"no text in {folder}; needs one UTF-8 file *.txt")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
        raise ValueError(f"{folder} holds {len(paths)} text files ({names}); needs one, or one named {PREFERRED}")
    return paths[0]


def read_utf8(path: Path) -> str:
    """The UTF-8 text of ``path`` with unchanged line ends, without a byte order mark.

    Raises:
        ValueError: if it is empty, too large or not UTF-8, or holds a NUL, with the place of the first wrong byte.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {MOST_BYTES} are read")
    text = decode_utf8(content, path, 0)
    if not text:
        raise ValueError(f"{path} is empty; needs UTF-8 text")
    return text


def decode_utf8(content: bytes, path: Path, offset: int) -> str:
    """The text of ``content``, which begins at byte ``offset`` of ``path``.

    A byte order mark at the beginning of the file is not part of the text.

    Raises:
        ValueError: with the place in the file of the first wrong byte or NUL.
    """
    start = len(BYTE_ORDER_MARK) if offset == 0 and content.startswith(BYTE_ORDER_MARK) else 0
    zero = content.find(b"\0")
    kind = next((kind for mark, kind in OTHER_MARKS.items() if offset == 0 and content.startswith(mark)), None)
    if kind is not None:
        raise ValueError(f"{path} is not UTF-8: it begins as a {kind} file; convert it to UTF-8 text")
    if zero >= 0:
        raise ValueError(f"{path} is not text: byte 0x00 at offset {offset + zero}; needs UTF-8 text")
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        byte, place = content[start + error.start], offset + start + error.start
        raise ValueError(f"{path} is not UTF-8: byte 0x{byte:02x} at offset {place} ({error.reason})") from error


def encode(text: str) -> tuple[NDArray[np.uint8], int]:
    """Tokens of the sorted characters or the bytes of ``text``, and vocabulary size.

    Raises:
        ValueError: if it has only one distinct character.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    present = np.zeros(0x110000, dtype=bool)
    present[codes] = True
    characters = np.flatnonzero(present)
    if len(characters) < 2:
        raise ValueError(f"the text needs at least 2 distinct characters, got {text[:1]!r} alone")
    if len(characters) > MOST_CHARACTERS:
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).copy(), 256
    numbers = np.zeros(0x110000, dtype=np.uint8)
    numbers[characters] = np.arange(len(characters))
    return numbers[codes], len(characters)
