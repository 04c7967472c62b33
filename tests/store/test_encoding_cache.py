from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from fmbseg.store.encoding_cache import _OPENED, _USED, EncodingCache

SHA = "ab" * 32
OTHER = "cd" * 32


def encoding(side: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "dense": rng.standard_normal((side, side, 16)).astype(np.float16),
        "offsets": np.arange(6, dtype=np.int64).reshape(3, 2),
        "size": np.array([128, 96], dtype=np.int32),
    }


@pytest.fixture
def cache(tmp_path: Path) -> EncodingCache:
    return EncodingCache(tmp_path, "clip", "key", budget_bytes=10**6)


def test_what_was_put_comes_back_bit_for_bit(cache: EncodingCache, tmp_path: Path) -> None:
    arrays = encoding()
    assert cache.get(SHA) is None
    cache.put(SHA, arrays)
    # Another process has its own object.
    found = EncodingCache(tmp_path, "clip", "key", budget_bytes=10**6).get(SHA)
    assert found is not None
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_another_key_does_not_see_it(cache: EncodingCache, tmp_path: Path) -> None:
    cache.put(SHA, encoding())
    assert EncodingCache(tmp_path, "clip", "other", budget_bytes=10**6).get(SHA) is None


def test_single_precision_is_refused(cache: EncodingCache) -> None:
    with pytest.raises(TypeError, match="dense is float32"):
        cache.put(SHA, {"dense": np.zeros(3, dtype=np.float32)})


@pytest.mark.parametrize("damage", ["truncated", "changed", "emptied"])
def test_damaged_entry_is_absent_and_can_be_put_again(
    cache: EncodingCache, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(SHA, encoding())
    (path,) = tmp_path.rglob("*.npz")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"")
    assert cache.get(SHA) is None
    assert "damaged encoding" in caplog.text
    cache.put(SHA, encoding())
    assert cache.get(SHA) is not None


def test_over_budget_nothing_is_stored_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EncodingCache(tmp_path, "clip", "key", budget_bytes=6000)
    cache.put(SHA, encoding())
    for number in range(3):
        cache.put(f"{number:064d}", encoding(32))
    assert cache.get(SHA) is not None
    assert cache.get(f"{0:064d}") is None
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert sum("is full" in record.message for record in caplog.records) == 1


def test_budget_counts_what_is_there_under_any_key(tmp_path: Path) -> None:
    EncodingCache(tmp_path, "clip", "a", budget_bytes=10**6).put(SHA, encoding())
    cache = EncodingCache(tmp_path, "sam", "a", budget_bytes=3000)
    cache.put(OTHER, encoding())
    assert cache.get(OTHER) is None


def test_no_budget_is_no_cache(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path / "encodings", "clip", "key", budget_bytes=0)
    cache.put(SHA, encoding())
    assert cache.get(SHA) is None
    assert not (tmp_path / "encodings").exists()


