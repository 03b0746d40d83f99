"""A row on its way: the one encoding that the database, the spool and the replay share.

A record is encoded once, when it is made; from then on its bytes are what is written to the spool
and what PostgreSQL reads (`json_to_recordset`), so that nothing can change in between.

A line of the spool is `{"table":"…","row":{…},"crc":"…"}`: the CRC-32, eight hex digits, covers
all bytes of the line before `,"crc"`. Lines of an earlier system have neither `crc` nor `event_id`;
they get an id from their content and place, so that replaying them twice inserts them once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, assert_never
from uuid import UUID
from zlib import crc32

import orjson

from trio_bridge.model import AccountSet, ApiEvent, Item, Snapshot
from trio_bridge.rows import ACCOUNT_SETS, API_LOGS, PORTFOLIO_GREEKS, TABLES, Table, values_of

_SEAL = b',"crc":"%08x"}'
_SEAL_BYTES = len(_SEAL % 0)
_ANY_SEAL = re.compile(rb',"crc":"[0-9a-f]{8}"}')
_ROW = b',"row":'
_HEADS = {name: b'{"table":"%b"%b' % (name.encode(), _ROW) for name in TABLES}
"""How our own lines begin: recognized without parsing, because a replay has a million of them."""


_BEGINNINGS = (b'{"table":"', b'{"table": "')
"""Of our lines and of the earlier system's: a torn or damaged line mostly still has it."""


@dataclass(frozen=True, slots=True)
class Record:
    """`row` is one JSON object: column → value."""

    table: str
    row: bytes


def _encode(row: dict[str, Any]) -> bytes:
    # A copy: what orjson returns keeps all of its 4 KB buffer, and thousands of rows may wait.
    return bytes(memoryview(orjson.dumps(row)))


class Rejected(NamedTuple):
    """The database will never take the row of this number in the list."""

    number: int
    sqlstate: str
    reason: str


class DamagedLineError(ValueError):
    """A spool line that cannot be trusted; the text says what is wrong with it."""


def record_of(item: Item) -> Record:
    """Encode a row for its table. Times keep microseconds and their UTC offset."""
    table = table_of(item)
    return Record(table.name, _encode(values_of(item, table.columns)))


def time_of(record: Record) -> datetime | None:
    """A row's timestamp; None if only the database can read it (a line of the earlier system)."""
    try:
        time = datetime.fromisoformat(orjson.loads(record.row)["timestamp"])
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def table_of(item: Item) -> Table:
    match item:
        case Snapshot():
            return PORTFOLIO_GREEKS
        case ApiEvent():
            return API_LOGS
        case AccountSet():
            return ACCOUNT_SETS
        case _:
            assert_never(item)


def encode_line(record: Record) -> bytes:
    """The record as a spool line, newline included."""
    body = b'{"table":' + orjson.dumps(record.table) + _ROW + record.row
    return body + _SEAL % crc32(body) + b"\n"


def decode_line(line: bytes, *, offset: int) -> Record:
    """Read a spool line without its newline; `offset` is its place in the file.

    Raises:
        DamagedLineError: the CRC is wrong, or it is neither our line nor one of the earlier system.
    """
    line = line.removesuffix(b"\r")  # an editor or a copy has made the line ends Windows'
    body, seal = line[:-_SEAL_BYTES], line[-_SEAL_BYTES:]
    if seal == _SEAL % crc32(body):
        for table, head in _HEADS.items():
            if body.startswith(head):
                return Record(table, body[len(head) :])
        name, _, row = body.removeprefix(b'{"table":').partition(_ROW)
        try:
            return Record(_text(orjson.loads(name)), row)
        except orjson.JSONDecodeError as error:
            raise DamagedLineError(f"not a record: {error}") from None
    if _ANY_SEAL.fullmatch(seal):
        raise DamagedLineError("checksum does not match")
    return _earlier_system(line, offset)


def looks_like_ours(line: bytes) -> bool:
    """Whether a line, damaged or not, comes from us or the earlier system, however unlikely."""
    if line.startswith(_BEGINNINGS):
        return True
    try:
        return b'"table"' in line and bool(decode_line(line, offset=0))
    except DamagedLineError:
        return False


def _earlier_system(line: bytes, offset: int) -> Record:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DamagedLineError(f"not JSON: {error}") from None
    if not isinstance(value, dict) or value.keys() != {"table", "row"}:
        raise DamagedLineError('not an object of "table" and "row"')
    row = value["row"]
    if not isinstance(row, dict):
        raise DamagedLineError('"row" is not an object')
    if "event_id" in row:
        raise DamagedLineError("checksum is missing")
    if not isinstance(row.get("timestamp"), str):
        # Without its time a row is not true: the time is not made up.
        raise DamagedLineError("the row has no timestamp")
    digest = sha256(b"%d:" % offset + line).digest()
    event_id = UUID(bytes=digest[:16], version=5)
    try:
        return Record(_text(value["table"]), _encode({**row, "event_id": event_id}))
    except orjson.JSONEncodeError as error:  # nested more deeply than it can be written again
        raise DamagedLineError(f"not a row: {error}") from None


def _text(table: object) -> str:
    if not isinstance(table, str):
        raise DamagedLineError('"table" is not a text')
    return table
