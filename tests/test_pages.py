"""README and docs, command by command: the pages themselves are what is run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
import typer
from PIL import Image

from fmbseg import cli
from fmbseg.data.vocabulary import load_vocabulary
from fmbseg.predicting.video import Timing, new_video
from fmbseg.scenes.files import write_scenes
from fmbseg.scenes.moving import moving_scene
from tests.flows.stack import Stack, free_ports
from tests.project import copy_project

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    # Pages that run stages stand before the one that sets the real models' parameters.
    *(f"docs/{name}.md" for name in ("pictures", "training", "runs", "experiments")),
    *(f"docs/{name}.md" for name in ("orchestration", "models", "data", "architecture", "serving")),
)
# A line that begins so is not run, and why.
NOT_RUN = {
    "make demo": "its installation is the tester's; the rest of it is the first step of the walk",
    "make test": "this is it",
    "make labels-demo": "its installation is the tester's; tests/labelling/test_demo.py",
    "make ui": "ends only when it is told to; tests/flows/test_stack.py",
    "fmbseg models pull": "needs a network; tests/models/test_download.py",
    "pip install prefect-docker": "needs a network",
    "prefect gcl create gpu --limit 1": "the stack has made it",
    "prefect worker start": "ends only when it is told to",
    "FMBSEG_GPU_LIMIT=gpu-box2 python -m flows.worker": "ends only when it is told to",
    "prefect deployment run fmbseg-search": "takes many trainings; tests/flows/test_search.py",
    "make publish-run": "needs a commit of what was changed; tests/pipeline/test_dvc.py",
    'git commit -m "Results"': "of that",
    "fmbseg monitor": "ends with 1 where there is drift; tests/monitor",
    "mlflow models serve": "ends only when it is told to; tests/tracking/test_serving.py",
    "curl": "asks that server",
    "docker compose": "needs a container engine; tests/test_docker.py",
}
# The page's other way to the same folder, in place of the one before it.
ELSEWHERE = "dvc import-url"
# Lines of a page that need a running stack, which its text starts elsewhere.
WITH_STACK = "docs/orchestration.md"


@dataclass(frozen=True)
class Block:
    """The lines between two fences of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def lines(self) -> list[str]:
        """Those that are run."""
        return [
            line for line in self.text.splitlines() if not any(line.startswith(n) for n in NOT_RUN)
        ]


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"(?ms)^```(sh|python)\n(.*?)^```$", text)
    return [Block(page, text[: m.start()].count("\n") + 2, m[1], m[2]) for m in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def named_commands() -> list[tuple[str, list[str]]]:
    """Each `fmbseg ...` and `make ...` of the pages, in blocks and in running text."""
    found = []
    for page in (*PAGES, "docs/labels.md", "docs/where.md", "docs/faq.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        text = re.sub(r"(?ms)^```diff\n.*?^```$", "", text).replace("\\\n", " ")
        spans = re.findall(r"`((?:fmbseg|make) [^`]+)`", text)
        spans += re.findall(r"(?m)^(?:\$ )?((?:fmbseg|make) .+)$", text)
        found += [(page, shlex.split(" ".join(span.split()), comments=True)) for span in spans]
    return found


def test_every_command_on_a_page_exists_with_its_options() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    commands = named_commands()
    assert len(commands) > 40
    for page, (program, *words) in commands:
        shown = f"{page}: {program} {' '.join(words)}"
        if program == "make":
            assert words[0] in targets, shown
            continue
        command = typer.main.get_command(cli.app)
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, shown
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert used - {"--help"} <= known, shown


def test_what_is_not_run_is_still_on_a_page() -> None:
    lines = [line for block in BLOCKS for line in block.text.splitlines()]
    for start in NOT_RUN:
        assert any(line.startswith(start) for line in lines), start


@dataclass(frozen=True)
class Reader:
    """A fresh clone with small parameters, and what a reader brings."""

    project: Stack
    instead: dict[str, str]

    def follow(self, block: Block) -> None:
        """Run what is written, with the reader's own places in it."""
        text = "\n".join(block.lines)
        for written, own in self.instead.items():
            text = text.replace(written, own)
        if ELSEWHERE in text:
            self.project.try_run("dvc", "remove", "inputs/photos.dvc")
            shutil.rmtree(self.project.root / "inputs", ignore_errors=True)
        shell = ["bash", "-ex", "-o", "pipefail", "-c"]
        start = shell if block.language == "sh" else [sys.executable, "-c"]
        done = self.project.try_run(*start, text)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    root = folder / "fmbseg"
    copy_project(ROOT, root)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    # The tester's environment in the place of one that takes minutes to install.
    (root / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (root / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (root / ".venv" / ".installed").touch()
    project = Stack(root, free_ports(2))
    project.commit("a clone")
    bring(root, folder)
    instead = {
        "/mnt/camera": str(folder / "camera"),
        "/mnt/storage": str(folder / "storage"),
        "/tmp/camvid": str(folder / "camvid"),
        "~/weights": str(folder / "weights"),
        " --open": "",  # there is no browser
    }
    made = Reader(project, instead)
    try:
        project.run("python", "-m", "fmbseg.pipeline.repro")
        project.run("fmbseg", "table")
        # A reader's photos are not in git, the results may be.
        project.run("git", "add", "dvc.lock", "metrics")
        project.run("git", "commit", "-qm", "results")
        yield made
    finally:
        project.try_run("python", "-m", "flows.stack", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def bring(root: Path, folder: Path) -> None:
    """What the pages take for granted: photos, benchmarks, another system's label maps."""
    scenes = root / "VOC2012"
    write_scenes("voc2012", scenes, train=0, val=4)
    drawn = sorted((scenes / "JPEGImages").iterdir())
    for place in (root / "photos", root / "inputs" / "photos", folder / "camera"):
        place.mkdir(parents=True)
        for picture in drawn:
            shutil.copy(picture, place)
    (root / "inputs" / "photos" / "classes.txt").write_text("car\nroad\ntree\ndog\nperson\nsky\n")
    shutil.copy(drawn[0], root / "photo.jpg")
    with Image.open(drawn[0]) as image:
        image.resize((768, 640)).save(root / "survey.tif")
    (root / "frames").mkdir()
    with new_video(root / "clip.mp4", Timing(Fraction(25), Fraction(1, 25))) as video:
        for number, frame in enumerate(moving_scene(0, 3)):
            picture = Image.fromarray(frame.scene.image)
            picture.save(root / "frames" / f"{number}.png")
            video.add(picture, Fraction(number, 25))
    shutil.copytree(scenes, root / "VOCdevkit" / "VOC2012")
    labels = root / "GroupViT" / "voc21"
    labels.mkdir(parents=True)
    for picture in drawn:
        with Image.open(picture) as image:
            Image.new("L", image.size).save(labels / f"{picture.stem}.png")
    names = load_vocabulary("voc21").names
    (root / "cls_voc21.txt").write_text("\n".join(names) + "\n")
    with (root / ".git" / "info" / "exclude").open("a") as excluded:
        excluded.write(
            "/VOC*\n/GroupViT\n/photo*\n/survey.tif\n/frames*\n/clip.mp4\n/video\n/out\n"
        )
        excluded.write("/cls_voc21.txt\n/*.json\n/masks\n/dogs\n/labels\n/coco\n/review\n")


@pytest.fixture(scope="module")
def stack(reader: Reader) -> Iterator[None]:
    """`make stack` and `make deploy`, for the pages that take them for granted."""
    reader.project.run("make", "stack")
    reader.project.run("make", "deploy")
    yield
    reader.project.run("make", "stack-stop")


# The tests go on from one another, as a reader does.
@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.lines], ids=str)
def test_a_block_does_what_it_says(
    block: Block, reader: Reader, request: pytest.FixtureRequest
) -> None:
    if block.page == WITH_STACK:
        request.getfixturevalue("stack")
    reader.follow(block)
