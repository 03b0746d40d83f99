"""The page's files, read once: nothing that a URL says ever becomes a path."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """`etag` changes with the content."""

    content: bytes
    media_type: str
    etag: str


def read_page_files() -> dict[str, PageFile]:
    """Name → file; of the folder `static` beside this module."""
    found = {}
    for entry in files("trio_bridge.web").joinpath("static").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            content = entry.read_bytes()
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            found[entry.name] = PageFile(content, MEDIA_TYPES[suffix], etag)
    return found
