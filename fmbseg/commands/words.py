"""`fmbseg words`: class names examined, and suggested."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    ClassNames,
    Groups,
    Overrides,
    Params,
    PictureRoot,
    PresetName,
    RestName,
    VocabularyName,
    WeightsDir,
    named_classes,
    preset_config,
    use_weights,
    with_threads,
)
from fmbseg.store.paths import Paths

if TYPE_CHECKING:
    from fmbseg.data.vocabulary import Vocabulary
    from fmbseg.wording.collisions import Collision, Pair
    from fmbseg.wording.suggestions import Suggestions

_log = logging.getLogger(__name__)
app = typer.Typer(help="Class names.", rich_markup_mode=None)
# Pairs of words that are looked into, and shown where none is one to CLIP.
_PAIRS, _SHOWN = 50, 5
NAMES, SHEET = "names.txt", "sheet.png"


@app.callback()
def _words() -> None:
    """Class names."""


@app.command("check")
def check(
    classes: ClassNames = None,
    vocabulary: VocabularyName = None,
    rest: RestName = None,
    groups: Groups = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of `fmbseg label`, or data/pseudo/detect: which names were never detected.",
        ),
    ] = None,
    preset: PresetName = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Say which class names are one to CLIP, and what tells them apart.

    Of two words with a cosine of 0.95 or more a pixel is the one or the other by chance, unless
    detection.same_words leaves such words to the class that stands first. Shown are the template
    sets (clip.templates) and the other words that tell them apart.
    """
    use_weights(weights_dir)
    words = named_classes(classes, vocabulary, rest, groups)
    config = with_threads(preset_config(preset, params, overrides), params, overrides)

    from fmbseg.labelling.shared_words import shared_words, shared_words_line
    from fmbseg.machine.device import choose_device
    from fmbseg.models.clip import load_clip
    from fmbseg.pseudo.detection import looked_for
    from fmbseg.wording.collisions import explained, nearest_pairs
    from fmbseg.wording.detected import detected_in

    counts = None if labels is None else detected_in(labels, words)
    choice = choose_device(config.run)
    clip = load_clip(config.clip.model, choice.device, choice.dtype, text_cache=_encodings())
    templates = words.templates or config.clip.templates
    pairs = nearest_pairs(words, clip.text_embeddings(words, templates), _PAIRS)
    asked = len(words.queries[0])
    print(f"{len(words)} classes, {asked} words, to {config.clip.model} with {templates}:")
    found = explained(pairs, words, clip, templates)
    for collision in found:
        _print_collision(collision)
    if not found:
        _print_nearest(pairs)
    text = clip.text_embeddings(words.widened, templates)
    if shared := shared_words(words, text, looked_for(text, config.detection)):
        print(shared_words_line(shared, most=len(shared)))
    if counts is not None:
        _print_never(counts, words)


@app.command("suggest")
def suggest(
    folder: PictureRoot,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the names and their examples go.")
    ],
    count: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Most names.")] = 20,
    preset: PresetName = None,
    overrides: Overrides = None,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Propose class names for a folder of pictures, with an example of each.

    The words of all vocabularies of the package are looked for as detection does. Written are
    names.txt, which --vocabulary takes, and sheet.png with the windows that are most similar.
    """
    use_weights(weights_dir)
    config = with_threads(preset_config(preset, params, overrides), params, overrides)

    from fmbseg.data.folder import find_pictures
    from fmbseg.machine.progress import console_progress
    from fmbseg.presets.drawings import drawings_only
    from fmbseg.store.ledger import Ledger
    from fmbseg.view.overlay import png
    from fmbseg.wording import suggestions

    files = find_pictures(folder).files
    ledger = Ledger(out)
    for name in (NAMES, SHEET):
        ledger.require(name)
    found = suggestions.suggest(files, config, _encodings(), console_progress())
    best = found.found[:count]
    if best:
        out.mkdir(parents=True, exist_ok=True)
        ledger.write(NAMES, "".join(f"{each.name}\n" for each in best).encode())
        ledger.write(SHEET, png(suggestions.suggestion_sheet(best, found.pictures)))
    _print_suggestions(found, count, folder, out)
    if line := drawings_only([config.clip.model], [folder]):
        _log.warning("%s", line)


def _encodings() -> Path | None:
    paths = Paths()
    return paths.encodings if paths.work.is_dir() else None


def _called(pair: Pair) -> str:
    """Two classes, each with the word that it is asked with where that is another."""
    named = zip(pair.classes, pair.words, strict=True)
    return " and ".join(name if name == word else f"{name} ({word})" for name, word in named)


def _print_collision(collision: Collision) -> None:
    print(f"one to CLIP: {_called(collision.pair)}, cosine {collision.pair.cosine:.3f}")
    shown = ", ".join(f"{name} {cosine:.3f}" for name, cosine in collision.by_templates.items())
    told = ", ".join(collision.separating) or "none"
    print(f"  told apart by the templates: {told} ({shown})")
    for name, word, cosine in collision.other_words:
        print(f"  told apart by another word: {name} asked as {word} ({cosine:.3f})")
    if not collision.separating and not collision.other_words:
        print("  merge them (--groups), or name them otherwise")


def _print_nearest(pairs: list[Pair]) -> None:
    print("no two classes are one to CLIP")
    for pair in pairs[:_SHOWN]:
        print(f"  nearest: {_called(pair)}, cosine {pair.cosine:.3f}")


def _print_never(counts: dict[str, int], words: Vocabulary) -> None:
    never = [
        name
        for index, name in enumerate(words.names)
        if not counts[name] and index != words.background
    ]
    if never:
        print(f"never detected ({len(never)} of {len(words)}): {', '.join(never)}")
    else:
        print("each class was detected in at least one picture")


def _print_suggestions(found: Suggestions, count: int, folder: Path, out: Path) -> None:
    for reason in found.skipped:
        print(f"skipped: {reason}")
    best = found.found[:count]
    if not best:
        print(f"none of {found.asked} names was detected in {found.pictures} pictures")
        return
    names = [each.name + (f" (also {', '.join(each.also)})" if each.also else "") for each in best]
    width = max(map(len, names))
    print(f"{'name':{width}}  images  votes  similarity")
    for name, each in zip(names, best, strict=True):
        similarity = each.examples[0].similarity
        print(f"{name:{width}}  {each.pictures:6d}  {each.votes:5d}  {similarity:10.3f}")
    if len(found.found) > count:
        print(f"{len(found.found) - count} more names were detected: --count shows them")
    print(
        f"{out}: {NAMES}, {SHEET}; `fmbseg label {folder} --vocabulary {out / NAMES} --out labels`"
    )
