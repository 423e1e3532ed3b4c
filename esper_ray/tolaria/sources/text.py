"""Text task from one plain file, as characters or bytes."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import TokenData, TokenSplit

PREFERRED = "input.txt"
MOST_CHARACTERS = 256


def load_text(config: TaskConfig, device: torch.device) -> TokenData:
    """The text file in ``config.data_dir``, as characters (at most 256 distinct) or bytes.

    The vocabulary is the sorted distinct characters of the whole file, or the 256 bytes. The end of the file is
    the test split, the stretch before it the validation split, both as many blocks long as asked for; training
    blocks are those before, from the beginning.

    Raises:
        FileNotFoundError, ValueError: if there is not exactly one such file, it is not UTF-8, or it is too short.
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
    whole = torch.from_numpy(tokens).to(device)
    return TokenData(
        TokenSplit(whole[: lengths[0] if config.train_size else begin], block),
        TokenSplit(whole[begin:end], block),
        TokenSplit(whole[end:], block),
        classes=vocabulary,
        shifted=config.augment,
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
        names = ", ".join(path.name for path in paths)
        raise ValueError(f"{folder} holds {len(paths)} text files ({names}); needs one, or one named {PREFERRED}")
    return paths[0]


def read_utf8(path: Path) -> str:
    """The UTF-8 text of ``path`` with unchanged line ends.

    Raises:
        ValueError: if it is empty or not UTF-8, with the place of the first wrong byte.
    """
    content = path.read_bytes()
    if not content:
        raise ValueError(f"{path} is empty; needs UTF-8 text")
    return decode_utf8(content, path, 0)


def decode_utf8(content: bytes, path: Path, offset: int) -> str:
    """The text of ``content``, which begins at byte ``offset`` of ``path``.

    Raises:
        ValueError: with the place in the file of the first wrong byte.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{byte:02x} at offset {offset + error.start} ({error.reason})"
        ) from error


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
