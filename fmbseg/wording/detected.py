"""In how many pictures each name was detected, from stage 1's table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fmbseg.data.vocabulary import Vocabulary
from fmbseg.errors import DataError
from fmbseg.pseudo.tables import DETECTIONS


def detected_in(place: Path, words: Vocabulary) -> dict[str, int]:
    """Pictures in which each class of a vocabulary was detected.

    Args:
        place: a folder of `fmbseg label`, an out of the stage detect, or the table itself.
        words: the classes.

    Raises:
        DataError: there is no such table, or it has detections of none of the classes.
    """
    path = place / DETECTIONS if place.is_dir() else place
    try:
        table = pq.read_table(path, columns=["image_id", "class_name"]).to_pandas()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist: give a folder of `fmbseg label`, or data/pseudo/detect"
        ) from error
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"{path} is no table of detections: give {DETECTIONS}") from error
    counts = table.drop_duplicates().groupby("class_name").size().to_dict()
    found = {name: int(counts.get(name, 0)) for name in words.names}
    if not any(found.values()):
        raise DataError(f"{path} has detections of other classes: name those that it is of")
    return found
