"""The page's server: its answers are the segmenter's, its limits hold, nobody else gets in."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from fmbseg import cli
from fmbseg.config import Config
from fmbseg.data.labels import UNLABELLED
from fmbseg.data.vocabulary import vocabulary_from_names
from fmbseg.evaluate.methods.predictor import load_predictor
from fmbseg.inference.segmenter import Segmenter, load_segmenter
from fmbseg.labelling.labeller import Labeller
from fmbseg.store.paths import Paths
from fmbseg.view.overlay import png
from fmbseg.web.answers import Answers
from fmbseg.web.app import Limits, create_app
from fmbseg.web.guard import LOOPBACK, guarded
from tests.workspace import MakeConfig, draw_picture

NAMES = ["dog", "grass", "sky & sea"]
ASKED = {"classes": ",".join(NAMES)}


@pytest.fixture
def config(make_config: MakeConfig) -> Config:
    return make_config()


@pytest.fixture
def segmenter(workspace: Paths, config: Config) -> Segmenter:
    return load_segmenter(workspace.align, config.evaluate, config.run)


def page(segmenter: Segmenter, config: Config, examples: Path, **limits: Any) -> TestClient:
    def read_words(text: str) -> Any:
        return vocabulary_from_names([name.strip() for name in text.split(",")])

    app = create_app(
        Answers(segmenter, config),
        read_words,
        NAMES,
        {path.name: path for path in sorted(examples.rglob("*.jpg"))},
        Limits(**limits),
    )
    return TestClient(guarded(app, frozenset({*LOOPBACK, "testserver"}), frozenset()))


@pytest.fixture
def client(segmenter: Segmenter, config: Config, coco: Path) -> Iterator[TestClient]:
    with page(segmenter, config, coco) as client:
        yield client


def grey(text: str) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.mode == "L"
        return np.asarray(image)


def test_the_answer_is_what_the_segmenter_predicts(
    client: TestClient, segmenter: Segmenter
) -> None:
    image = draw_picture(7, (90, 60))
    answer = client.post("/segment", params=ASKED, content=png(image)).json()
    found = segmenter.predict(image, classes=NAMES)
    assert np.array_equal(grey(answer["label"]), found.label_map)
    with Image.open(io.BytesIO(base64.b64decode(answer["png"]))) as saved:
        assert saved.mode == "P" and np.array_equal(np.asarray(saved), found.label_map)
        palette = np.array(saved.getpalette()).reshape(-1, 3)[: len(NAMES)]
    assert answer["colours"] == ["#" + bytes(colour).hex() for colour in palette.tolist()]
    scale = segmenter.inference.logit_scale
    logits = scale * found.scores.astype(np.float64)
    sure = np.exp(logits.max(axis=0)) / np.exp(logits).sum(axis=0)
    assert np.abs(grey(answer["probability"]) / 255 - sure).max() < 0.01
    shares = {each["name"]: each["share"] for each in answer["classes"]}
    for index, name in enumerate(NAMES):
        assert shares.get(name, 0) == pytest.approx((found.label_map == index).mean(), abs=1e-6)
    assert (answer["width"], answer["height"]) == (90, 60)


def test_parts_are_what_the_methods_say(client: TestClient, config: Config) -> None:
    image, words = draw_picture(3, (64, 64)), vocabulary_from_names(NAMES)
    asked = ASKED | {"part": ["before", "stage1"]}
    answer = client.post("/segment", params=asked, content=png(image)).json()
    (clip,) = load_predictor("maskclip", config).decide([image], words)
    assert np.array_equal(grey(answer["before"]), clip.labels)
    found = Labeller(words, config).label(image)
    assert np.array_equal(grey(answer["stage1"]["label"]), found.label)
    points = {each["index"]: each["points"] for each in answer["stage1"]["points"]}
    assert list(points) == found.detections.classes.tolist()
    assert np.allclose([*points.values()], found.points)
    plain = client.post("/segment", params=ASKED, content=png(image)).json()
    assert not {"before", "stage1"} & set(plain)


def test_coco_has_the_same_pixels(client: TestClient, segmenter: Segmenter) -> None:
    from pycocotools import mask as coco

    image = draw_picture(5, (80, 56))
    done = client.post("/coco", params=ASKED, content=png(image))
    assert 'filename="labels.json"' in done.headers["content-disposition"]
    record = json.loads(done.text)
    names = {each["id"]: each["name"] for each in record["categories"]}
    painted = np.full((56, 80), UNLABELLED)
    for annotation in record["annotations"]:
        inside = coco.decode(annotation["segmentation"]).astype(bool)
        painted[inside] = NAMES.index(names[annotation["category_id"]])
    assert np.array_equal(painted, segmenter.predict(image, classes=NAMES).label_map)


def test_twenty_at_once_each_get_their_own(client: TestClient, segmenter: Segmenter) -> None:
    images = [draw_picture(seed, (64 + 3 * seed, 64)) for seed in range(20)]

    def ask(image: Image.Image) -> Any:
        return client.post("/segment", params=ASKED, content=png(image)).json()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, images))
    for image, answer in zip(images, answers, strict=True):
        assert np.array_equal(
            grey(answer["label"]), segmenter.predict(image, classes=NAMES).label_map
        )


def test_who_is_too_many_is_told_to_come_again(
    segmenter: Segmenter, config: Config, coco: Path
) -> None:
    with page(segmenter, config, coco, waiting=2) as client, ThreadPoolExecutor(20) as pool:
        data = png(draw_picture(0, (400, 300)))
        asked = [
            pool.submit(client.post, "/segment", params=ASKED, content=data) for _ in range(20)
        ]
        answers = [each.result() for each in asked]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused and "try again" in refused[0].json()["error"]
    assert sum(answer.status_code == 200 for answer in answers) == 20 - len(refused) >= 1


@pytest.mark.parametrize(
    ("content", "params", "status", "said"),
    [
        (b"", ASKED, 400, "choose one"),
        (b"no picture", ASKED, 400, "no image"),
        (png(Image.new("RGB", (8, 8)))[:40], ASKED, 400, "broken"),
        (png(Image.new("RGB", (8, 8))), {"classes": "dog, dog"}, 400, "dog"),
        (png(Image.new("RGB", (8, 8))), ASKED | {"part": "all"}, 400, "no part all"),
        (png(Image.new("RGB", (2000, 1500))), ASKED, 413, "3 megapixels: at most 2"),
        (random.Random(0).randbytes(1_200_000), ASKED, 413, "more than 1 MB"),
        (
            png(Image.new("RGB", (8, 8))),
            {"classes": ",".join(map(str, range(9)))},
            413,
            "at most 8",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    segmenter: Segmenter,
    config: Config,
    coco: Path,
    content: bytes,
    params: dict[str, Any],
    status: int,
    said: str,
) -> None:
    with page(segmenter, config, coco, megabytes=1, megapixels=2, names=8) as client:
        done = client.post("/segment", params=params, content=content)
        assert done.status_code == status
        error = done.json()["error"]
        assert said in error and "\n" not in error and "Traceback" not in error
        # The next one is answered.
        fine = client.post("/segment", params=ASKED, content=png(draw_picture(1, (64, 64))))
        assert fine.status_code == 200


def test_pages_of_others_and_other_names_are_refused(client: TestClient) -> None:
    data = png(draw_picture(0, (64, 64)))
    for path in ("/segment", "/coco"):
        foreign = {"origin": "http://evil.example"}
        assert client.post(path, params=ASKED, content=data, headers=foreign).status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    start = client.get("/")
    assert start.status_code == 200
    policy = start.headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
    own = {"origin": "http://testserver"}
    assert client.post("/segment", params=ASKED, content=data, headers=own).status_code == 200


def test_examples_are_those_that_were_named_and_nothing_else(
    client: TestClient, coco: Path
) -> None:
    start = client.get("/start").json()
    assert start["classes"] == NAMES and len(start["examples"]) == 5
    first = client.get(f"/examples/{start['examples'][0]}")
    assert first.content == next(iter(sorted(coco.rglob("*.jpg")))).read_bytes()
    for path in ("../params.yaml", "%2e%2e/params.yaml", "/etc/passwd", "none.jpg"):
        assert client.get(f"/examples/{path}").status_code == 404


def test_a_taken_port_and_a_missing_head_are_one_line(
    workspace: Paths,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workspace.root)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli._main(["demo", "--port", str(taken.getsockname()[1])]) == 2
        error = capfd.readouterr().err.strip()
        assert len(error.splitlines()) == 1 and "--port" in error
    assert cli._main(["demo", "--checkpoint", "nowhere"]) == 2
    error = capfd.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "fmbseg run align" in error
