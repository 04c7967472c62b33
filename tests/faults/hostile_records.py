"""Label maps, corrections and records that are damaged, or made to do harm, and what reads them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.test_hostile_pictures import encoded, png
from tests.faults.hostile_pictures import _bomb
from tests.faults.making import DIGITS, Make, predicting, written


def records() -> Iterator[tuple[str, Make]]:
    """All of it by name."""
    yield from _label_maps()
    yield from _corrections()
    yield from _records()


def _label_maps() -> Iterator[tuple[str, Make]]:
    grey = np.zeros((48, 64), dtype=np.uint8)
    grey[10:30, 10:40] = 1

    def saved(values: Any, format_: str = "PNG", **more: Any) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, format_, **more)
        return stream.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    rows = {bits: b"".join(b"\0" + bytes(64 * bits // 8) for _ in range(48)) for bits in (1, 2, 4)}
    for name, content in {
        "JPEG under .png": saved(grey, "JPEG"),
        **{f"{bits} bits": png(64, 48, row, bits) for bits, row in rows.items()},
        "EXIF-turned": saved(grey, exif=turned),
        "0 and 255": saved(grey * 255),
        "1 to 150": saved(grey * 149 + 1),
        "1 to 2": saved(grey + 1),
        "16 bits": saved(grey.astype(np.uint16) * 40_000),
        "colours": saved(np.stack([grey] * 3, axis=-1)),
        "another size": saved(grey[:20]),
        "nothing": b"",
        "a bomb": _bomb(64, 48, 1 << 29),
        "a GIF": saved(grey, "GIF"),
        "cut": saved(grey)[:60],
        "all ignored": saved(np.full_like(grey, 255)),
        "a palette": saved(grey),
    }.items():
        yield f"label map: {name}", _truth(content)


def _truth(content: bytes) -> Make:
    def make(root: Path) -> Sequence[str]:
        folder = root / "own"
        (folder / "labels").mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(folder / "a.png")
        (folder / "labels" / "a.png").write_bytes(content)
        (folder / "classes.txt").write_text("background\ndog\nsky\n")
        return ("data", "doctor", "folder", "--root", "own", "--sheet", "sheet.png")

    return make


def coco_record(segmentation: Any, **more: Any) -> dict[str, Any]:
    """A COCO file with one annotation of the workspace's first picture, which is 96 x 64 px."""
    annotation = {"id": 1, "image_id": 5, "category_id": 9, "segmentation": segmentation} | more
    image = {"id": 5, "file_name": "000000000000.jpg", "width": 96, "height": 64}
    return {
        "images": [image],
        "annotations": [annotation],
        "categories": [{"id": 9, "name": "person"}],
    }


def _corrections() -> Iterator[tuple[str, Make]]:
    polygon = [[10, 5, 20, 5, 20, 15]]
    for name, found in {
        "sound": polygon,
        "no segmentation": None,
        "a point": [[1, 1]],
        "a number": 5,
        "words": [["a", "b", "c", "d", "e", "f"]],
        "odd counts": [[1, 2, 3, 4, 5, 6, 7]],
        "NaN": [[float("nan")] * 6],
        "infinity": [[float("inf")] * 6],
        "1e30": [[0, 0, 1e30, 0, 0, 1e30]],
        "1e9": [[0, 0, 1e9, 0, 0, 1e9]],
        "2^64": [[0, 0, 2**64, 0, 0, 5]],
        "far outside": [[-5000, -5000, 5000, -5000, 5000, 5000]],
        "10^5 points": [[float(n % 90) for n in range(200_000)]],
        "10,000 parts": polygon * 10_000,
        "runs of a huge size": {"size": [10**6, 10**6], "counts": [10**12]},
        "runs of no size": {"size": [0, 0], "counts": [0]},
        "runs of another size": {"size": [5, 5], "counts": [25]},
        "runs too long": {"size": [64, 96], "counts": [10**9]},
        "runs too short": {"size": [64, 96], "counts": [5]},
        "runs below zero": {"size": [64, 96], "counts": [-5, 64 * 96 + 5]},
        "runs of 2^32": {"size": [64, 96], "counts": [2**32 + 5, 64 * 96 - 5]},
        "packed noise": {"size": [64, 96], "counts": "\x7f" * 300},
        "packed words": {"size": [64, 96], "counts": "dog"},
        "packed é": {"size": [64, 96], "counts": "é" * 20},
        "packed, huge": {"size": [2**31, 2**31], "counts": "PPP"},
        "runs of words": {"size": ["a", "b"], "counts": ["c"]},
    }.items():
        yield f"COCO: {name}", _import("coco", "c.json", json.dumps(coco_record(found)))
    for name, more in {
        "an unknown picture": {"image_id": 7},
        "a list for a picture": {"image_id": [5]},
        "an unknown class": {"category_id": 1},
    }.items():
        yield f"COCO: {name}", _import("coco", "c.json", json.dumps(coco_record(polygon, **more)))
    for name, text in {
        "a list": "[]",
        "deep": "[" * 100_000,
        "5,000 digits": f'{{"images": {DIGITS}}}',
        "NaN": "NaN",
        "UTF-16": '{"images": []}',
        "nothing": "",
        "words for lists": '{"images": "abc", "annotations": "abc", "categories": "abc"}',
        "null": '{"images": null, "annotations": [], "categories": []}',
        "an image of no name": '{"images": [{"id": 1}], "annotations": [], "categories": []}',
        "an image of words": '{"images": [{"id": 1, "file_name": "000000000000.jpg", '
        '"width": "a", "height": []}], "annotations": [], "categories": []}',
    }.items():
        data = text.encode("utf-16") if name == "UTF-16" else text
        for format_ in ("coco", "label-studio"):
            yield f"{format_}: {name}", _import(format_, "c.json", data)
    yield from _label_studio()
    yield from _cvat()


