from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from fmbseg.errors import StoreError
from fmbseg.store.ledger import LEDGER, Ledger


def test_what_was_written_may_be_replaced_until_it_is_changed(tmp_path: Path) -> None:
    Ledger(tmp_path).write("a.json", b"one")
    Ledger(tmp_path).write("a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"two"
    assert Ledger(tmp_path).names == {"a.json"}
    (tmp_path / "a.json").write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"a\.json is not by fmbseg, or was changed since"):
        Ledger(tmp_path).write("a.json", b"three")
    assert (tmp_path / "a.json").read_bytes() == b"mine"


def test_what_others_wrote_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    ledger = Ledger(tmp_path)
    for name in ("file", "folder", "link", "nowhere"):
        assert not ledger.may_write(name)
        with pytest.raises(StoreError):
            ledger.write(name, b"ours")
    ledger.write("own", b"ours")
    (tmp_path / "own").unlink()
    (tmp_path / "own").symlink_to(tmp_path / "file")
    assert not Ledger(tmp_path).may_write("own")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_kill_before_the_file_was_there_leaves_its_name_free(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("a", b"one")
    (tmp_path / "a").unlink()
    assert Ledger(tmp_path).may_write("a")
    # A line that a kill cut off names nothing.
    with (tmp_path / LEDGER).open("ab") as stream:
        stream.write(b"0123")
    Ledger(tmp_path).write("b", b"two")
    assert (tmp_path / "b").read_bytes() == b"two"
    assert Ledger(tmp_path).may_write("b")


def test_what_another_process_wrote_meanwhile_is_known(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    for data in (b"one", b"two"):
        first.write("a", data)
        assert second.may_write("a")
    second.write("a", b"three")
    assert first.may_write("a")
    # Also where the other's line was seen half: it is read again once it is whole.
    cut = Ledger(tmp_path / "cut")
    line = f"{hashlib.sha256(b'one').hexdigest()}  b\n".encode()
    cut.folder.mkdir()
    (cut.folder / "b").write_bytes(b"one")
    (cut.folder / LEDGER).write_bytes(line[:60])
    assert not cut.may_write("b")
    (cut.folder / LEDGER).write_bytes(line)
    assert cut.may_write("b")
    (cut.folder / "b").write_bytes(b"mine")
    assert not cut.may_write("b")


def test_names_of_other_encodings_are_kept(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"caf\xe9.png"), "a  b", "X"):
        Ledger(tmp_path).write(name, b"one")
        assert Ledger(tmp_path).may_write(name)


def test_the_usual_program_checks_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("a.b.json", b"one")
    ledger.write("c d.png", b"two")
    subprocess.run(["sha256sum", "--check", "--strict", LEDGER], cwd=tmp_path, check=True)


def test_a_file_written_bit_by_bit_gets_its_name_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with Ledger(folder).writing("clip.mp4") as place:
        assert place.name == "clip.mp4"
        place.write_bytes(b"one")
        assert not (folder / "clip.mp4").exists()
    assert (folder / "clip.mp4").read_bytes() == b"one"
    # In the ledger's form, under its name: other versions of the program read it.
    line = f"{hashlib.sha256(b'one').hexdigest()}  clip.mp4\n"
    assert (folder / "fmbseg-results.sha256").read_text() == line
    with pytest.raises(RuntimeError), Ledger(folder).writing("clip.mp4") as place:
        place.write_bytes(b"half")
        raise RuntimeError
    assert (folder / "clip.mp4").read_bytes() == b"one"
    with Ledger(folder).writing("clip.mp4") as place:
        place.write_bytes(b"two")
    assert (folder / "clip.mp4").read_bytes() == b"two"
    assert {path.name for path in folder.iterdir()} == {"clip.mp4", LEDGER}
    (folder / "clip.mp4").write_bytes(b"mine")
    with pytest.raises(StoreError, match="not by fmbseg"), Ledger(folder).writing("clip.mp4"):
        raise AssertionError("it was let in")
    assert (folder / "clip.mp4").read_bytes() == b"mine"


def test_what_is_written_again_has_one_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for data in (b"one", b"one", b"two", b"one"):
        ledger.write("a", data)
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 2


def test_a_file_that_goes_or_cannot_be_read_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("a", b"one")

    def unreadable(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fmbseg.store.ledger.file_digest", unreadable)
    assert not ledger.may_write("a")
