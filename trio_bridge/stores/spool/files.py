"""Which files belong to a spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class SpoolFiles(NamedTuple):
    """The rows themselves are in `buffer`, the path that BRIDGE_BUFFER_PATH names."""

    buffer: Path
    cursor: Path
    quarantine: Path
    lock: Path


def spool_files(path: Path) -> SpoolFiles:
    """All four lie in one directory and move together.

    The lock alone lies where the rows really are: a file has one, by whatever link it is reached.
    """
    real = path.resolve()
    return SpoolFiles(
        path,
        path.with_name(path.name + ".cursor"),
        path.with_name(path.name + ".quarantine.jsonl"),
        real.with_name(real.name + ".lock"),
    )
