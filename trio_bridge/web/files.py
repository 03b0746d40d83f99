"""The page's files, read once: nothing in a URL ever becomes a path."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def read_page_files(facts: Mapping[str, Any]) -> dict[str, PageFile]:
    """Name → file: those of the folder `static` beside this module, and `facts.js`."""
    static = files("trio_bridge.web").joinpath("static")
    contents = {entry.name: entry.read_bytes() for entry in static.iterdir() if entry.is_file()}
    contents["facts.js"] = b"export const facts = %s;\n" % orjson.dumps(facts)
    found = {}
    for name, content in contents.items():
        suffix = "." + name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            etag = f'"{sha256(content).hexdigest()[:32]}"'
            found[name] = PageFile(content, MEDIA_TYPES[suffix], etag)
    return found
