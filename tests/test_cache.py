from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmbseg.cache import EncodingCache

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
    return EncodingCache(tmp_path, "key", budget_bytes=10**6)


def test_what_was_put_comes_back_bit_for_bit(cache: EncodingCache, tmp_path: Path) -> None:
    arrays = encoding()
    assert cache.get(SHA) is None
    cache.put(SHA, arrays)
    # Another process has its own object.
    found = EncodingCache(tmp_path, "key", budget_bytes=10**6).get(SHA)
    assert found is not None
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_another_key_does_not_see_it(cache: EncodingCache, tmp_path: Path) -> None:
    cache.put(SHA, encoding())
    assert EncodingCache(tmp_path, "other", budget_bytes=10**6).get(SHA) is None


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
    cache = EncodingCache(tmp_path, "key", budget_bytes=6000)
    cache.put(SHA, encoding())
    for number in range(3):
        cache.put(f"{number:064d}", encoding(32))
    assert cache.get(SHA) is not None
    assert cache.get(f"{0:064d}") is None
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert sum("is full" in record.message for record in caplog.records) == 1


def test_budget_counts_what_is_there_under_any_key(tmp_path: Path) -> None:
    EncodingCache(tmp_path, "clip", budget_bytes=10**6).put(SHA, encoding())
    cache = EncodingCache(tmp_path, "sam", budget_bytes=3000)
    cache.put(OTHER, encoding())
    assert cache.get(OTHER) is None


def test_no_budget_is_no_cache(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path / "encodings", "key", budget_bytes=0)
    cache.put(SHA, encoding())
    assert cache.get(SHA) is None
    assert not (tmp_path / "encodings").exists()


def test_putting_twice_keeps_the_first_and_leaves_nothing_else(
    cache: EncodingCache, tmp_path: Path
) -> None:
    cache.put(SHA, encoding())
    cache.put(SHA, encoding())
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{SHA}.npz"]


def test_caches_of_one_folder_share_its_budget(tmp_path: Path) -> None:
    first, second = (EncodingCache(tmp_path, key, budget_bytes=6000) for key in ("a", "b"))
    for number in range(3):
        for cache in (first, second):
            cache.put(f"{number:064d}", encoding())
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npz")) <= 6000
