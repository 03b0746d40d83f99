"""Which files belong to a spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class SpoolFiles(NamedTuple):
    """Beside the rows themselves, at the path that BRIDGE_BUFFER_PATH names."""

    cursor: Path
    quarantine: Path
    lock: Path


def spool_files(path: Path) -> SpoolFiles:
    """All lie in the buffer's directory and move with it, but the lock, which lies where the rows
    really are: a file has one, whatever link leads to it."""
    real = path.resolve()
    return SpoolFiles(
        path.with_name(path.name + ".cursor"),
        path.with_name(path.name + ".quarantine.jsonl"),
        real.with_name(real.name + ".lock"),
    )
