"""Videos among the pictures that `fmbseg predict` is given, and pictures that are frames."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fmbseg.errors import ConfigError

if TYPE_CHECKING:
    from fmbseg.predicting.results import Wanted

_FASTEST = 1000  # frames a second


def parted(jobs: Mapping[str, Path], ordered: bool) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures, as frames in their order where they are such, and videos."""
    from fmbseg.predicting.pictures import in_order
    from fmbseg.predicting.video import is_video

    videos = {name: path for name, path in jobs.items() if is_video(path)}
    pictures = {name: path for name, path in jobs.items() if name not in videos}
    return in_order(pictures) if ordered else pictures, videos


def frames_name(images: Sequence[Path], fps: float | None, pictures: Collection[str]) -> str | None:
    """Name of the video that is made of pictures; None: none is."""
    if fps is None:
        return None
    if not 0 < fps <= _FASTEST:
        raise ConfigError(f"--fps {fps:g}: give frames a second, above 0 and up to {_FASTEST}")
    if not pictures:
        raise ConfigError("--fps is for pictures that are frames; a video has a rate of its own")
    import av  # noqa: F401  # said before any work, where it is missing

    name = images[0].resolve().name if len(images) == 1 and images[0].is_dir() else "frames"
    return f"{name}-video" if name in pictures else name


def refuse_what_videos_have_not(
    videos: Collection[str], exports: Sequence[str], frames: bool, wanted: Wanted
) -> None:
    """Raise ConfigError for options that are nothing for what a call names."""
    if not videos:
        if frames:
            raise ConfigError("--frames is for videos, and none is named")
        return
    import av  # noqa: F401  # said before any work, where it is missing

    if exports:
        raise ConfigError("--export takes pictures, not videos: leave it out, or name pictures")
    if (wanted.scores or wanted.contours) and not frames:
        raise ConfigError(
            "--scores and --contours of a video are those of its frames: add --frames"
        )
