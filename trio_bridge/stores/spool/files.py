"""The names of the files that belong to a spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class SpoolFiles(NamedTuple):
    """Beside the rows themselves, at the path that BRIDGE_BUFFER_PATH names."""

    cursor: Path
    quarantine: Path
    lock: Path
    sent: Path


def spool_files(path: Path) -> SpoolFiles:
    """They lie beside the buffer."""
    return SpoolFiles(
        path.with_name(path.name + ".cursor"),
        path.with_name(path.name + ".quarantine.jsonl"),
        path.with_name(path.name + ".lock"),
        path.with_name(path.name + ".sent"),
    )