@pytest.mark.parametrize("place", ["root", "key"])
def test_a_folder_that_takes_nothing_is_one_warning(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "encodings"
    blocked = root if place == "root" else root / "clip-key" / SHA[:2]
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_bytes(b"")
    cache = EncodingCache(root, "clip", "key", budget_bytes=10**6)
    for _ in range(2):
        assert cache.get(SHA) is None
        cache.put(SHA, encoding())
    (warning,) = caplog.messages
    assert warning.startswith(f"encoding cache {root} cannot be ")


def test_putting_twice_keeps_the_first_and_leaves_nothing_else(
    cache: EncodingCache, tmp_path: Path
) -> None:
    cache.put(SHA, encoding())
    cache.put(SHA, encoding())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{SHA}.npz"]


def test_caches_of_one_folder_share_its_budget(tmp_path: Path) -> None:
    first, second = (
        EncodingCache(tmp_path, kind, "a", budget_bytes=6000) for kind in ("clip", "sam")
    )
    for number in range(3):
        for cache in (first, second):
            cache.put(f"{number:064d}", encoding())
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npz")) <= 6000


def test_a_full_cache_drops_what_is_no_longer_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three models of one kind, one after the other, and another kind in use all the time."""
    size = _size(tmp_path / "probe")
    budget = 4 * size

    def use(kind: str, key: str) -> EncodingCache:
        cache = EncodingCache(tmp_path, kind, key, budget)
        cache.put(f"{0:064d}", encoding())
        return cache

    use("clip", "a")
    _earlier(tmp_path, 30)
    use("clip", "b")
    _earlier(tmp_path, 20)
    sam, clip = use("sam", "a"), use("clip", "c")
    assert _held(tmp_path) == {"clip-a": 1, "clip-b": 1, "clip-c": 1, "sam-a": 1}
    with caplog.at_level("INFO"):
        clip.put(SHA, encoding())  # the one longest unused makes room, and no more than it
    assert _held(tmp_path) == {"clip-b": 1, "clip-c": 2, "sam-a": 1}
    assert [line for line in caplog.messages if "dropped" in line] == [
        f"encoding cache: {tmp_path / 'clip-a'}, of another model or other parameters, dropped"
    ]
    sam.put(SHA, encoding())
    assert _held(tmp_path) == {"clip-c": 2, "sam-a": 2}
    for cache in (sam, clip):
        cache.put(OTHER, encoding())  # all that is left is in use
    assert _held(tmp_path) == {"clip-c": 2, "sam-a": 2}
    assert clip.get(SHA) is not None and sam.get(SHA) is not None
    assert sum("is full" in line for line in caplog.messages) == 2


def test_a_model_taken_up_again_is_in_use(tmp_path: Path) -> None:
    budget = 2 * _size(tmp_path / "probe")
    for key, days in (("a", 30), ("b", 20)):
        EncodingCache(tmp_path, "clip", key, budget).put(SHA, encoding())
        _earlier(tmp_path, days)
    EncodingCache(tmp_path, "clip", "a", budget)
    EncodingCache(tmp_path, "sam", "a", budget).put(SHA, encoding())
    assert _held(tmp_path) == {"clip-a": 1, "sam-a": 1}


def test_what_one_process_uses_in_turn_stays(tmp_path: Path) -> None:
    # As the baselines do, where two methods look at pictures of different sizes.
    size = _size(tmp_path / "probe")
    first, second = (EncodingCache(tmp_path, "clip", key, 2 * size) for key in ("a", "b"))
    for sha in (SHA, OTHER):
        for cache in (first, second):
            cache.put(sha, encoding())
    assert _held(tmp_path) == {"clip-a": 1, "clip-b": 1}
    assert first.get(SHA) is not None and second.get(SHA) is not None


def test_room_that_another_process_has_made_is_seen(tmp_path: Path) -> None:
    size = _size(tmp_path / "probe")
    EncodingCache(tmp_path, "clip", "a", 2 * size).put(SHA, encoding())
    EncodingCache(tmp_path, "clip", "b", 2 * size).put(SHA, encoding())
    _earlier(tmp_path, 3)
    cache = EncodingCache(tmp_path, "clip", "c", 2 * size)
    shutil.rmtree(tmp_path / "clip-a")
    assert _USED[tmp_path] == 2 * size  # as far as this process knows
    cache.put(SHA, encoding())
    assert _held(tmp_path) == {"clip-b": 1, "clip-c": 1}


def test_for_what_can_never_fit_nothing_is_dropped(tmp_path: Path) -> None:
    size = _size(tmp_path / "probe")
    EncodingCache(tmp_path, "clip", "a", size).put(SHA, encoding())
    EncodingCache(tmp_path, "clip", "b", size).directory.mkdir()
    _earlier(tmp_path, 3)
    EncodingCache(tmp_path, "clip", "c", size - 1).put(SHA, encoding())
    assert _held(tmp_path) == {"clip-a": 1, "clip-b": 0}


def test_encodings_of_an_earlier_layout_make_room(tmp_path: Path) -> None:
    size = _size(tmp_path / "probe")
    EncodingCache(tmp_path, "clip", "a", size).put(SHA, encoding())
    (tmp_path / "clip-a").rename(tmp_path / "0123abcd")
    cache = EncodingCache(tmp_path, "clip", "a", size)
    cache.put(SHA, encoding())
    assert _held(tmp_path) == {"clip-a": 1}


def test_a_folder_dropped_by_another_process_costs_encodings_and_no_more(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path, "clip", "a", 10**7)
    done = Event()

    def drop() -> None:
        while not done.is_set():
            shutil.rmtree(cache.directory, ignore_errors=True)
            for number in range(64):
                (tmp_path / "clip-b" / f"{number:02x}").mkdir(parents=True)
            shutil.rmtree(tmp_path / "clip-b")

    with ThreadPoolExecutor(1) as other:
        dropping = other.submit(drop)
        try:
            for number in range(300):
                EncodingCache(tmp_path, "sam", "a", 10**7)  # counts what is there
                cache.put(f"{number:064d}", encoding())
                cache.get(f"{number:064d}")
        finally:
            done.set()
        dropping.result()
    cache.put(SHA, encoding())
    assert cache.get(SHA) is not None


def _size(root: Path) -> int:
    """Bytes of one entry."""
    EncodingCache(root, "clip", "a", 10**6).put(SHA, encoding())
    (path,) = root.rglob("*.npz")
    size = path.stat().st_size
    shutil.rmtree(root)
    return size


def _earlier(root: Path, days: int) -> None:
    """Make what was just used look as if another process had used it so long ago."""
    _OPENED.clear()
    now = time.time()
    for path in root.iterdir():
        if now - path.stat().st_mtime < 3600:
            os.utime(path, (now - 86400 * days,) * 2)


def _held(root: Path) -> dict[str, int]:
    return {path.name: len(list(path.rglob("*.npz"))) for path in root.iterdir()}
