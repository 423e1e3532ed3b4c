"""Cache of decoded data: atomic entries, verified content, optional unless configured."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from esper_ray.tolaria.sources.cache import Cache, CacheError, cache_at, cache_key

KEY = "0" * 64


def example():
    return {"images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "labels": np.array([3, 9])}


def fits(arrays):
    return {name: array.dtype.name for name, array in arrays.items()} == {"images": "uint8", "labels": "int64"}


def never():
    pytest.fail("the cache must serve this")


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_array_equal(actual[name], expected[name], strict=True)


def entry(folder):
    (path,) = folder.iterdir()
    return path


def test_the_second_call_uses_the_cached_entry(tmp_path):
    cache = Cache(tmp_path / "new" / "folder")
    created = cache.arrays(KEY, example, fits)
    cached = cache.arrays(KEY, never, fits)
    assert_same(created, example())
    assert_same(cached, example())
    assert cached["images"].flags.writeable  # torch warns about memory that it may not write
    assert entry(tmp_path / "new" / "folder").name == f"{KEY}.safetensors"


def test_noncontiguous_arrays_round_trip(tmp_path):
    strided = np.arange(24, dtype=np.int32).reshape(4, 6).T[::2]
    for make in (lambda: {"a": strided}, never):
        assert_same(Cache(tmp_path).arrays(KEY, make, lambda _: True), {"a": strided})


def shortened(path):
    path.write_bytes(path.read_bytes()[:-3])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def pickled(path):
    np.savez(path, images=np.array([{}]))
    Path(f"{path}.npz").rename(path)


def foreign(path):
    Cache(path.parent).arrays("1" * 64, lambda: {"other": np.zeros(3)}, lambda _: True)
    os.replace(path.parent / f"{'1' * 64}.safetensors", path)


@pytest.mark.parametrize("damage", [shortened, flipped, emptied, pickled, foreign])
def test_a_damaged_entry_is_replaced_with_a_warning(tmp_path, damage):
    cache = Cache(tmp_path)
    cache.arrays(KEY, example, fits)
    damage(entry(tmp_path))
    with pytest.warns(RuntimeWarning, match=rf"{KEY}.*is damaged .*made again"):
        assert_same(cache.arrays(KEY, example, fits), example())
    assert_same(cache.arrays(KEY, never, fits), example())


def test_a_failed_maker_leaves_no_entry(tmp_path):
    with pytest.raises(ZeroDivisionError):
        Cache(tmp_path).arrays(KEY, lambda: 1 // 0, fits)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_no_entry(tmp_path, monkeypatch):
    def interrupted(source, target):
        assert Path(source).parent == Path(target).parent == tmp_path
        assert Path(source).stat().st_size > 24  # the content is complete before the rename
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).arrays(KEY, example, fits)
    assert not list(tmp_path.iterdir())


def race(folder):
    arrays = [Cache(folder).arrays(f"{i % 3}" * 64, example, fits) for i in range(30)]
    return all((entry["images"] == example()["images"]).all() for entry in arrays)


@pytest.mark.slow
def test_concurrent_processes_read_complete_arrays(tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(race, [tmp_path] * 8)) == [True] * 8
    assert len(list(tmp_path.iterdir())) == 3


def test_an_unwritable_configured_folder_is_refused_before_decoding(tmp_path):
    (tmp_path / "file").touch()
    cache = cache_at(tmp_path / "file" / "cache")
    with pytest.raises(CacheError, match=r"file/cache \(task\.cache_dir\) cannot be written.*ESPER_RAY_CACHE"):
        cache.arrays(KEY, never, fits)


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="No space left on device"):
        cache_at(tmp_path).arrays(KEY, example, fits)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert_same(Cache(tmp_path).arrays(KEY, example, fits), example())
    assert not list(tmp_path.iterdir())


def test_an_unwritable_default_folder_disables_the_cache_with_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.delenv("ESPER_RAY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="decoded data is not kept.*file/esper-ray"):
        assert_same(cache_at(None).arrays(KEY, example, fits), example())


def test_the_folder_is_chosen_by_configuration_then_variables_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/tamiyo")
    monkeypatch.setenv("ESPER_RAY_CACHE", "/named")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_at(tmp_path) == Cache(tmp_path, "task.cache_dir")
    assert cache_at(None) == Cache(Path("/named"), "ESPER_RAY_CACHE")
    monkeypatch.setenv("ESPER_RAY_CACHE", "")
    assert cache_at(None) == Cache(Path("/xdg/esper-ray"))
    for value in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_at(None) == Cache(Path("/home/tamiyo/.cache/esper-ray"))


def test_a_key_depends_on_content_parts_decoder_and_version_only(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "moved").write_bytes(b"one")
    first, second = tmp_path / "a", tmp_path / "b"
    keys = {
        cache_key("images", 1, {"train": first, "test": second}),
        cache_key("images", 2, {"train": first, "test": second}),
        cache_key("texts", 1, {"train": first, "test": second}),
        cache_key("images", 1, {"train": second, "test": first}),
        cache_key("images", 1, {"train": first}),
    }
    assert len(keys) == 5
    same_content = {"train": tmp_path / "moved", "test": b"two"}
    assert cache_key("images", 1, same_content) == cache_key("images", 1, {"train": first, "test": second})
    # sha256("images 1" + "\ntrain " + sha256("one").hexdigest()), by the shell's sha256sum
    assert (
        cache_key("images", 1, {"train": first}) == "d4fb604086a8d3a97b20cfaef57295e631b7453823bc020965381cf2c7e765fd"
    )
