"""Whatever lies in the spool's files: every line is replayed or quarantined, once and in order."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rows import record
from trio_bridge.stores.record import Record, Rejected, decode_line, encode_line
from trio_bridge.stores.spool import spool as spool_module
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.files import spool_files
from trio_bridge.stores.spool.look import look_at_spool
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.long

PATH = Path("/state/buffer.jsonl")
FILES = spool_files(PATH)
CHUNK_BYTES = 1_000
"""In place of a megabyte, so that too long a line is short enough to be made up."""

GOOD = [encode_line(record(number))[:-1] for number in range(5)]
EARLIER = [
    b'{"table": "portfolio_greeks", "row": {"timestamp": "2026-01-02T03:04:05Z", "delta": 1.5}}',
    b'{"table": "api_logs", "row": {"timestamp": "x", "message": "\xc3\xa9\\ud800"}}',
    b'{"table": "nobody", "row": {"timestamp": "x"}}',
    b'{"table": 1, "row": {"timestamp": ""}}',
    encode_line(Record("elsewhere", b"{}"))[:-1],
    b"[" * 300,
    b'{"table":"api_logs","row":' + b'{"a":' * 140 + b"1" + b"}" * 140 + b"}",
]
NOISE = st.binary(max_size=60).map(lambda noise: noise.replace(b"\n", b" "))
LINES = st.one_of(
    st.sampled_from(GOOD),
    st.sampled_from(GOOD),
    st.sampled_from(EARLIER),
    st.just(b""),
    NOISE,
    st.builds(lambda line, end: line[:end], st.sampled_from(GOOD + EARLIER), st.integers(0, 300)),
    st.builds(
        lambda line, place, noise: line[:place] + noise + line[place + 1 :],
        st.sampled_from(GOOD + EARLIER),
        st.integers(0, 300),
        NOISE,
    ),
    st.integers(CHUNK_BYTES - 5, 3 * CHUNK_BYTES).map(lambda length: b"x" * length),
    st.integers(CHUNK_BYTES - 5, CHUNK_BYTES + 5).map(lambda length: GOOD[0].ljust(length)),
)
CURSORS = st.one_of(
    st.none(),
    st.binary(max_size=80),
    st.builds(
        lambda offset, inode, digest: orjson.dumps(
            {"offset": offset, "inode": inode, "digest": digest}
        ),
        st.integers(-1, 2_000) | st.floats(allow_nan=False) | st.none() | st.booleans(),
        st.integers(0, 9),
        st.text(max_size=3),
    ),
)


@given(data=st.data(), lines=st.lists(LINES, max_size=12), ends=st.booleans(), cursor=CURSORS)
def nothing_is_lost(
    data: st.DataObject, lines: list[bytes], ends: bool, cursor: bytes | None
) -> None:
    content = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    disk = FakeDisk()
    disk.put_directory(PATH.parent)
    disk.put(PATH, content)
    disk.put(FILES.lock, b"")  # it was a spool before, whatever is in it now
    if cursor is not None:
        disk.put(FILES.cursor, cursor)
    seen: list[bytes] = []
    trio.run(_replay, disk, data, seen)
    expected = [line for line in content.split(b"\n") if line]
    for extra in [line for line in seen if line not in expected]:
        # What the run itself appended.
        assert decode_line(extra, offset=0).table == "api_logs"
    assert [line for line in seen if line in expected] == expected


async def _replay(disk: FakeDisk, data: st.DataObject, seen: list[bytes]) -> None:
    """Read, acknowledge (parts), reject, append, stop and start again, until it is empty."""
    spool = await Spool.open(PATH, disk=disk)
    quarantined = 0
    appended = 0
    while spool.backlog_bytes:
        what = data.draw(st.sampled_from(["all", "all", "part", "reject", "append", "restart"]))
        if what == "append" and appended < 3:
            appended += 1
            marker = orjson.dumps({"timestamp": "now", "message": str(appended)})
            await spool.append([Record("api_logs", marker)])
            continue
        if what == "restart":
            spool.close()
            spool = await Spool.open(PATH, disk=disk)
            continue
        chunk = await spool.read(data.draw(st.integers(1, 6)))
        assert chunk or not spool.backlog_bytes
        count = len(chunk.lines)
        if what == "part":
            count = data.draw(st.integers(0, count))
        rejected: list[Rejected] = []
        if what == "reject" and count:
            number = data.draw(st.integers(0, count - 1))
            rejected = [Rejected(number, "22P05", "no such thing")]
        for line in chunk.lines:
            row = orjson.loads(line.record.row)
            assert isinstance(row, dict)
        end = chunk.lines[count - 1].end if count else chunk.start
        if count == len(chunk.lines):
            end = chunk.end
        await spool.acknowledge(chunk, count, rejected)
        assert not spool.unsettled
        entries = orjson.loads(
            b"[" + b",".join((disk.content(FILES.quarantine) or b"").splitlines()) + b"]"
        )
        new, quarantined = entries[quarantined:], len(entries)
        replayed = [
            (line.start, line.raw)
            for number, line in enumerate(chunk.lines[:count])
            if number not in [one for one, _, _ in rejected]
        ]
        put_aside = _whole(new)
        assert all(start < end for start, _ in put_aside)
        seen += [raw for _, raw in sorted([*replayed, *put_aside])]
    spool.close()
    assert disk.content(PATH) == b""


def _whole(entries: list[dict[str, Any]]) -> list[tuple[int, bytes]]:
    """Quarantined lines and their places; the parts of a long one put together."""
    found: list[tuple[int, bytes]] = []
    for entry in entries:
        raw = entry["line"].encode() if "line" in entry else base64.b64decode(entry["line_base64"])
        if entry.get("part", 1) > 1:
            start, before = found.pop()
            raw, entry["offset"] = before + raw, start
        found.append((entry["offset"], raw))
    return found


@given(content=st.lists(LINES, max_size=12).map(b"\n".join), cursor=CURSORS)
def anyone_may_look(content: bytes, cursor: bytes | None) -> None:
    path = Path("buffer.jsonl").absolute()
    path.write_bytes(content)
    spool_files(path).lock.touch()  # it was a spool before, whatever is in it now
    if cursor is not None:
        spool_files(path).cursor.write_bytes(cursor)
    look = look_at_spool(path)
    assert 0 <= look.backlog_bytes <= len(content)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "CHUNK_BYTES", CHUNK_BYTES)


def test_nothing_is_lost(fuzz: Callable[[Any], None]) -> None:
    fuzz(nothing_is_lost)


def test_the_look_from_outside(
    fuzz: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fuzz(anyone_may_look)
