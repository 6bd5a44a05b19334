"""The words `image` and `video`: show the model something."""

from __future__ import annotations

from sgcore.api import Primitive
from sgcore.lang import Media, State, Steps
from sgcore_vision.encode import Source, url_of


class Image(Primitive):
    """`image(source)`: a path, bytes, a URL or a PIL image. Raises ValueError for anything that is no image."""

    def __init__(self, path: Source) -> None:
        self.url = url_of(path, "image")

    def run(self, state: State) -> Steps:
        yield Media("image", self.url)


class Video(Primitive):
    """`video(source, num_frames)`: a path, bytes or a URL, of which the model sees `num_frames` frames."""

    def __init__(self, path: Source, num_frames: int) -> None:
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        self.url = url_of(path, "video")
        self.num_frames = num_frames

    def run(self, state: State) -> Steps:
        yield Media("video", self.url, {"num_frames": self.num_frames})