def _import(format_: str, name: str, content: str | bytes) -> Make:
    return written(name, content, "corrections", "import", format_, name)


def _label_studio() -> Iterator[tuple[str, Make]]:
    sound = [0, 0, 0x60, 0, 0x39, 0xDF, 0x81, 0xFF, 0xFF, 0, 0, 0]
    for name, rle in {
        "noise": list(np.random.default_rng(0).integers(0, 256, 500)),
        "nothing": [],
        "words": ["a", "b"],
        "numbers above 255": [256, 1000],
        "negative": [-1] * 20,
        "a text": "abc",
        "a length": 10**12,
        "a dictionary": {"a": 1},
        "NaN": [float("nan")] * 30,
        "cut": sound,
        "2^32 values": [255] * 40,
    }.items():
        value = {"rle": rle if not isinstance(rle, list) else [_plain(x) for x in rle]}
        yield f"Label Studio: runs of {name}", _import("label-studio", "c.json", _tasks(value))
    region = {"rle": sound, "brushlabels": None}
    yield "Label Studio: no labels", _import("label-studio", "c.json", _tasks(region))
    huge = _tasks({"rle": sound}, height=10**9)
    yield "Label Studio: a height of 10^9", _import("label-studio", "c.json", huge)
    words = _tasks({"rle": sound}, height="tall")
    yield "Label Studio: a height of words", _import("label-studio", "c.json", words)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _tasks(value: dict[str, Any], height: Any = 64) -> str:
    region = {
        "type": "brushlabels",
        "original_width": 96,
        "original_height": height,
        "value": {"brushlabels": ["person"], **value},
    }
    task = {
        "data": {"image": "/x/000000000000.jpg", "image_id": "000000000000"},
        "annotations": [{"id": 1, "result": [region]}],
    }
    return json.dumps([task])


def _cvat() -> Iterator[tuple[str, Make]]:
    label = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nperson:1,2,3::\n"
    picture = io.BytesIO()
    Image.new("RGB", (96, 64), (1, 2, 3)).save(picture, "PNG")
    for name, files in {
        "nothing in it": {},
        "no label map": {"SegmentationClass/000000000000.png": picture.getvalue()},
        "no pictures": {"labelmap.txt": label},
        "a map of GBK": {"labelmap.txt": "狗:0,0,0::".encode("gbk")},
        "colours of words": {"labelmap.txt": "person:a,b,c::"},
        "colours of 2^64": {"labelmap.txt": f"person:{2**64},-1,0::"},
        "colours of 5,000 digits": {"labelmap.txt": f"person:{DIGITS},0,0::"},
        "a bomb": {"labelmap.txt": label, "SegmentationClass/000000000000.png": bytes(1 << 30)},
        "a map that is a bomb": {"labelmap.txt": bytes(1 << 30)},
        "a picture that is a bomb": {
            "labelmap.txt": label,
            "SegmentationClass/000000000000.png": png(30_000, 30_000, bytes(1000)),
        },
        "EPS for a picture": {
            "labelmap.txt": label,
            "SegmentationClass/000000000000.png": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        },
        "paths upwards": {"labelmap.txt": label, "SegmentationClass/../../x.png": b""},
        "sound": {
            "labelmap.txt": label,
            "SegmentationClass/000000000000.png": picture.getvalue(),
        },
    }.items():
        yield f"CVAT: {name}", _import("cvat", "c.zip", _zip(files))
    sound = _zip({"labelmap.txt": label})
    yield "CVAT: cut", _import("cvat", "c.zip", sound[:60])
    locked = bytearray(sound)
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[sound.index(sign) + offset] |= 1
    yield "CVAT: with a password", _import("cvat", "c.zip", bytes(locked))
    odd = bytearray(sound)
    for sign, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        odd[sound.index(sign) + offset] = 99
    yield "CVAT: packed in an unknown way", _import("cvat", "c.zip", bytes(odd))
    noise = bytearray(sound)
    noise[45:60] = os.urandom(15)
    yield "CVAT: damaged within", _import("cvat", "c.zip", bytes(noise))


def _zip(files: dict[str, str | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _records() -> Iterator[tuple[str, Make]]:
    """Files of the workspace itself, in place of which something else lies."""
    contents: dict[str, bytes] = {
        "nothing": b"",
        "noise": np.random.default_rng(0).bytes(400),
        "a list": b"[]",
        "deep": b"[" * 100_000,
        "NaN": b'{"format": NaN, "key": NaN}',
        "5,000 digits": b'{"format": ' + DIGITS.encode() + b"}",
        "a picture": encoded("PNG"),
    }
    for place, command in {
        "data/align/checkpoint.json": predicting("--classes", "dog, sky")(Path()),
        "data/align/head.safetensors": predicting("--classes", "dog, sky")(Path()),
        "data/pseudo/label/manifest.json": ("export", "coco", "data/pseudo/label", "--out", "e"),
        "data/pseudo/label/masks.parquet": ("review", "--out", "r"),
        "data/pseudo/detect/detections.parquet": ("run", "query"),
        "data/corrections/corrections.json": ("run", "label"),
        "metrics/fmbseg/coco_stuff.json": ("table",),
        "out/fmbseg-results.sha256": predicting("--classes", "dog, sky")(Path()),
        "corrections.yaml": ("run", "label"),
    }.items():
        for name, content in contents.items():
            yield f"{place}: {name}", _replaced(place, content, command)


def _replaced(place: str, content: bytes, command: Sequence[str]) -> Make:
    def make(root: Path) -> Sequence[str]:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return command

    return make
