"""Text as tokens: characters, bytes, and tokens of a small tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from esper_ray.leyline.config.run import TaskConfig
from esper_ray.tolaria.sources import text, tinystories
from esper_ray.tolaria.sources.text import check_held_out, encode
from esper_ray.tolaria.sources.tinystories import pieces
from esper_ray.tolaria.tasks import TaskError, check_task, load_task

CPU = torch.device("cpu")
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "tinyshakespeare"
needs_real = pytest.mark.skipif(not (REAL / "input.txt").is_file(), reason=f"tiny Shakespeare is not in {REAL}")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Cache folder of the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ESPER_RAY_CACHE", str(folder))
    return folder


def text_task(folder, train=0, validation=1, test=1, block=4, **others):
    return TaskConfig(
        name="text",
        data_dir=folder,
        train_size=train,
        validation_size=validation,
        test_size=test,
        block_size=block,
        **others,
    )


def splits(data):
    return [split.tokens.tolist() for split in (data.train, data.validation, data.test)]


# One file


def test_characters_are_numbered_in_sorted_order():
    tokens, vocabulary = encode("ba\nbé")
    assert (tokens.tolist(), vocabulary) == ([2, 1, 0, 2, 3], 4)
    assert tokens.dtype == np.uint8


def test_characters_are_used_up_to_256_distinct_ones_and_bytes_beyond():
    most = "".join(chr(0x100 + i) for i in range(256))
    assert encode(most[::-1])[0].tolist() == list(range(255, -1, -1))
    assert encode(most)[1] == 256
    tokens, vocabulary = encode(most + "é")
    assert (tokens[:2].tolist(), tokens[-2:].tolist(), len(tokens), vocabulary) == ([196, 128], [195, 169], 514, 256)


def test_splits_are_contiguous_and_the_last_ones_are_held_out(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrstuvwxyz")
    data = load_task(text_task(tmp_path, validation=2, test=1), CPU)
    assert splits(data) == [list(range(12)), list(range(12, 21)), list(range(21, 26))]
    assert [len(data.train), len(data.validation), len(data.test)] == [2, 2, 1]
    assert (data.classes, data.example_shape, data.train.tokens.dtype) == (26, (4,), torch.uint8)
    assert data.random_guess_loss == pytest.approx(3.258096538021482)  # ln 26


def test_a_limited_training_split_has_the_first_blocks(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrstuvwxyz")
    data = load_task(text_task(tmp_path, train=1), CPU)
    assert splits(data) == [[0, 1, 2, 3, 4], [16, 17, 18, 19, 20], [21, 22, 23, 24, 25]]
    assert data.classes == 26  # those of the whole file


def random_text(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh .\n"), length))


def test_a_file_that_holds_its_text_twice_is_refused_with_the_numbers(tmp_path):
    (tmp_path / "input.txt").write_text(random_text(20_000) * 2)
    task = text_task(tmp_path, validation=40, test=40, block=64)
    with pytest.raises(TaskError, match="validation: 5 of 5 passages of 512 tokens are in the training text too"):
        load_task(task, CPU)
    (tmp_path / "input.txt").write_text(random_text(20_000) + random_text(20_000, seed=1))
    assert len(load_task(task, CPU).validation) == 40


def test_few_passages_that_occur_in_the_training_text_are_accepted():
    train, held = np.frombuffer(random_text(20_000).encode(), np.uint8), random_text(512 * 20, seed=1).encode()
    for copies, refused in ((2, False), (3, True)):
        mixed = np.frombuffer(train[7 : 7 + 512 * copies].tobytes() + held[512 * copies :], np.uint8)
        if refused:
            with pytest.raises(ValueError, match="a: 3 of 20 passages of 512 tokens"):
                check_held_out(train, mixed, "a")
        else:
            check_held_out(train, mixed, "a")
    check_held_out(train, train[:511], "a")


def test_a_bounded_number_of_passages_is_looked_for():
    train = np.zeros(1000, np.uint8)
    with pytest.raises(ValueError, match="a: 205 of 205 passages"):
        check_held_out(train, np.zeros(512 * 1025, np.uint8), "a")


def test_the_task_passes_augmentation_to_the_dataset(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrstuvwxyz")
    assert load_task(text_task(tmp_path, augment=True), CPU).shifted
    assert not load_task(text_task(tmp_path), CPU).shifted


def test_line_ends_are_tokens(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb" * 8)
    assert load_task(text_task(tmp_path), CPU).train.tokens[:4].tolist() == [2, 1, 0, 3]


def test_text_of_the_minimum_length_is_accepted_and_shorter_text_refused(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrstuvwxyz"[:15])
    assert [len(split) for split in splits(load_task(text_task(tmp_path), CPU))] == [5, 5, 5]
    (tmp_path / "a.txt").write_text("abcdefghijklmnopqrstuvwxyz"[:14])
    message = "a.txt holds 14 tokens; 1 training, 1 validation and 1 test blocks of 4 need 15"
    with pytest.raises(TaskError, match=message):
        load_task(text_task(tmp_path, split_seed=1), CPU)
    with pytest.raises(TaskError, match="3 training, 1 validation and 1 test blocks of 4 need 23"):
        load_task(text_task(tmp_path, train=3), CPU)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.txt is empty; needs UTF-8 text"),
        (b"a" * 100, "at least 2 distinct characters, got 'a' alone"),
        (b"abc\xff" * 10, r"a\.txt is not UTF-8: byte 0xff at offset 3 \(invalid start byte\)"),
        ("é".encode() * 40 + b"\xc3", r"byte 0xc3 at offset 80 \(unexpected end of data\)"),
        (b"\xef\xbb\xbf", r"a\.txt is empty; needs UTF-8 text"),
        (b"\xef\xbb\xbfab\xff" * 9, r"byte 0xff at offset 5 \(invalid start byte\)"),
        (b"ab\0c" * 30, r"a\.txt is not text: byte 0x00 at offset 2; needs UTF-8 text"),
        ("abc".encode("utf-16") * 9, r"begins as a UTF-16 file; convert it to UTF-8"),
        ("abc".encode("utf-16-le") * 9, r"is not text: byte 0x00 at offset 1"),
        (b"\x1f\x8b\x08" + b"z" * 50, r"begins as a gzip file"),
    ],
)
def test_empty_uniform_or_non_utf8_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(TaskError, match=message):
        load_task(text_task(tmp_path), CPU)


def test_a_byte_order_mark_is_no_token(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + b"abcdefghijklmnopqrstuvwxyz")
    data = load_task(text_task(tmp_path, validation=2, test=1), CPU)
    assert splits(data) == [list(range(12)), list(range(12, 21)), list(range(21, 26))]
    assert data.classes == 26


def test_a_text_above_the_bound_is_refused_with_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MOST_BYTES", 99)
    (tmp_path / "a.txt").write_bytes(b"ab" * 50)
    with pytest.raises(TaskError, match=r"a\.txt has 100 bytes; at most 99 are read"):
        load_task(text_task(tmp_path), CPU)
    (tmp_path / "a.txt").write_bytes(b"ab" * 49)
    assert load_task(text_task(tmp_path), CPU).classes == 2


def test_a_folder_needs_one_text_or_one_named_input(tmp_path):
    with pytest.raises(TaskError, match=r"no text in .*needs one UTF-8 file \*\.txt"):
        check_task(text_task(tmp_path))
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text("never read" * 10)
    with pytest.raises(TaskError, match=r"holds 2 text files \(a\.txt, b\.txt\); needs one, or one named input\.txt"):
        check_task(text_task(tmp_path))
    (tmp_path / "input.txt").write_text("xy" * 20)
    assert load_task(text_task(tmp_path), CPU).classes == 2


@needs_real
def test_tiny_shakespeare_has_65_characters_and_round_trips():
    data = load_task(text_task(REAL, validation=40, test=40, block=128), CPU)
    assert data.classes == 65
    assert [len(data.train), len(data.validation), len(data.test)] == [8633, 40, 40]
    content = (REAL / "input.txt").read_text()
    characters = sorted(set(content))
    assert len(content) == sum(len(part) for part in splits(data)) == 1_115_394
    assert "".join(characters[token] for part in splits(data) for token in part) == content


# Stories


def words(*, end="<|endoftext|>", **more):
    """A tokenizer that splits at spaces, with a small vocabulary."""
    vocabulary = {word: i for i, word in enumerate(["?", "the", "cat", "dog", "ran", "sat", "on", "a", "mat", "."])}
    special = {"content": end, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": 10, "special": True, **special}],
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
        }
        | more
    )


STORY, SECOND_STORY = "the cat sat on a mat .", "a dog ran .\n\nthe dog sat ."
STORY_TOKENS, SECOND_TOKENS = [1, 2, 5, 6, 7, 8, 9, 10], [7, 3, 4, 9, 1, 3, 5, 9, 10]


@pytest.fixture
def stories(tmp_path):
    (tmp_path / "TinyStories-train.txt").write_text(f"{STORY}\n<|endoftext|>\n{SECOND_STORY}\n<|endoftext|>\n" * 3)
    (tmp_path / "TinyStories-valid.txt").write_text(f"{SECOND_STORY}\n<|endoftext|>\n\n{STORY}")
    (tmp_path / "tokenizer.json").write_text(words())
    return tmp_path


def stories_task(folder, train=0, validation=1, test=1, block=4, **others):
    return text_task(folder, train, validation, test, block, **others).model_copy(update={"name": "tinystories"})


def test_every_story_ends_with_the_end_of_text_token(stories):
    data = load_task(stories_task(stories), CPU)
    assert splits(data) == [
        (STORY_TOKENS + SECOND_TOKENS) * 3,
        SECOND_TOKENS[:5],
        [*SECOND_TOKENS[5:], STORY_TOKENS[0]],
    ]
    assert (data.classes, data.train.tokens.dtype, data.example_shape) == (11, torch.int32, (4,))


@pytest.mark.parametrize("size", [30, 60, 90, 1000])
def test_pieces_end_at_story_ends_and_cover_the_file(stories, monkeypatch, size):
    monkeypatch.setattr(tinystories, "PIECE", size)
    path = stories / "TinyStories-train.txt"
    parts = list(pieces(path))
    assert b"".join(parts).rstrip() == path.read_bytes().rstrip()
    assert all(part.endswith(b"<|endoftext|>") for part in parts)
    assert len(parts) > 1 or size == 1000
    assert load_task(stories_task(stories), CPU).train.tokens.tolist() == (STORY_TOKENS + SECOND_TOKENS) * 3


def test_the_file_is_read_only_as_far_as_the_training_blocks_need(stories, cache, monkeypatch):
    monkeypatch.setattr(tinystories, "PIECE", 60)
    broken = b"\xff not UTF-8, and never met"
    with (stories / "TinyStories-train.txt").open("ab") as file:
        file.write(broken)
    data = load_task(stories_task(stories, train=3), CPU)
    assert data.train.tokens.tolist() == (STORY_TOKENS + SECOND_TOKENS)[:13]
    assert len(data.train) == 3
    with pytest.raises(TaskError, match=r"train\.txt is not UTF-8: byte 0xff at offset 234"):
        load_task(stories_task(stories), CPU)


def test_pieces_are_encoded_once_for_all_sizes(stories, cache, monkeypatch):
    monkeypatch.setattr(tinystories, "PIECE", 60)
    load_task(stories_task(stories, train=3), CPU)
    before = len(list(cache.iterdir()))
    monkeypatch.setattr(tinystories, "_encoded", lambda *args: pytest.fail("encoded again"))
    smaller = load_task(stories_task(stories, train=2), CPU)
    assert smaller.train.tokens.tolist() == (STORY_TOKENS + SECOND_TOKENS)[:9]
    assert len(list(cache.iterdir())) == before


def test_another_tokenizer_gives_other_cache_entries(stories):
    load_task(stories_task(stories), CPU)
    (stories / "tokenizer.json").write_text(words().replace('"cat": 2, "dog": 3', '"dog": 2, "cat": 3'))
    assert load_task(stories_task(stories, split_seed=1), CPU).train.tokens[:3].tolist() == [1, 3, 5]


def test_truncation_and_padding_of_the_tokenizer_are_switched_off(stories):
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padded = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "?",
    }
    (stories / "tokenizer.json").write_text(words(truncation=cut, padding=padded))
    assert load_task(stories_task(stories), CPU).train.tokens.tolist() == (STORY_TOKENS + SECOND_TOKENS) * 3


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("TinyStories-train.txt", "published at https://huggingface.co/datasets/roneneldan/TinyStories"),
        ("TinyStories-valid.txt", "published at https://huggingface.co/datasets/roneneldan/TinyStories"),
        ("tokenizer.json", r"hf download openai-community/gpt2 tokenizer\.json --local-dir"),
    ],
)
def test_a_missing_file_is_refused_with_its_source(stories, name, advice):
    (stories / name).unlink()
    with pytest.raises(TaskError, match=f"no {name} .*{advice}"):
        check_task(stories_task(stories))


def test_an_invalid_tokenizer_or_one_without_end_token_is_refused(stories):
    (stories / "tokenizer.json").write_text("{}")
    with pytest.raises(TaskError, match=r"tokenizer\.json is not a tokenizer that can be read"):
        load_task(stories_task(stories), CPU)
    (stories / "tokenizer.json").write_text(words(end="<eos>"))
    with pytest.raises(TaskError, match=r"tokenizer\.json has no token <\|endoftext\|>; needs the tokenizer of GPT-2"):
        load_task(stories_task(stories), CPU)


def test_a_huge_tokenizer_or_vocabulary_is_refused_with_its_size(stories, monkeypatch):
    (stories / "tokenizer.json").write_text(words().replace('"mat": 8', '"mat": 4000000000'))
    with pytest.raises(TaskError, match=r"tokenizer\.json (has token 4000000000; at most|is not a tokenizer)"):
        load_task(stories_task(stories), CPU)
    monkeypatch.setattr(tinystories, "MOST_TOKENIZER_BYTES", 10)
    with pytest.raises(TaskError, match=r"tokenizer\.json has \d+ bytes; at most 10 are read"):
        load_task(stories_task(stories), CPU)


def test_stories_may_begin_with_a_byte_order_mark(stories):
    path = stories / "TinyStories-train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_task(stories_task(stories), CPU).train.tokens.tolist() == (STORY_TOKENS + SECOND_TOKENS) * 3


def test_too_few_stories_are_refused_with_the_numbers(stories):
    with pytest.raises(TaskError, match=r"valid\.txt holds 17 tokens; needs 18"):
        load_task(stories_task(stories, validation=3, test=1), CPU)
    with pytest.raises(TaskError, match=r"train\.txt holds 51 tokens; needs 53"):
        load_task(stories_task(stories, train=13), CPU)
    (stories / "TinyStories-train.txt").write_text("the cat")
    with pytest.raises(TaskError, match=r"train\.txt holds 3 tokens; a block needs 5"):
        load_task(stories_task(stories), CPU)
    (stories / "TinyStories-train.txt").write_text("\n\n")
    with pytest.raises(TaskError, match=r"train\.txt holds 0 tokens; needs at least one"):
        load_task(stories_task(stories), CPU)


def test_a_file_without_story_ends_is_refused_within_a_bounded_read(stories, monkeypatch):
    monkeypatch.setattr(tinystories, "PIECE", 10)
    monkeypatch.setattr(tinystories, "LONGEST_STORY", 100)
    (stories / "TinyStories-train.txt").write_text("the cat sat " * 50)
    with pytest.raises(TaskError, match=r"train\.txt has no <\|endoftext\|> within 110 bytes"):
        load_task(stories_task(stories), CPU)
