from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmbseg.errors import StoreError
from fmbseg.machine.progress import silent_progress
from fmbseg.store.atomic import remove_abandoned
from fmbseg.store.digest import file_digest
from fmbseg.store.shards import (
    ShardedWork,
    ShardStore,
    StageReport,
    is_published,
    published_digest,
    published_files,
    published_key,
    verify_published,
)

RECORDS = list(range(10))
SHARD_SIZE = 3


def write_numbers(records: Sequence[int], directory: Path) -> None:
    """A text file and a table row for every record."""
    (directory / "labels").mkdir()
    for record in records:
        (directory / "labels" / f"{record}.txt").write_text(f"number {record}\n")
    frame = pd.DataFrame({"number": records, "square": [record**2 for record in records]})
    frame.to_parquet(directory / "numbers.parquet", index=False)


def run(store: ShardStore) -> StageReport:
    return ShardedWork(store, RECORDS, SHARD_SIZE, write_numbers).run(silent_progress())


def publish(store: ShardStore, destination: Path) -> dict[str, str]:
    """Publish and give the sha256 of every file."""
    store.publish(destination, count=4, manifest={"images": len(RECORDS)})
    return {
        path.relative_to(destination).as_posix(): file_digest(path)
        for path in destination.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(tmp_path / "shards", "squares", "k1")


def left_over(directory: Path) -> list[str]:
    """What a run must not leave behind."""
    return [path.name for path in directory.rglob(".fmbseg-tmp-*")]


def test_first_run_computes_and_second_takes_over(store: ShardStore) -> None:
    first = run(store)
    assert first == StageReport("squares", "k1", computed=4, taken_over=0)
    assert first.images == len(RECORDS)
    again = run(store)
    assert again == StageReport("squares", "k1", computed=0, taken_over=4)
    assert again.images == StageReport("squares", "k1", computed=0, taken_over=4).images == 0
    assert left_over(store.directory) == []


def test_no_records(store: ShardStore) -> None:
    report = ShardedWork(store, [], SHARD_SIZE, write_numbers).run(silent_progress())
    assert report == StageReport("squares", "k1", computed=0, taken_over=0)


def test_batches_never_cross_shards(store: ShardStore) -> None:
    seen: list[list[int]] = []

    def process(records: Sequence[int], directory: Path) -> None:
        seen.append(list(records))
        write_numbers(records, directory)

    ShardedWork(store, RECORDS, SHARD_SIZE, process).run(silent_progress())
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_another_key_is_another_place(store: ShardStore, tmp_path: Path) -> None:
    run(store)
    other = ShardStore(tmp_path / "shards", "squares", "k2")
    assert run(other) == StageReport("squares", "k2", computed=4, taken_over=0)


def test_another_shard_size_makes_all_shards_again(store: ShardStore, tmp_path: Path) -> None:
    run(store)
    report = ShardedWork(store, RECORDS, 5, write_numbers).run(silent_progress())
    assert report == StageReport("squares", "k1", computed=2, taken_over=0)
    store.publish(tmp_path / "out", count=2, manifest={})
    assert pd.read_parquet(tmp_path / "out" / "numbers.parquet")["number"].to_list() == RECORDS


def test_whoever_drives_the_work_may_try_each_shard_again(store: ShardStore) -> None:
    tries: list[int] = []

    def fail_first(records: Sequence[int], directory: Path) -> None:
        tries.append(records[0])
        write_numbers(records, directory)
        if tries.count(records[0]) == 1:
            raise TimeoutError

    def twice(work: Callable[[], None]) -> None:
        with suppress(TimeoutError):
            return work()
        work()

    sharded = ShardedWork(store, RECORDS, SHARD_SIZE, fail_first)
    assert sharded.run(silent_progress(), twice) == StageReport(
        "squares", "k1", computed=4, taken_over=0
    )
    assert tries == [start for start in range(0, len(RECORDS), SHARD_SIZE) for _ in range(2)]
    assert left_over(store.directory) == []


def test_error_in_the_middle_keeps_what_is_finished(store: ShardStore) -> None:
    def fail_at_six(records: Sequence[int], directory: Path) -> None:
        write_numbers(records, directory)
        if 6 in records:
            raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        ShardedWork(store, RECORDS, SHARD_SIZE, fail_at_six).run(silent_progress())
    assert [store.has(index) for index in range(4)] == [True, True, False, False]
    assert left_over(store.directory) == []
    assert run(store) == StageReport("squares", "k1", computed=2, taken_over=2)


# Writes shards until the parent kills it; "ready" says that shard 2 is half written.
KILLED = """
    import sys, time
    from pathlib import Path
    from fmbseg.machine.progress import silent_progress
    from fmbseg.store.shards import ShardedWork, ShardStore
    sys.path.insert(0, {tests!r})
    from test_shards import RECORDS, SHARD_SIZE, write_numbers

    def process(records, directory):
        write_numbers(records, directory)
        if 6 in records:
            print("ready", flush=True)
            time.sleep(60)

    store = ShardStore(Path({root!r}), "squares", "k1")
    ShardedWork(store, RECORDS, SHARD_SIZE, process).run(silent_progress())
"""


def test_killed_run_goes_on_and_gives_the_same_bytes(
    store: ShardStore, tmp_path: Path, repository: Path
) -> None:
    script = textwrap.dedent(KILLED).format(
        tests=str(Path(__file__).parent), root=str(tmp_path / "shards")
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=repository) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # What is being written by a living process is not swept away by another one.
        remove_abandoned(store.directory)
        assert len(left_over(store.directory)) == 1
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert [store.has(index) for index in range(4)] == [True, True, False, False]
    assert len(left_over(store.directory)) == 1

    assert run(store) == StageReport("squares", "k1", computed=2, taken_over=2)
    assert left_over(store.directory) == []
    uninterrupted = ShardStore(tmp_path / "other", "squares", "k1")
    run(uninterrupted)
    assert publish(store, tmp_path / "a") == publish(uninterrupted, tmp_path / "b")


def test_writer_beside_us_keeps_its_temporary_folder(store: ShardStore) -> None:
    with store.write(7) as directory:
        run(store)  # sweeps what dead writers left
        assert directory.is_dir()
        (directory / "seven.txt").write_text("7")
    assert store.has(7)


def test_two_writers_of_one_shard(store: ShardStore) -> None:
    with store.write(0) as slow:
        with store.write(0) as fast:
            write_numbers([0], fast)
        write_numbers([0], slow)
    assert store.has(0)
    assert left_over(store.directory) == []


@pytest.mark.parametrize("name", ["numbers.parquet", "labels/4.txt", "digest.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "removed", "emptied"])
def test_damaged_shard_is_made_again(
    store: ShardStore,
    tmp_path: Path,
    name: str,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(store)
    before = publish(store, tmp_path / "before")
    path = store.shard_path(1) / name
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        path.write_bytes(data.replace(data[5:6], b"\x07"))
    elif damage == "removed":
        path.unlink()
    else:
        path.write_bytes(b"")
    assert run(store) == StageReport("squares", "k1", computed=1, taken_over=3)
    assert "shard 1 is damaged" in caplog.text
    assert publish(store, tmp_path / "after") == before


def test_file_that_is_not_listed_is_damage(store: ShardStore) -> None:
    run(store)
    (store.shard_path(0) / "labels" / "99.txt").write_text("number 99\n")
    assert not store.has(0)
    assert not store.shard_path(0).exists()


def test_digest_that_is_not_ours_is_damage(store: ShardStore) -> None:
    run(store)
    (store.shard_path(0) / "digest.json").write_text("[1, 2]")
    assert not store.has(0)


def test_published_out(store: ShardStore, tmp_path: Path) -> None:
    run(store)
    out = tmp_path / "data" / "pseudo" / "squares"
    publish(store, out)
    frame = pd.read_parquet(out / "numbers.parquet")
    assert frame["number"].to_list() == RECORDS
    assert frame["square"].to_list() == [number**2 for number in RECORDS]
    texts = [(out / "labels" / f"{number}.txt").read_text() for number in RECORDS]
    assert texts == [f"number {number}\n" for number in RECORDS]
    assert not (out / "digest.json").exists()

    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest) == {"stage", "key", "shards", "files", "images", "digest"}
    assert (manifest["stage"], manifest["key"], manifest["shards"]) == ("squares", "k1", 4)
    assert manifest["images"] == 10
    assert len(manifest["files"]) == 11
    listed = manifest["files"]["numbers.parquet"]
    assert listed["sha256"] == file_digest(out / "numbers.parquet")
    assert str(tmp_path) not in (out / "manifest.json").read_text()

    assert published_key(out) == "k1"
    assert verify_published(out)
    assert is_published(out, "k1")
    assert not is_published(out, "k2")
    assert left_over(tmp_path) == []


def test_what_an_out_holds_by_its_manifest(store: ShardStore, tmp_path: Path) -> None:
    run(store)
    out = tmp_path / "out"
    assert published_files(out) == {}
    with pytest.raises(StoreError, match="has no manifest that is sound: make it again"):
        published_digest(out)
    publish(store, out)
    files = published_files(out)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {name: file_digest(out / name) for name in names - {"manifest.json"}}
    digest = published_digest(out)
    # The key is no matter, what is held is.
    store.publish(tmp_path / "same", count=4, manifest={}, key="k9")
    assert published_key(tmp_path / "same") == "k9"
    assert published_digest(tmp_path / "same") == digest
    store.publish(tmp_path / "more", count=4, manifest={"feature_shards": ["a"]})
    assert published_digest(tmp_path / "more") != digest
    store.publish(tmp_path / "amended", count=4, manifest={}, amend=lambda at: add(at / "new"))
    assert published_digest(tmp_path / "amended") != digest
    assert verify_published(tmp_path / "amended") and (tmp_path / "amended" / "new").exists()
    (out / "manifest.json").write_text("{}")
    assert published_files(out) is None


def add(path: Path) -> None:
    path.write_text("more")


def test_publishing_replaces_what_was_there(store: ShardStore, tmp_path: Path) -> None:
    run(store)
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale.txt").write_text("of an earlier run")
    publish(store, out)
    assert not (out / "stale.txt").exists()
    assert verify_published(out)
    assert left_over(tmp_path) == []


def test_editing_an_out_in_place_does_not_reach_the_shards(
    store: ShardStore, tmp_path: Path
) -> None:
    run(store)
    publish(store, tmp_path / "out")
    with open(tmp_path / "out" / "labels" / "0.txt", "r+") as stream:
        stream.write("edited")
    assert store.has(0)
    assert not verify_published(tmp_path / "out")


def test_no_out_is_no_key(tmp_path: Path) -> None:
    assert published_key(tmp_path / "nothing") is None
    assert not verify_published(tmp_path / "nothing")
    (tmp_path / "manifest.json").write_text("{")
    assert published_key(tmp_path) is None
    (tmp_path / "manifest.json").write_text("[]")
    assert published_key(tmp_path) is None
    assert not verify_published(tmp_path)


def test_publishing_without_a_shard_is_refused(store: ShardStore, tmp_path: Path) -> None:
    run(store)
    (store.shard_path(2) / "numbers.parquet").unlink()
    with pytest.raises(StoreError, match="1 of 4 shards are missing"):
        publish(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_shards_with_one_file_name_are_refused(store: ShardStore, tmp_path: Path) -> None:
    for index in range(2):
        with store.write(index) as directory:
            (directory / "same.txt").write_text(str(index))
    with pytest.raises(StoreError, match=r"two shards hold same\.txt"):
        store.publish(tmp_path / "out", count=2, manifest={})
    assert left_over(tmp_path) == []


def test_column_that_is_empty_in_one_shard_takes_its_type_from_the_others(
    store: ShardStore, tmp_path: Path
) -> None:
    tables = [
        pa.table({"id": pa.array(["a"]), "score": pa.array([None], pa.null())}),
        pa.table({"id": pa.array([], pa.string()), "score": pa.array([], pa.float32())}),
        pa.table({"id": pa.array(["b"]), "score": pa.array([0.5], pa.float32())}),
    ]
    for index, table in enumerate(tables):
        with store.write(index) as directory:
            pq.write_table(table, directory / "t.parquet")
    store.publish(tmp_path / "out", count=3, manifest={})
    merged = pq.read_table(tmp_path / "out" / "t.parquet")
    assert merged.to_pydict() == {"id": ["a", "b"], "score": [None, 0.5]}
    assert merged.schema.field("score").type == pa.float32()


def test_numbers_of_two_widths_get_the_wider(store: ShardStore, tmp_path: Path) -> None:
    for index, kind in enumerate((pa.int32(), pa.int64())):
        with store.write(index) as directory:
            pq.write_table(pa.table({"n": pa.array([index], kind)}), directory / "t.parquet")
    store.publish(tmp_path / "out", count=2, manifest={})
    merged = pq.read_table(tmp_path / "out" / "t.parquet")
    assert merged.to_pydict() == {"n": [0, 1]} and merged.schema.field("n").type == pa.int64()


def test_tables_with_lists_and_many_rows(store: ShardStore, tmp_path: Path) -> None:
    for index in range(2):
        with store.write(index) as directory:
            points = [[float(row), 1.5] for row in range(5000)]
            pd.DataFrame({"points": points}).to_parquet(directory / "t.parquet")
    store.publish(tmp_path / "out", count=2, manifest={})
    frame = pd.read_parquet(tmp_path / "out" / "t.parquet")
    assert len(frame) == 10000
    assert frame.index.to_list() == list(range(10000))
    assert frame["points"].iloc[5001].tolist() == [1.0, 1.5]
