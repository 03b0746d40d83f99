"""Is there a place where rows are safe while the database is down?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.commands.checks.finding import Finding, failed, ok, warning
from trio_bridge.stores.spool.look import look_at_spool
from trio_bridge.stores.spool.ownership import in_words, remedy_for
from trio_bridge.text import count, size, waiting

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.stores.spool.look import SpoolLook

ROOM_WANTED = 200 * 1024 * 1024
"""About a month of rows."""


def check_spool(path: Path) -> tuple[Finding, SpoolLook | None]:
    """Blocking. The look is None when the spool can't be used."""
    try:
        look = look_at_spool(path)
    except OSError as error:
        text = f"BRIDGE_BUFFER_PATH={in_words(path, error)}"
        return failed("spool", text, remedy_for(error)), None
    return _judge(look), look


def _judge(look: SpoolLook) -> Finding:
    held = f", held by {look.holder}" if look.holder else ""
    if look.free_bytes < ROOM_WANTED:
        return warning(
            "spool",
            f"{look.path}: only {size(look.free_bytes)} are free on its disk",
            "rows need about 6 MB a day while the database is down: make room, or name another "
            "place in BRIDGE_BUFFER_PATH",
        )
    if look.quarantined:
        return warning(
            "spool",
            f"{count(look.quarantined, 'line')} could not be stored: {look.quarantine_path}",
            'each says why in "reason"; move the file away when you have dealt with them',
        )
    if look.backlog_bytes:
        remedy = (
            "replayed by the service when the database takes rows"
            if look.holder
            else "replayed when the service starts, or now by `trio-bridge flush`"
        )
        rows = waiting(look.backlog_rows, "row")
        return warning(
            "spool",
            f"{look.path}: {rows} for the database ({size(look.backlog_bytes)})",
            remedy,
        )
    return ok("spool", f"{look.path}: empty{held}, {size(look.free_bytes)} free")
