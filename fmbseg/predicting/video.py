"""Video files, read and written frame by frame; needs the extra `video` (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from fmbseg.data.formats import VIDEO_EXTENSIONS
from fmbseg.data.images import to_rgb
from fmbseg.errors import DataError, shown

if TYPE_CHECKING:  # an extra
    import av
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

_USUAL = Fraction(25)  # frames a second, where a file does not say
_ENCODING = {"crf": "20", "preset": "veryfast"}  # x264: hardly to be told from the source, small


@dataclass(frozen=True)
class Timing:
    """When frames are shown, and how wide their pixels are.

    Attributes:
        rate: frames a second; their mean, where the distance between frames changes.
        base: seconds of the unit that all times are multiples of.
        aspect: width of a pixel over its height.
    """

    rate: Fraction
    base: Fraction
    aspect: Fraction = Fraction(1)


@dataclass(frozen=True)
class Frame:
    """One frame, upright.

    Attributes:
        image: RGB.
        time: seconds from the first frame, a multiple of `Timing.base`.
    """

    image: Image.Image
    time: Fraction


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video."""
    return path.suffix.lower()[1:] in VIDEO_EXTENSIONS


class VideoReader:
    """The frames of a video file, one in memory at a time. Use `open_video`.

    Attributes:
        timing: of its frames.
        expected: how many frames there should be; None: it is not known.
        broken: how many could not be decoded, so far.
    """

    def __init__(self, path: Path, container: InputContainer) -> None:
        self._container, self._path = container, path
        self._stream: VideoStream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate or _USUAL
        base = stream.time_base or 1 / rate
        self.timing = Timing(Fraction(rate), Fraction(base), _aspect(stream))
        self._declared: int | None = stream.frames or None
        self.expected = self._declared
        if self.expected is None and container.duration:
            self.expected = max(1, round(container.duration / 1_000_000 * rate))
        self.broken = 0

    def frames(self) -> Iterator[Frame]:
        """The frames in the order in which they are shown; those that are broken are left out.

        Raises:
            DataError: none can be decoded.
        """
        given, tick = 0, -1
        first: Fraction | None = None
        base = self.timing.base
        for frame in self._decoded():
            if frame.pts is None or frame.time_base is None:
                time = (tick + 1) * base if first is None else tick * base + 1 / self.timing.rate
            else:
                at = frame.pts * frame.time_base
                first = at if first is None else first
                time = at - first
            tick = max(tick + 1, round(time / base))
            given += 1
            yield Frame(to_rgb(_upright(frame), f"a frame of {shown(self._path)}"), tick * base)
        if not given:
            raise DataError(f"no frame of {shown(self._path)} can be decoded: is it damaged?")
        if self._declared is not None:
            # A file that was cut off ends without a word.
            self.broken = max(self.broken, self._declared - given)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        from av.error import FFmpegError

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:  # the rest of the file cannot be read
                self.broken += 1
                return
            try:
                for frame in packet.decode():
                    if frame.is_corrupt:
                        self.broken += 1
                    else:
                        yield frame
            except FFmpegError:
                self.broken += 1


@contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """A video file for reading.

    Raises:
        DataError: it is not there, no video, or broken from the start.
        ModuleNotFoundError: PyAV is not installed.
    """
    import av

    name = shown(path)
    if not path.exists():
        raise DataError(f"{name} does not exist: name a video, a picture or a folder of pictures")
    if not path.is_file():
        raise DataError(f"{name} is no regular file: name a video")
    try:
        container = av.open(path, "r")
    except av.error.FFmpegError as error:
        raise DataError(
            f"{name} is broken, cut off or no video ({error.strerror}): replace or remove it"
        ) from error
    with container:
        if not container.streams.video:
            raise DataError(f"{name} holds no pictures, only sound: name a video")
        yield VideoReader(path, container)


class VideoWriter:
    """A video file (H.264, MP4) that grows frame by frame. Use `new_video`.

    Attributes:
        size: (width, height) that all frames must have; None before the first.
    """

    def __init__(self, container: OutputContainer, timing: Timing) -> None:
        self._container = container
        self._timing = timing
        self._stream: VideoStream | None = None
        self.size: tuple[int, int] | None = None

    def add(self, picture: Image.Image, time: Fraction) -> None:
        """Append a frame.

        Args:
            picture: RGB; odd sides are padded by a white line, which the format needs.
            time: see `Frame`; later than that of the frame before.

        Raises:
            DataError: its size is another than that of the frames before.
        """
        import av

        if self.size is None:
            self.size = picture.size
        if picture.size != self.size:
            raise DataError(
                f"a frame of {picture.width} x {picture.height} px does not fit a video of "
                f"{self.size[0]} x {self.size[1]} px: frames must be of one size"
            )
        pixels = _even(np.asarray(picture.convert("RGB")))
        stream = self._stream or self._begun(pixels.shape[1], pixels.shape[0])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = round(time / self._timing.base), self._timing.base
        for packet in stream.encode(frame):
            self._container.mux(packet)

    def _begun(self, width: int, height: int) -> VideoStream:
        timing = self._timing
        stream = self._container.add_stream("libx264", rate=timing.rate, options=dict(_ENCODING))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = timing.base
        stream.codec_context.sample_aspect_ratio = timing.aspect
        self._stream = stream
        return stream

    def finish(self) -> None:
        """Write what the encoder still holds."""
        for packet in self._stream.encode(None) if self._stream else ():
            self._container.mux(packet)


@contextmanager
def new_video(path: Path, timing: Timing) -> Iterator[VideoWriter]:
    """A video file for writing; it is whole when the block has ended without an error."""
    import av

    # Players and browsers need the index, which is known last, in front.
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        writer = VideoWriter(container, timing)
        yield writer
        writer.finish()


def _aspect(stream: VideoStream) -> Fraction:
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if aspect > 0 else Fraction(1)


def _upright(frame: av.VideoFrame) -> Image.Image:
    """The frame, turned as the file says."""
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    turned = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)
    turn = (*turned, Image.Transpose.ROTATE_270)[quarters]
    return image if turn is None else image.transpose(turn)


def _even(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if height % 2 == width % 2 == 0:
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
