"""The words `image` and `video`, without a server."""

from __future__ import annotations

import base64

import pytest

from sgcore.lang import Media
from sgcore.testing.primitives import Drive, PrimitiveSuite
from sgcore_vision import Image, Video

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
WEBP = b"RIFF\0\0\0\0WEBP"
MP4 = b"\0\0\0\x18ftypmp42"


class Picture:
    """What PIL's images have in common with this: `save`."""

    def save(self, file, kind):
        assert kind == "PNG"
        file.write(PNG)


class TestImage(PrimitiveSuite):
    word = "image"
    examples = (
        lambda word: word(PNG),
        lambda word: word("https://example.org/a.png"),
        lambda word: word(Picture()),
    )


class TestVideo(PrimitiveSuite):
    word = "video"
    examples = (lambda word: word(MP4, 8), lambda word: word("https://example.org/a.mp4", num_frames=2))


def data_url(media_type, data):
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(("data", "media_type"), [(PNG, "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")])
def test_bytes_and_files_become_data_urls(data, media_type, tmp_path):
    file = tmp_path / "picture"
    file.write_bytes(data)
    for source in (data, str(file), file):
        assert Drive(Image(source)).requests == [Media("image", data_url(media_type, data))]


def test_pil_images_and_urls():
    assert Image(Picture()).url == data_url("image/png", PNG)
    assert Image("https://example.org/a.png").url == "https://example.org/a.png"
    assert Drive(Video(MP4, 3)).requests == [Media("video", data_url("video/mp4", MP4), {"num_frames": 3})]


def test_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="expected an image, got video/mp4"):
        Image(MP4)
    with pytest.raises(ValueError, match="unknown format"):
        Image(b"text")
    with pytest.raises(ValueError, match="got int"):
        Image(5)
    with pytest.raises(ValueError, match="num_frames"):
        Video(MP4, 0)
    with pytest.raises(OSError):
        Image(tmp_path / "missing.png")
