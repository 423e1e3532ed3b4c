"""TinyStories text files as GPT-2 tokens."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.data import TokenData, TokenSplit
from esper_ray.tolaria.sources.cache import Arrays, Cache, cache_at, cache_key
from esper_ray.tolaria.sources.text import decode_utf8, stretch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TRAIN, HELD, TOKENIZER = "TinyStories-train.txt", "TinyStories-valid.txt", "tokenizer.json"
END = "<|endoftext|>"
PIECE = 8 << 20
"""Approximate bytes of text per cached piece; pieces end where stories do."""
LONGEST_STORY = 64 << 20
"""Maximum bytes without an end of text in a TinyStories file."""
MOST_TOKENIZER_BYTES = 1 << 26
MOST_TOKENS = 1 << 20
"""Maximum size of a vocabulary."""
STORIES = 1000
"""Stories per tokenizer call, whose result needs far more memory than the tokens."""
DECODER_VERSION = 1
"""Version of the encoder; raise it when its tokens change."""
SOURCE = "https://huggingface.co/datasets/roneneldan/TinyStories"


def load_tinystories(config: TaskConfig, device: torch.device) -> TokenData:
    """Children's stories, each followed by the token ``<|endoftext|>``.

    Training blocks are cut from the training file, of which no more is read than ``train_size`` needs; validation
    and then test blocks from the beginning of the validation file.

    Raises:
        FileNotFoundError, ValueError: if a file is missing, broken or too short.
    """
    assert config.data_dir is not None  # check_task has seen to it
    find_tinystories(config.data_dir)
    tokenizer = read_tokenizer(config.data_dir / TOKENIZER)
    encoded = partial(
        read_tokens,
        tokenizer=tokenizer,
        key=(config.data_dir / TOKENIZER).read_bytes(),
        cache=cache_at(config.cache_dir),
    )
    block = config.block_size
    validation, test = stretch(config.validation_size, block), stretch(config.test_size, block)
    held = encoded(config.data_dir / HELD, wanted=validation + test)
    train = encoded(config.data_dir / TRAIN, wanted=stretch(config.train_size, block) if config.train_size else 0)
    if not config.train_size and len(train) < stretch(1, block):
        raise ValueError(f"{config.data_dir / TRAIN} holds {len(train)} tokens; a block needs {stretch(1, block)}")
    return TokenData(
        TokenSplit(torch.from_numpy(train).to(device), block),
        TokenSplit(torch.from_numpy(held[:validation]).to(device), block),
        TokenSplit(torch.from_numpy(held[validation:]).to(device), block),
        classes=vocabulary_size(tokenizer),
        shifted=config.augment,
    )


def find_tinystories(folder: Path) -> None:
    """Check that ``folder`` holds the files of the task.

    Raises:
        FileNotFoundError: naming the missing file and its source.
    """
    for name in (TRAIN, HELD):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; it is published at {SOURCE}")
    if not (folder / TOKENIZER).is_file():
        raise FileNotFoundError(
            f"no {TOKENIZER} of GPT-2 in {folder}; get it with: "
            f"hf download openai-community/gpt2 {TOKENIZER} --local-dir {folder}"
        )


def read_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in a ``tokenizer.json``.

    Raises:
        ValueError: if it cannot be read, is too large, or has no token ``<|endoftext|>``.
    """
    from tokenizers import Tokenizer

    if path.stat().st_size > MOST_TOKENIZER_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; at most {MOST_TOKENIZER_BYTES} are read")
    content = path.read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except BaseException as error:  # the library raises nothing narrower, and a panic of its core is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{path} is not a tokenizer that can be read: {error}") from error
    size = vocabulary_size(tokenizer)
    if size > MOST_TOKENS:
        raise ValueError(f"{path} has token {size - 1}; at most {MOST_TOKENS} tokens are possible")
    if tokenizer.token_to_id(END) is None:
        raise ValueError(f"{path} has no token {END}; needs the tokenizer of GPT-2")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: "Tokenizer") -> int:
    """The largest token plus 1."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def read_tokens(path: Path, wanted: int, *, tokenizer: "Tokenizer", key: bytes, cache: Cache) -> NDArray[np.int32]:
    """The first ``wanted`` tokens of ``path``, or all for 0; (N,).

    Pieces are cached one by one, by their content. So memory stays small, and a larger ``wanted`` reuses them.

    Args:
        key: content of the tokenizer's file.

    Raises:
        ValueError: if the file holds fewer, or is not UTF-8.
    """
    parts: list[NDArray[np.int32]] = []
    count = offset = 0
    for piece in pieces(path):
        name = cache_key("tinystories", DECODER_VERSION, {"tokenizer": key, "text": piece})
        make = partial(_encoded, piece, path, offset, tokenizer)
        parts.append(cache.arrays(name, make, _are_tokens)["tokens"])
        offset += len(piece)
        count += len(parts[-1])
        if wanted and count >= wanted:
            break
    if not count or count < wanted:
        raise ValueError(f"{path} holds {count} tokens; needs {wanted or 'at least one'}")
    tokens: NDArray[np.int32] = np.concatenate(parts)
    return tokens[:wanted] if wanted else tokens


def pieces(path: Path) -> Iterator[bytes]:
    """Pieces of ``path`` of about :data:`PIECE` bytes, each but the last ending with ``<|endoftext|>``.

    Raises:
        ValueError: if there is no end of a story for very long.
    """
    marker, rest = END.encode(), b""
    with path.open("rb") as file:
        while chunk := file.read(PIECE):
            rest += chunk
            cut = rest.rfind(marker) + len(marker)
            if cut >= len(marker):
                yield rest[:cut]
                rest = rest[cut:]
            elif len(rest) > LONGEST_STORY:
                raise ValueError(f"{path} has no {END} within {len(rest)} bytes; stories must be separated by it")
    if rest.strip():
        yield rest


def _encoded(piece: bytes, path: Path, offset: int, tokenizer: "Tokenizer") -> Arrays:
    """``tokens``: (N,) int32."""
    text = decode_utf8(piece, path, offset)
    stories = [story for part in text.split(END) if (story := part.strip())]
    end = tokenizer.token_to_id(END)
    encoded = [
        np.asarray([*encoding.ids, end], dtype=np.int32)
        for first in range(0, len(stories), STORIES)
        for encoding in tokenizer.encode_batch(stories[first : first + STORIES], add_special_tokens=False)
    ]
    return {"tokens": np.concatenate(encoded) if encoded else np.empty(0, dtype=np.int32)}


def _are_tokens(arrays: Arrays) -> bool:
    return list(arrays) == ["tokens"] and arrays["tokens"].dtype == np.int32 and arrays["tokens"].ndim == 1
