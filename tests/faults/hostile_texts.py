"""Arguments, parameters and class lists that are odd, or made to do harm, and what reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.data.test_hostile_pictures import encoded
from tests.faults.hostile_records import records
from tests.faults.making import DIGITS, PICTURE, Make, predicting, written
from tests.test_documents import HARD

_LONG = "x" * 10_240
_NUMBERS = (".inf", "-.inf", ".nan", "18446744073709551616", "1.0e+30", "-1", "0", DIGITS, "1e999")
_ODD = ("", " ", "~", "true", "[]", "{}", "2024-02-30", "!!int dog", "&a 1", "*a", "dog: cat", "١٢")


def texts() -> Iterator[tuple[str, Make]]:
    """All of it by name."""
    yield from _overrides()
    yield from _params()
    yield from _class_names()
    yield from _class_lists()
    yield from records()
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
        yield f"params.yaml: {name}", written("p.yaml", text, "run", "detect", "--params", "p.yaml")
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
            written("p.yaml", content, "run", "detect", "--params", "p.yaml"),
        )


def _class_names() -> Iterator[tuple[str, Make]]:
    for text in (
        "", ",", " , ", "dog,,sky", "dog, dog", "Dog, dog", "dog|dog", "|", "dog|", "-", "-wolf",
        "dog, -dog", "dog>2", "dog>nan", "dog>inf", "dog>", ">0.2", "dog>0.2>0.3", "dog>1e999",
        "dog>0x1", "dog, " * 70_000, _LONG, "dog|" * 5000 + "x", "\x00", "dog\nsky",
        "\x1b[31mdog", "\u202edog", "dog\udce9", "<b>dog</b>", "{}", "%s", "💩, 🐕", "ﬁsh, fish",
        "é, é", "  dog  ", "__ignore__, dog", "0: dog", "# dog", "dog>0.2|cat", "-|-", "dog, sky=3",
        "../x", "NaN, inf",
    ):  # fmt: skip
        yield f"--classes {text[:30]!r}", predicting("--classes", text)
    yield (
        "--classes of one word and --rest of 10 kB",
        predicting("--classes", "dog", "--rest", _LONG),
    )
    yield "--groups of itself", predicting("--classes", "dog, sky", "--groups", "dog")


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
        "numbers of 5,000 digits": f"{DIGITS}: dog\n".encode(),
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
            written("words.txt", content, *predicting("--vocabulary", "words.txt")(Path())),
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
            written("words.yaml", text, *predicting("--vocabulary", "words.yaml")(Path())),
        )
    for place in ("/dev/zero", "/", "nowhere.txt", "/proc/self/mem", _LONG):
        yield f"--vocabulary {place[:20]}", predicting("--vocabulary", place)


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
        ("predict", PICTURE, "--classes", "dog", "--out", _LONG),
        ("predict", PICTURE, "--classes", "dog", "--out", "/proc/x"),
        ("predict", PICTURE, "--classes", "dog", "--out", "/dev/null"),
        ("predict", "\x1b[31m", "--classes", "dog", "--out", "o"),
        ("predict", "", "--classes", "dog", "--out", "o"),
        ("predict", "/dev/stdin", "--classes", "dog", "--out", "o"),
        ("predict", PICTURE, "--classes", "dog", "--out", "o", "--checkpoint", "/dev/zero"),
        ("predict", PICTURE, "--classes", "dog", "--out", "o", "--method", _LONG),
        ("predict", PICTURE, "--classes", "dog", "--out", "o", "--weights-dir", "/proc"),
        ("label", PICTURE, "--classes", "dog", "--out", "o"),
        ("data", "doctor", _LONG, "--root", "coco"),
        ("data", "doctor", "folder", "--root", "/proc/self/fdinfo"),
        ("data", "scenes", "--layout", "folder", "--images", "1000000000000", "--out", "s"),
        ("data", "scenes", "--layout", "folder", "--images", DIGITS, "--out", "s"),
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
