"""Texts, label maps and records that are damaged, odd, or made to do harm, and what reads them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.test_hostile_pictures import encoded, png
from tests.faults.hostile_pictures import _bomb
from tests.test_documents import HARD

#: Writes what is wrong into a copy of a finished workspace; gives the command line.
Make = Callable[[Path], Sequence[str]]
_LONG = "x" * 10_240
_DIGITS = "9" * 5000
_PICTURE = "coco/images/val2017/000000000000.jpg"
_NUMBERS = (".inf", "-.inf", ".nan", "18446744073709551616", "1.0e+30", "-1", "0", _DIGITS, "1e999")
_ODD = ("", " ", "~", "true", "[]", "{}", "2024-02-30", "!!int dog", "&a 1", "*a", "dog: cat", "١٢")


def texts() -> Iterator[tuple[str, Make]]:
    """All of it by name."""
    yield from _overrides()
    yield from _params()
    yield from _class_names()
    yield from _class_lists()
    yield from _label_maps()
    yield from _corrections()
    yield from _records()
    yield from _arguments()


def _overrides() -> Iterator[tuple[str, Make]]:
    for key in ("align.learning_rate", "masks.points_per_side", "run.seed", "data.limit"):
        for value in _NUMBERS:
            yield f"--set {key}={value[:24]}", _set(f"{key}={value}")
    for value in _ODD:
        yield f"--set run.threads={value}", _set(f"run.threads={value}")
    for text in (
        "scenes.layouts={coco_stuff164k: {train: 1000000000000}}",
        "data.root=2024-11-27",
        "data.root=" + _LONG,
        "data.root=/dev/zero",
        "data.root=\x1b[31m",
        "data.split=../../../etc",
        "data.name=__class__",
        "data.vocabulary=[voc21, voc21]",
        "data.vocabulary=/dev/zero",
        "data.labels=/proc",
        f"{_LONG}=1",
        f"run.{_LONG}=1",
        "run=1",
        "run.seed.more=1",
        "=",
        "run.seed",
        "run.model_config={}",
        "evaluate.benchmarks={'../x': {root: a, split: b}}",
        "evaluate.benchmarks={voc21: {root: a, split: b, limit: 1e30}}",
        "tracking.uri=file:///dev/null",
        "clip.model=../../etc/passwd",
        "features.encoder=timm/" + _LONG,
    ):
        yield f"--set {text[:50]!r}", _set(text)


def _set(text: str) -> Make:
    return lambda root: ("run", "detect", "--set", text)


def _params() -> Iterator[tuple[str, Make]]:
    for name, text in HARD.items():
        yield f"params.yaml: {name}", _file("p.yaml", text, "run", "detect", "--params", "p.yaml")
    for name, content in {
        "UTF-16": "run: {seed: 1}".encode("utf-16"),
        "GBK": "data: {root: 图片}".encode("gbk"),
        "a picture": encoded("PNG"),
        "nothing": b"",
        "zeros": bytes(100),
        "a list": b"- 1",
        "a number": b"7",
        "merge keys": b"a: &a {seed: 1}\nrun: {<<: *a}",
        "keys twice": b"run: {seed: 1}\nrun: {seed: 2}",
        "keys of numbers": b"1: {2: 3}",
        "an anchor bomb in a section": b"run: " + b"{seed: " * 30 + b"1" + b"}" * 30,
        "binary": b"run: {preset: !!binary aGVsbG8=}",
        "a set": b"run: !!set {a, b}",
        "octal and sexagesimal": b"run: {seed: 0o17, threads: 190:20:30}",
        "a surrogate": b'data: {root: "\\ud800"}',
        "an escape": b'data: {root: "\\e[31m"}',
        "CR alone": b"run:\r  seed: 1\r",
        "tabs": b"run:\n\tseed: 1\n",
        "70 MB": b"#" * 70_000_000,
    }.items():
        yield (
            f"params.yaml: {name}",
            _file("p.yaml", content, "run", "detect", "--params", "p.yaml"),
        )


def _file(name: str, content: str | bytes, *command: str) -> Make:
    def make(root: Path) -> Sequence[str]:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (root / name).write_bytes(data)
        return command

    return make


def _class_names() -> Iterator[tuple[str, Make]]:
    for text in (
        "", ",", " , ", "dog,,sky", "dog, dog", "Dog, dog", "dog|dog", "|", "dog|", "-", "-wolf",
        "dog, -dog", "dog>2", "dog>nan", "dog>inf", "dog>", ">0.2", "dog>0.2>0.3", "dog>1e999",
        "dog>0x1", "dog, " * 70_000, _LONG, "dog|" * 5000 + "x", "\x00", "dog\nsky",
        "\x1b[31mdog", "\u202edog", "dog\udce9", "<b>dog</b>", "{}", "%s", "💩, 🐕", "ﬁsh, fish",
        "é, é", "  dog  ", "__ignore__, dog", "0: dog", "# dog", "dog>0.2|cat", "-|-", "dog, sky=3",
        "../x", "NaN, inf",
    ):  # fmt: skip
        yield f"--classes {text[:30]!r}", _predict("--classes", text)
    yield "--classes of one word and --rest of 10 kB", _predict("--classes", "dog", "--rest", _LONG)
    yield "--groups of itself", _predict("--classes", "dog, sky", "--groups", "dog")


def _predict(*more: str, out: str = "out") -> Make:
    return lambda root: ("predict", _PICTURE, "--out", out, *more)


def _class_lists() -> Iterator[tuple[str, Make]]:
    for name, content in {
        "UTF-16 LE": "dog\r\nsky\r\n".encode("utf-16"),
        "UTF-16 BE": b"\xfe\xff" + "dog\nsky\n".encode("utf-16-be"),
        "UTF-16 without a mark": "dog\nsky\n".encode("utf-16-le"),
        "UTF-32": "dog\nsky\n".encode("utf-32"),
        "UTF-8 with a mark": b"\xef\xbb\xbfdog\nsky\n",
        "GBK": "狗\n天空\n".encode("gbk"),
        "Windows-1252": "café\nsky\n".encode("cp1252"),
        "labelme": b"__ignore__\n_background_\ndog\n",
        "labelme's names alone": b"__ignore__\n",
        "ignore in the middle": b"dog\n__ignore__\nsky\n",
        "numbers": b"0: dog\n1: sky\n",
        "numbers from 1": b"1: dog\n2: sky\n",
        "numbers of 5,000 digits": f"{_DIGITS}: dog\n".encode(),
        "some numbers": b"0: dog\nsky\n",
        "comments": b"# classes\ndog # a dog\nsky\n",
        "comments alone": b"# dog\n",
        "nothing": b"",
        "line ends": b"\n\r\n\r\n",
        "old line ends": b"dog\rsky\r",
        "line separators": "dog\u2028sky\u2029tree".encode(),
        "form feeds": b"dog\x0csky\x0b",
        "zeros": bytes(50),
        "a line of 900 kB": b"x" * 900_000,
        "70,000 names": "\n".join(map(str, range(70_000))).encode(),
        "two MB": b"x\n" * 1_000_000,
        "a picture": encoded("PNG"),
        "JSON": b'["dog", "sky"]',
        "CSV": b"id,name\n0,dog\n1,sky\n",
        "tabs": b"0\tdog\n1\tsky\n",
    }.items():
        yield (
            f"words.txt: {name}",
            _file("words.txt", content, *_predict("--vocabulary", "words.txt")(Path())),
        )
    for name, text in {
        **{name: text for name, text in HARD.items() if name != "long"},
        "no classes": "name: x\nclasses: []",
        "a class of numbers": "name: x\nclasses: [1, 2]",
        "a class of a list": "name: x\nclasses: [[dog, [puppy]]]",
        "a background that is none": "name: x\nclasses: [dog]\nbackground: sky",
        "a threshold of NaN": "name: x\nclasses: [{name: dog, threshold: .nan}]",
        "a threshold of 2^64": "name: x\nclasses: [{name: dog, threshold: 18446744073709551616}]",
        "yes and no": "name: x\nclasses: [yes, no, null, 2024-11-27]",
        "templates of its own": "name: x\nclasses: [dog]\ntemplates: ['{0.__class__}']",
        "a name of 10 kB": f"name: {_LONG}\nclasses: [dog]",
        "a name of a path": "name: ../../x\nclasses: [dog, sky]",
    }.items():
        yield (
            f"words.yaml: {name}",
            _file("words.yaml", text, *_predict("--vocabulary", "words.yaml")(Path())),
        )
    for place in ("/dev/zero", "/", "nowhere.txt", "/proc/self/mem", _LONG):
        yield f"--vocabulary {place[:20]}", _predict("--vocabulary", place)


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
        "5,000 digits": f'{{"images": {_DIGITS}}}',
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
    return _file(name, content, "corrections", "import", format_, name)


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
        "colours of 5,000 digits": {"labelmap.txt": f"person:{_DIGITS},0,0::"},
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
        "5,000 digits": b'{"format": ' + _DIGITS.encode() + b"}",
        "a picture": encoded("PNG"),
    }
    for place, command in {
        "data/align/checkpoint.json": _predict("--classes", "dog, sky")(Path()),
        "data/align/head.safetensors": _predict("--classes", "dog, sky")(Path()),
        "data/pseudo/label/manifest.json": ("export", "coco", "data/pseudo/label", "--out", "e"),
        "data/pseudo/label/masks.parquet": ("review", "--out", "r"),
        "data/pseudo/detect/detections.parquet": ("run", "query"),
        "data/corrections/corrections.json": ("run", "label"),
        "metrics/fmbseg/coco_stuff.json": ("table",),
        "out/fmbseg-results.sha256": _predict("--classes", "dog, sky")(Path()),
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


def _arguments() -> Iterator[tuple[str, Make]]:
    for arguments in (
        (),
        ("",),
        (_LONG,),
        ("--" + _LONG,),
        ("run", _LONG),
        ("run", "detect@" + _LONG),
        ("run", "evaluate@../x"),
        ("predict", _LONG, "--classes", "dog", "--out", "o"),
        ("predict", _PICTURE, "--classes", "dog", "--out", _LONG),
        ("predict", _PICTURE, "--classes", "dog", "--out", "/proc/x"),
        ("predict", _PICTURE, "--classes", "dog", "--out", "/dev/null"),
        ("predict", "\x1b[31m", "--classes", "dog", "--out", "o"),
        ("predict", "", "--classes", "dog", "--out", "o"),
        ("predict", "/dev/stdin", "--classes", "dog", "--out", "o"),
        ("predict", _PICTURE, "--classes", "dog", "--out", "o", "--checkpoint", "/dev/zero"),
        ("predict", _PICTURE, "--classes", "dog", "--out", "o", "--method", _LONG),
        ("predict", _PICTURE, "--classes", "dog", "--out", "o", "--weights-dir", "/proc"),
        ("label", _PICTURE, "--classes", "dog", "--out", "o"),
        ("data", "doctor", _LONG, "--root", "coco"),
        ("data", "doctor", "folder", "--root", "/proc/self/fdinfo"),
        ("data", "scenes", "--layout", "folder", "--images", "1000000000000", "--out", "s"),
        ("data", "scenes", "--layout", "folder", "--images", _DIGITS, "--out", "s"),
        ("data", "scenes", "--layout", "folder", "--images", "-1", "--out", "s"),
        ("corrections", "import", "coco", "/dev/zero"),
        ("corrections", "import", "coco", "."),
        ("corrections", "import", "cvat", "/dev/zero"),
        ("corrections", "import", "png", "/proc/self"),
        ("corrections", "import", "png", "nowhere", "--at", "2024-02-30"),
        ("export", _LONG, "data/pseudo/label", "--out", "e"),
        ("words", "check", "--classes", "dog, dog"),
        ("evaluate", "fmbseg", "--set", "evaluate.benchmarks={}"),
    ):
        yield f"fmbseg {' '.join(arguments)[:60]!r}", lambda root, line=arguments: line
