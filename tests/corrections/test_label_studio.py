"""Labels through a real Label Studio: imported, shown, corrected, exported, taken over.

Its server is started from the executable that `LABEL_STUDIO` names, or `label-studio` on the PATH;
`make test-label-studio` installs one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg.data.corrections import read_corrections
from fmbseg.export.brush import decode_brush, encode_brush
from fmbseg.export.source import NOTHING, Source
from fmbseg.export.sources import in_order
from tests.corrections.test_import import taken
from tests.export.labels import NAMES, Label, hard_source
from tests.export.test_formats import written
from tests.flows.stack import free_ports

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef0123456789abcdef01234567"
START_SECONDS = 900  # its first start makes a database of hundreds of migrations


class Server:
    """A Label Studio with an empty database."""

    def __init__(self, executable: str, root: Path) -> None:
        self.root = root
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DJANGO"))}
        environment = kept | {
            "LABEL_STUDIO_BASE_DATA_DIR": str(root / "data"),
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root),
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
        }
        options = [
            *("start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"),
            *("--data-dir", str(root / "data"), "--database", str(root / "data" / "ls.sqlite3")),
            *("--username", "test@example.org", "--password", "only-a-test"),
            *("--user-token", TOKEN, "--enable-legacy-api-token"),
        ]
        self.log = root / "label-studio.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [executable, *options], cwd=root, env=environment, stdout=stream, stderr=stream
            )

    def wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                self.get("/api/projects")
                return
            except (OSError, urllib.error.HTTPError):
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-3000:])

    def get(self, path: str) -> bytes:
        return self._ask(urllib.request.Request(self.address + path))

    def post(self, path: str, content: Any) -> Any:
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data=body, method="POST")
        request.add_header("Content-Type", "application/json")
        return json.loads(self._ask(request) or b"null")

    def _ask(self, request: urllib.request.Request) -> bytes:
        request.add_header("Authorization", f"Token {TOKEN}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace")[:2000])
            raise
        return content

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    named = os.environ.get("LABEL_STUDIO")
    executable = os.path.abspath(named) if named else shutil.which("label-studio")
    if executable is None:
        pytest.skip(
            "no Label Studio: name its executable in LABEL_STUDIO, or `make test-label-studio`"
        )
    made = Server(executable, tmp_path_factory.mktemp("studio"))
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.fixture
def hard(server: Server, request: pytest.FixtureRequest) -> tuple[Source, dict[str, Label], Path]:
    folder = server.root / request.node.name
    source, labels = hard_source(folder / "source")
    return source, labels, folder


class Project:
    """A project of an export, and its tasks in their order."""

    def __init__(self, server: Server, out: Path) -> None:
        self.server = server
        config = (out / "config.xml").read_text(encoding="utf-8")
        made = server.post("/api/projects", {"title": out.parent.name[:50], "label_config": config})
        self.number = made["id"]
        storage = {"project": self.number, "path": str(out / "images"), "use_blob_urls": True}
        server.post("/api/storages/localfiles", storage)
        self.sent = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
        server.post(f"/api/projects/{self.number}/import", self.sent)
        listed = json.loads(
            server.get(f"/api/tasks?project={self.number}&fields=all&page_size=100")
        )
        self.tasks: list[dict[str, Any]] = sorted(listed["tasks"], key=lambda task: task["id"])

    def annotate(self, task: dict[str, Any], result: list[dict[str, Any]]) -> None:
        self.server.post(f"/api/tasks/{task['id']}/annotations", {"result": result})

    def export(self, kind: str) -> bytes:
        return self.server.get(f"/api/projects/{self.number}/export?exportType={kind}")


def exported(source: Source, folder: Path, server: Server) -> Path:
    url = f"/data/local-files/?d={(folder / 'out' / 'images').relative_to(server.root)}/"
    return written(source, "label-studio", folder / "out", url=url)


def test_labels_come_back_as_they_were_and_as_they_were_corrected(
    server: Server, hard: tuple[Source, dict[str, Label], Path]
) -> None:
    source, labels, folder = hard
    # The most doubtful first: the order of a review.
    order = folder / "order.txt"
    wanted = ["whole", "ragged.0", "hard", "nothing"]
    order.write_text("\n".join(wanted))
    out = exported(in_order(source, order), folder, server)
    project = Project(server, out)
    assert [task["data"]["image_id"] for task in project.tasks] == wanted
    assert [task["data"]["order"] for task in project.tasks] == [1, 2, 3, 4]
    # It shows the pictures that were exported, and the very masks.
    for task, sent in zip(project.tasks, project.sent, strict=True):
        shown = server.get(task["data"]["image"])
        name = Path(task["data"]["image"]).name
        assert shown == (out / "images" / name).read_bytes()
        (prediction,) = task["predictions"]
        results = [each["value"] for each in prediction["result"]]
        assert results == [each["value"] for each in sent["predictions"][0]["result"]]

    expected = dict(labels)
    for task in project.tasks[:3]:
        result = task["predictions"][0]["result"]
        if task["data"]["image_id"] == "hard":  # a person draws a region, and renames one
            changed = expected["hard"].copy()
            mask = np.zeros(changed.shape, dtype=np.bool_)
            mask[25:38, 2:20] = True
            renamed = next(each for each in result if each["value"]["brushlabels"] == ["sky"])
            renamed["value"]["brushlabels"] = ["grass"]
            changed[decode_brush(renamed["value"]["rle"], changed.shape)] = NAMES.index("grass")
            value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["sky"]}
            result = [*result, renamed | {"id": "drawn", "value": value}]
            changed[mask] = NAMES.index("sky")
            expected["hard"] = changed
        project.annotate(task, result)
    file = folder / "export.json"
    file.write_bytes(project.export("JSON"))
    found = taken("label-studio", file, source, folder / "corrections", by="Ada")
    assert set(found) == {"whole", "ragged.0", "hard"}  # nobody has looked at the other
    for name, label in found.items():
        assert label.shape == expected[name].shape
        assert (label == expected[name]).all(), name
    record = read_corrections(folder / "corrections")
    assert record is not None
    assert {name: each.changed > 0 for name, each in record.images.items()} == {
        "whole": False,
        "ragged.0": False,
        "hard": True,
    }


def test_its_own_converter_draws_the_masks_that_were_exported(
    server: Server, hard: tuple[Source, dict[str, Label], Path]
) -> None:
    """Another reader of the run lengths than ours: the PNGs that it exports of each class."""
    source, labels, folder = hard
    project = Project(server, exported(replace(source), folder, server))
    by_task = {}
    for task in project.tasks:
        project.annotate(task, task["predictions"][0]["result"])
        by_task[task["id"]] = labels[task["data"]["image_id"]]
    drawn: dict[tuple[int, str], Any] = {}
    with zipfile.ZipFile(io.BytesIO(project.export("BRUSH_TO_PNG"))) as archive:
        for name in archive.namelist():
            # task-7-annotation-3-by-1-tag-potted plant-0.png
            words = Path(name).stem.split("-")
            mask = np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0
            key = int(words[1]), words[-2]
            drawn[key] = drawn.get(key, False) | mask
    assert drawn
    for number, label in by_task.items():
        present = {NAMES[index] for index in np.unique(label[label != NOTHING])}
        assert {name for task, name in drawn if task == number} == present
        for name in present:
            assert (drawn[number, name] == (label == NAMES.index(name))).all()
