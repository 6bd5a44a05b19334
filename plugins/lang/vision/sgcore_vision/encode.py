"""Pictures and films as URLs: what is here becomes a `data:` URL, an address stays one."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, TypeAlias

Source: TypeAlias = "str | Path | bytes | Any"
"""A path, bytes, a URL, or an object with PIL's `save`."""

SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (0, b"BM", "image/bmp"),
    (8, b"WEBP", "image/webp"),
    (8, b"AVI ", "video/x-msvideo"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)
"""Where a format's mark stands, the mark, and the format."""


def url_of(source: Source, kind: str) -> str:
    """The URL of an image or a video (`kind`). Raises ValueError for anything else, OSError for an unreadable file."""
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return source
    data = source if isinstance(source, bytes) else _read(source)
    media_type = _media_type(data)
    if not media_type.startswith(kind):
        raise ValueError(f"expected {'an' if kind == 'image' else 'a'} {kind}, got {media_type or 'an unknown format'}")
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _read(source: Any) -> bytes:
    if isinstance(source, str | Path):
        return Path(source).read_bytes()
    if not hasattr(source, "save"):
        raise ValueError(f"expected a path, bytes, a URL or a PIL image, got {type(source).__name__}")
    buffer = io.BytesIO()
    source.save(buffer, "PNG")
    return buffer.getvalue()


def _media_type(data: bytes) -> str:
    found = (name for place, mark, name in SIGNATURES if data[place : place + len(mark)] == mark)
    return next(found, "")
