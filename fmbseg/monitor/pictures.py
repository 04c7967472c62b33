"""Pictures alone: which classes CLIP detects in them, as stage 1 does (1.1 Detection)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fmbseg.config import Config
from fmbseg.data.manifest import ImageRecord
from fmbseg.data.vocabulary import Vocabulary
from fmbseg.labelling.pictures import find_pictures
from fmbseg.machine.device import choose_device
from fmbseg.machine.progress import Progress
from fmbseg.monitor.observed import DETECTED, DETECTION, Observed, table
from fmbseg.pseudo.detection import detect_classes, looked_for
from fmbseg.pseudo.encodings import ClipEncodings
from fmbseg.store.paths import Paths


def detected(
    folder: Path, words: Vocabulary, config: Config, progress: Progress, paths: Paths | None = None
) -> Observed:
    """Detect the classes of a vocabulary in each picture of a folder.

    A picture that cannot be read is left out. In a project CLIP's encodings are kept.

    Args:
        folder: of pictures, in any depth.
        words: K classes.
        config: the sections clip, detection and run are read.
        progress: of the pictures.
        paths: the workspace; None: the current folder.

    Raises:
        DataError: there is no picture in it that can be read.
    """
    paths = paths or Paths()
    kept = paths.encodings if paths.work.is_dir() else None
    memory = paths.manifests if paths.work.is_dir() else None
    found = find_pictures(folder, folder / ".fmbseg", memory, progress)
    encodings = ClipEncodings(config, kept, choose_device(config.run))
    templates = words.templates or config.clip.templates
    text = encodings.model.text_embeddings(words.widened, templates)
    text = looked_for(text, config.detection)
    rows = []
    with progress.task(f"detect {folder}", len(found.readable)) as task:
        for picture in found.readable:
            file = picture.file
            record = ImageRecord(
                file.image_id, picture.path, picture.sha256, file.width, file.height
            )
            seen = encodings.encode(record)
            classes = detect_classes(seen.windows, seen.dense, text, config.detection)
            rows += [
                (file.image_id, int(index), float(value))
                for index, value in zip(classes.classes, classes.similarity, strict=True)
            ]
            task.advance()
    names = [picture.file.image_id for picture in found.readable]
    similarity = table(names, len(words), rows, float("nan"))
    return Observed(
        str(folder),
        words.names,
        len(names),
        {DETECTED: (~np.isnan(similarity)).astype(float)},
        {DETECTION: similarity},
    )
