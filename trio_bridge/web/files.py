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
    script = b"export const facts = %s;\n" % orjson.dumps(facts)
    found = {"facts.js": _page_file("facts.js", script)}
    for entry in files("trio_bridge.web").joinpath("static").iterdir():
        if _suffix(entry.name) in MEDIA_TYPES:
            found[entry.name] = _page_file(entry.name, entry.read_bytes())
    return found


def _page_file(name: str, content: bytes) -> PageFile:
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    return PageFile(content, MEDIA_TYPES[_suffix(name)], etag)


def _suffix(name: str) -> str:
    return "." + name.rpartition(".")[2]
