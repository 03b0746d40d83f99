"""The spool on real files: what is kept, what is put aside, and who may have it."""

from __future__ import annotations

import base64
import errno
import os
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import psutil
import pytest
import trio
from structlog.testing import capture_logs

from tests.support.rows import event, number_of, record
from trio_bridge.errors import ConfigError, SpoolError, StartError
from trio_bridge.stores.record import Rejected, encode_line, record_of
from trio_bridge.stores.spool import spool as module
from trio_bridge.stores.spool.disk import RealDisk
from trio_bridge.stores.spool.fake_disk import FakeDisk, SimulatedCrash
from trio_bridge.stores.spool.look import look_at_spool
from trio_bridge.stores.spool.ownership import UnsafeFileError, in_words
from trio_bridge.stores.spool.spool import CHUNK_BYTES, Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_bridge.stores.record import Record

T = TypeVar("T")

FAKE = Path("/state/buffer.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.jsonl"


@pytest.fixture
async def spool(path: Path) -> AsyncIterator[Spool]:
    spool = await Spool.open(path)
    yield spool
    spool.close()


async def replay(spool: Spool, max_lines: int = 1_000) -> list[Record]:
    """Acknowledge everything; what was there."""
    records: list[Record] = []
    while spool.backlog_bytes:
        chunk = await spool.read(max_lines)
        records += [line.record for line in chunk.lines]
        await spool.acknowledge(chunk, len(chunk.lines))
    return records


def quarantined(path: Path) -> list[dict[str, Any]]:
    file = path.with_name(path.name + ".quarantine.jsonl")
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


async def test_rows_come_back_byte_for_byte_in_order(spool: Spool, path: Path) -> None:
    rows = [record(n) for n in range(2_500)]
    await spool.append(rows[:1])
    await spool.append(rows[1:])
    assert await replay(spool) == rows
    assert path.read_bytes() == b""
    assert not path.with_name(path.name + ".cursor").exists()


async def test_all_files_are_private(path: Path) -> None:
    deep = path.parent / "made" / "on the way" / "buffer.jsonl"
    spool = await Spool.open(deep)
    deep.write_bytes(b"damaged\n")
    await spool.append([record(1), record(2)])
    await spool.acknowledge(await spool.read(1), 0)
    await spool.acknowledge(await spool.read(1), 1)
    files = {file.name: file.stat().st_mode & 0o777 for file in deep.parent.iterdir()}
    assert set(files.values()) == {0o600}
    assert len(files) == 4
    assert deep.parent.stat().st_mode & 0o777 == 0o700
    assert deep.parent.parent.stat().st_mode & 0o777 == 0o700
    spool.close()


async def test_a_spool_that_others_could_read_is_made_private(path: Path) -> None:
    path.touch(mode=0o644)
    (await Spool.open(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_new_process_goes_on_behind_the_acknowledged_place(path: Path) -> None:
    first = await Spool.open(path)
    await first.append([record(n) for n in range(10)])
    chunk = await first.read()
    await first.acknowledge(chunk, 4)
    first.close()
    second = await Spool.open(path)
    assert [number_of(row) for row in await replay(second)] == [4, 5, 6, 7, 8, 9]
    second.close()


async def test_a_chunk_can_be_acknowledged_in_part_and_not_at_all(spool: Spool) -> None:
    await spool.append([record(n) for n in range(6)])
    chunk = await spool.read()
    await spool.acknowledge(chunk, 0)
    assert (await spool.read()).start == 0
    await spool.acknowledge(await spool.read(), 2)
    assert [number_of(line.record) for line in (await spool.read()).lines] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "cursor",
    [
        b"",
        b"{",
        b"[]",
        b'{"offset":5}',
        b'{"offset":"5"}',
        b'{"offset":-1}',
        b'{"offset":999999999}',
        b"\x00" * 100,
    ],
)
async def test_a_damaged_cursor_means_from_the_beginning(path: Path, cursor: bytes) -> None:
    path.write_bytes(encode_line(record(1)))
    path.with_name(path.name + ".cursor").write_bytes(cursor)
    spool = await Spool.open(path)
    assert [number_of(row) for row in await replay(spool)] == [1]
    spool.close()


async def test_a_cursor_of_another_content_means_from_the_beginning(path: Path) -> None:
    spool = await Spool.open(path)
    await spool.append([record(n) for n in range(4)])
    await spool.acknowledge(await spool.read(2), 2)
    spool.close()
    path.write_bytes(b"".join(encode_line(record(n)) for n in range(10, 14)))
    spool = await Spool.open(path)
    assert [number_of(row) for row in await replay(spool)] == [10, 11, 12, 13]
    spool.close()


# Damage


async def test_a_torn_last_line_is_quarantined_and_the_next_row_starts_afresh(path: Path) -> None:
    torn = encode_line(record(2))[:100]
    path.write_bytes(encode_line(record(1)) + torn)
    spool = await Spool.open(path)
    await spool.append([record(3)])
    assert [number_of(row) for row in await replay(spool)] == [1, 3]
    (entry,) = quarantined(path)
    assert entry["line"] == torn.decode()
    assert entry["offset"] == len(encode_line(record(1)))
    assert entry["sqlstate"] is None
    assert entry["reason"]
    assert entry["quarantined_at"]
    spool.close()


async def test_a_last_line_that_lacks_only_its_newline_is_whole(path: Path) -> None:
    path.write_bytes(encode_line(record(1)) + encode_line(record(2))[:-1])
    spool = await Spool.open(path)
    chunk = await spool.read(1)
    await spool.acknowledge(chunk, 1)
    chunk = await spool.read(1)
    assert [number_of(line.record) for line in chunk.lines] == [2]
    await spool.append([record(3)])
    await spool.acknowledge(chunk, 1)
    assert [number_of(row) for row in await replay(spool)] == [3]
    assert not spool.quarantine_path.exists()
    spool.close()


async def test_any_flipped_byte_is_noticed_and_costs_only_its_line(path: Path) -> None:
    lines = [encode_line(record(n)) for n in range(3)]
    for place in range(0, len(lines[1]) - 1, 7):
        damaged = bytearray(lines[1])
        damaged[place] ^= 0x04
        path.write_bytes(lines[0] + damaged + lines[2])
        spool = await Spool.open(path)
        assert [number_of(row) for row in await replay(spool)] == [0, 2]
        assert quarantined(path)[-1]["line"].encode() + b"\n" == damaged
        spool.close()


async def test_bytes_that_are_no_text_are_quarantined_whole(path: Path) -> None:
    raw = bytes(range(256)).replace(b"\n", b"")
    path.write_bytes(raw + b"\n\n" + b"\x00" * 500 + b"\n" + encode_line(record(1)))
    spool = await Spool.open(path)
    assert [number_of(row) for row in await replay(spool)] == [1]
    first, second = quarantined(path)
    assert base64.b64decode(first["line_base64"]) == raw
    assert second["line"] == "\x00" * 500
    spool.close()


async def test_a_line_of_50_mb_is_quarantined_in_parts_within_little_memory(path: Path) -> None:
    size = 50_000_000
    with path.open("wb") as file:
        file.write(encode_line(record(1)))
        for _ in range(50):
            file.write(b"x" * (size // 50))
        file.write(b"\n" + encode_line(record(2)))
    spool = await Spool.open(path)
    process = psutil.Process()
    before = process.memory_info().rss
    assert [number_of(row) for row in await replay(spool)] == [1, 2]
    assert process.memory_info().rss - before < 20_000_000
    parts = quarantined(path)
    assert sum(len(part["line"]) for part in parts) == size
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    spool.close()


async def test_a_last_line_that_is_long_and_torn_ends_too(path: Path) -> None:
    path.with_name(path.name + ".lock").touch()  # it was a spool before
    path.write_bytes(b"x" * (3 * CHUNK_BYTES))
    spool = await Spool.open(path)
    await spool.append([record(1)])
    assert [number_of(row) for row in await replay(spool)] == [1]
    spool.close()


async def test_an_unknown_table_is_quarantined(path: Path) -> None:
    path.write_bytes(
        b'{"table":"pg_authid","row":{"timestamp":"2026-01-02T00:00:00Z"}}\n'
        + encode_line(record(1))
    )
    spool = await Spool.open(path)
    assert [number_of(row) for row in await replay(spool)] == [1]
    assert quarantined(path)[0]["reason"] == "unknown table"
    spool.close()


async def test_lines_of_the_earlier_system_get_the_same_id_each_time(path: Path) -> None:
    line = b'{"table": "portfolio_greeks", "row": {"timestamp": "2026-01-02T00:00:00Z"}}\n'
    path.write_bytes(line * 2)
    ids = []
    for _ in range(2):
        spool = await Spool.open(path)
        chunk = await spool.read()
        ids.append([orjson.loads(entry.record.row)["event_id"] for entry in chunk.lines])
        spool.close()
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


async def test_a_rejected_line_is_quarantined_with_its_sqlstate(spool: Spool, path: Path) -> None:
    await spool.append([record(1), record(2)])
    chunk = await spool.read()
    await spool.acknowledge(chunk, 2, [Rejected(1, "22003", "out of range")])
    (entry,) = quarantined(path)
    assert entry["sqlstate"] == "22003"
    assert entry["line"].encode() + b"\n" == encode_line(record(2))


async def test_how_many_lines_went_to_the_quarantine_is_told(path: Path) -> None:
    """The damaged and the rejected ones; not those behind the acknowledged place."""
    lines = [encode_line(record(n)) for n in range(4)]
    path.write_bytes(lines[0] + b"damaged\n" + lines[1] + lines[2] + b"damaged\n" + lines[3])
    spool = await Spool.open(path)
    poison = [Rejected(1, "22003", "poison"), Rejected(2, "22003", "poison")]
    assert await spool.acknowledge(await spool.read(), 3, poison) == 3
    assert await spool.acknowledge(await spool.read(), 1) == 1
    assert len(quarantined(path)) == 4
    assert not spool.backlog_bytes
    spool.close()


# Others who touch the file


async def test_a_second_process_is_told_in_one_line_and_the_first_is_unharmed(path: Path) -> None:
    first = await Spool.open(path)
    await first.append([record(1)])
    program = textwrap.dedent("""
        import sys, trio
        from pathlib import Path
        from trio_bridge.errors import ConfigError
        from trio_bridge.stores.spool.spool import Spool
        try:
            trio.run(Spool.open, Path(sys.argv[1]))
        except ConfigError as error:
            print(error)
    """)
    second = await trio.run_process([sys.executable, "-c", program, str(path)], capture_stdout=True)
    (line,) = second.stdout.decode().splitlines()
    assert line.startswith(f"BRIDGE_BUFFER_PATH={path}: another process")
    await first.append([record(2)])
    assert [number_of(row) for row in await replay(first)] == [1, 2]
    first.close()
    (await Spool.open(path)).close()


async def test_a_second_name_of_the_directory_makes_no_second_spool(path: Path) -> None:
    link = path.parent / "elsewhere"
    link.symlink_to(path.parent)
    for one, other in ((path, link / path.name), (link / path.name, path)):
        first = await Spool.open(one)
        with pytest.raises(ConfigError, match="another process"):
            await Spool.open(other)
        first.close()


async def test_the_lock_ends_with_its_process(path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys, trio
        from pathlib import Path
        from trio_bridge.stores.spool.spool import Spool
        spool = trio.run(Spool.open, Path(sys.argv[1]))
        print("open", flush=True)
        sys.stdin.read()
    """)
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"open\n"
    with pytest.raises(ConfigError):
        await Spool.open(path)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    (await Spool.open(path)).close()


async def test_a_removed_file_is_noticed_before_the_next_row(spool: Spool, path: Path) -> None:
    await spool.append([record(1)])
    path.unlink()
    await spool.append([record(2)])
    assert path.read_bytes() == encode_line(record(2))
    assert [number_of(row) for row in await replay(spool)] == [2]


async def test_a_shortened_file_is_noticed(spool: Spool, path: Path) -> None:
    await spool.append([record(n) for n in range(5)])
    await spool.acknowledge(await spool.read(2), 2)
    os.truncate(path, 0)
    await spool.append([record(n) for n in range(5, 8)])
    assert [number_of(row) for row in await replay(spool)] == [5, 6, 7]


async def test_a_chunk_of_a_file_that_was_replaced_acknowledges_nothing(
    spool: Spool, path: Path
) -> None:
    await spool.append([record(1)])
    chunk = await spool.read()
    path.unlink()
    await spool.append([record(2)])
    assert await spool.acknowledge(chunk, 1) == 0
    assert [number_of(row) for row in await replay(spool)] == [2]


async def test_a_replaced_file_begins_anew_once(spool: Spool, path: Path) -> None:
    await spool.append([record(1)])
    path.unlink()
    await spool.append([record(n) for n in range(10, 14)])
    await spool.acknowledge(await spool.read(2), 2)
    await spool.append([record(14)])
    assert [number_of(row) for row in await replay(spool)] == [12, 13, 14]


async def test_rows_of_a_shorter_file_in_its_place_are_held_at_once(
    spool: Spool, path: Path
) -> None:
    await spool.append([record(n) for n in range(3)])
    chunk = await spool.read(2)
    path.unlink()
    path.write_bytes(encode_line(record(7)))
    await spool.acknowledge(chunk, 2)
    assert spool.backlog_bytes
    assert [number_of(row) for row in await replay(spool)] == [7]


async def test_reading_ahead_of_a_file_that_was_replaced_begins_anew(
    spool: Spool, path: Path
) -> None:
    await spool.append([record(n) for n in range(5)])
    chunk = await spool.read(2)
    ahead = await spool.read(2, after=chunk)
    assert [number_of(line.record) for line in ahead.lines] == [2, 3]
    path.unlink()
    await spool.append([record(n) for n in range(10, 15)])
    ahead = await spool.read(2, after=chunk)
    assert [number_of(line.record) for line in ahead.lines] == [10, 11]


def lines(*numbers: int) -> bytes:
    return b"".join(encode_line(record(number)) for number in numbers)


async def test_lines_added_while_the_last_ones_are_committed_are_not_cut_off_with_them(
    spool: Spool, path: Path
) -> None:
    await spool.append([record(1), record(2)])
    chunk = await spool.read()
    with path.open("ab") as file:
        file.write(lines(7, 8))
    await spool.acknowledge(chunk, 2)
    assert [number_of(row) for row in await replay(spool)] == [7, 8]


async def test_lines_added_while_the_quarantine_is_written_are_not_cut_off(path: Path) -> None:
    class SharedDisk(RealDisk):
        added = False

        def fsync(self, fd: int) -> None:
            super().fsync(fd)
            if not self.added and path.with_name(path.name + ".quarantine.jsonl").exists():
                self.added = True
                with path.open("ab") as file:
                    file.write(lines(7, 8))

    spool = await Spool.open(path, disk=SharedDisk())
    await spool.append([record(1)])
    await spool.acknowledge(await spool.read(), 1, [Rejected(0, "22003", "poison")])
    assert [number_of(row) for row in await replay(spool)] == [7, 8]
    assert path.read_bytes() == b""
    spool.close()


async def test_a_file_put_in_place_while_its_last_lines_are_committed_is_kept(
    spool: Spool, path: Path
) -> None:
    await spool.append([record(1), record(2)])
    chunk = await spool.read()
    other = path.with_name("other")
    other.write_bytes(lines(7, 8))  # of the same size
    other.rename(path)
    await spool.acknowledge(chunk, 2)
    assert [number_of(row) for row in await replay(spool)] == [7, 8]


async def test_no_cursor_is_written_for_a_file_put_in_place_of_the_one_it_is_about(
    path: Path,
) -> None:
    spool = await Spool.open(path)
    await spool.append([record(number) for number in range(4)])
    chunk = await spool.read(2)
    other = path.with_name("other")
    other.write_bytes(lines(6, 7, 8, 9))
    other.rename(path)
    await spool.acknowledge(chunk, 2)
    spool.close()
    again = await Spool.open(path)
    assert [number_of(row) for row in await replay(again)] == [6, 7, 8, 9]
    again.close()


async def test_lines_added_by_hand_are_replayed_too(spool: Spool, path: Path) -> None:
    await spool.append([record(1)])
    with path.open("ab") as file:
        file.write(encode_line(record(2))[:-1])
    await spool.append([record(3)])
    assert [number_of(row) for row in await replay(spool)] == [1, 2, 3]


# A file that can't be used


async def test_a_directory_in_its_place_is_one_clear_line(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match=rf"BRIDGE_BUFFER_PATH={path}: Is a directory"):
        await Spool.open(path)


OURS = ["", ".cursor", ".quarantine.jsonl", ".lock"]
STRANGER = 65534


async def refusal(path: Path) -> str:
    """Why the spool is refused; `check` and `status`, which look at it, give the same reason."""
    with pytest.raises(UnsafeFileError) as seen:
        look_at_spool(path)
    with pytest.raises(ConfigError) as refused:
        await Spool.open(path)
    assert not isinstance(refused.value, StartError)
    assert refused.value.setting == "BRIDGE_BUFFER_PATH"
    assert refused.value.remedy
    assert str(refused.value).startswith(f"BRIDGE_BUFFER_PATH={in_words(path, seen.value)}: ")
    assert "\n" not in str(refused.value)
    return refused.value.text


@pytest.mark.parametrize("suffix", OURS)
async def test_a_link_in_the_place_of_one_of_its_files_is_refused(path: Path, suffix: str) -> None:
    victim = path.with_name("precious")
    victim.write_bytes(encode_line(record(1)))
    victim.chmod(0o644)
    link = path.with_name(path.name + suffix)
    link.symlink_to(victim)
    assert f"{link}: is a link" in await refusal(path)
    assert victim.read_bytes() == encode_line(record(1))
    assert victim.stat().st_mode & 0o777 == 0o644


async def test_a_link_to_nowhere_is_refused_too(path: Path) -> None:
    path.symlink_to(path.with_name("planted"))
    assert f"{path}: is a link" in await refusal(path)
    assert not path.with_name("planted").exists()


async def test_a_link_put_in_its_place_later_gets_no_row(spool: Spool, path: Path) -> None:
    victim = path.with_name("precious")
    victim.write_bytes(b"a letter\n")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(SpoolError, match="is a link"):
        await spool.append([record(1)])
    assert victim.read_bytes() == b"a letter\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("suffix", OURS)
async def test_a_file_of_somebody_else_is_refused(path: Path, suffix: str) -> None:
    planted = path.with_name(path.name + suffix)
    planted.write_bytes(encode_line(record(1)))
    os.chown(planted, STRANGER, STRANGER)
    assert f"{planted}: belongs to " in await refusal(path)
    assert planted.read_bytes() == encode_line(record(1))


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
async def test_a_directory_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    assert f"{path.parent}: others may write into this directory" in await refusal(path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
async def test_a_directory_of_another_group_or_user_is_refused(path: Path) -> None:
    path.parent.chmod(0o770)
    os.chown(path.parent, 0, STRANGER)
    assert f"{path.parent}: others may write into this directory" in await refusal(path)
    path.parent.chmod(0o700)
    os.chown(path.parent, STRANGER, 0)
    assert f"{path.parent}: belongs to " in await refusal(path)


async def test_the_remedy_for_a_shared_directory_works(path: Path) -> None:
    path.parent.chmod(0o1777)
    (await Spool.open(path.parent / "trio-bridge" / "buffer.jsonl")).close()


@pytest.mark.parametrize(
    "content",
    [b"a letter\nof two lines\n", b'{"a": 1}', bytes(range(256)) * 5_000, b"\n", b"x" * 3_000_000],
    ids=["text", "JSON", "photo", "blank", "one long line"],
)
async def test_a_file_that_never_was_a_spool_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)
    assert f"{path}: holds something else than rows" in await refusal(path)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o644
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        encode_line(record(1))[:20],  # torn by a crash
        b"damaged\n" * 300_000 + encode_line(record(1)),
        b'{"table": "portfolio_greeks", "row": {"timestamp": "2026-01-01T00:00:00Z"}}\r\n',
        b'{"row": {"timestamp": "2026-01-01T00:00:00Z"}, "table": "portfolio_greeks"}',
    ],
    ids=["torn", "damaged", "earlier", "earlier, other order"],
)
async def test_one_line_that_may_be_a_row_makes_a_spool(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    look_at_spool(path)
    (await Spool.open(path)).close()


async def test_what_was_a_spool_once_is_one_whatever_a_power_cut_left(path: Path) -> None:
    (await Spool.open(path)).close()
    path.write_bytes(bytes(4096))
    spool = await Spool.open(path)
    assert await replay(spool) == []
    assert len(quarantined(path)) == 1
    spool.close()


async def test_line_ends_of_windows_are_as_good(path: Path) -> None:
    earlier = b'{"table": "api_logs", "row": {"timestamp": "2026-01-01T00:00:00Z"}}\n'
    path.write_bytes(earlier + b"".join(encode_line(record(number)) for number in range(3)))
    spool = await Spool.open(path)
    as_written = await replay(spool)
    spool.close()
    path.write_bytes(
        (earlier + b"".join(encode_line(record(number)) for number in range(3))).replace(
            b"\n", b"\r\n"
        )
    )
    spool = await Spool.open(path)
    assert await replay(spool) == as_written
    assert not spool.quarantine_path.exists()
    spool.close()


async def test_a_directory_in_the_cursors_place_is_called_by_its_name(path: Path) -> None:
    cursor = path.with_name(path.name + ".cursor")
    cursor.mkdir()
    with pytest.raises(ConfigError, match=rf"BRIDGE_BUFFER_PATH={path}: {cursor}: Is a directory"):
        await Spool.open(path)


@pytest.mark.parametrize("how", ["removed", "moved", "cut", "cut in part"])
async def test_what_another_program_takes_away_is_counted(path: Path, how: str) -> None:
    spool = await Spool.open(path)
    sizes = [len(encode_line(record(number))) for number in range(10)]
    await spool.append([record(number) for number in range(10)])
    chunk = await spool.read(3)
    await spool.acknowledge(chunk, 3)
    match how:
        case "removed":
            path.unlink()
        case "moved":
            path.rename(path.with_name("rotated.jsonl.1"))
        case "cut":
            os.truncate(path, 0)
        case "cut in part":
            os.truncate(path, sum(sizes[:5]))
    await spool.append([record(10)])
    kept = 5 if how == "cut in part" else 3
    assert spool.vanished == sum(sizes[kept:])
    spool.close()


async def test_nothing_is_missed_of_an_empty_spool(spool: Spool, path: Path) -> None:
    await spool.append([record(1)])
    await replay(spool)
    path.unlink()
    await spool.append([record(2)])
    assert spool.vanished == 0


async def test_a_device_in_its_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        await Spool.open(Path("/dev/null"))


async def test_a_parent_that_is_a_file_is_one_clear_line(path: Path) -> None:
    path.write_text("not a directory")
    with pytest.raises(ConfigError, match="BRIDGE_BUFFER_PATH="):
        await Spool.open(path / "buffer.jsonl")


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
async def test_no_permission_is_one_clear_line(error: int) -> None:
    disk = FakeDisk()
    disk.put(FAKE, b"")
    disk.failing["open"] = error
    with pytest.raises(ConfigError, match=f"BRIDGE_BUFFER_PATH={FAKE}: {os.strerror(error)}"):
        await Spool.open(FAKE, disk=disk)


async def test_an_empty_file_is_an_empty_spool(path: Path) -> None:
    path.touch()
    spool = await Spool.open(path)
    assert not spool.backlog_bytes
    assert not spool.unsettled
    spool.close()


# A disk that fails


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


async def test_a_full_disk_refuses_rows_and_takes_them_when_there_is_room(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(1)])
    disk.capacity = 500
    with pytest.raises(SpoolError, match="No space left on device"):
        await spool.append([record(2)])
    disk.capacity = None
    await spool.append([record(2)])
    assert [number_of(row) for row in await replay(spool)] == [1, 2]
    assert disk.content(spool.quarantine_path) is None


async def test_a_row_stands_apart_from_what_a_failure_left_that_could_not_be_cut_off(
    disk: FakeDisk,
) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    disk.failing = {"fsync": errno.EIO, "truncate": errno.EIO}
    with pytest.raises(SpoolError):
        await spool.append([record(1)])
    disk.failing = {}
    await spool.append([record(1), record(2)])
    disk.crash()  # zeros take the place of what the failed fsync lost, its newline too
    disk.restart()
    spool = await Spool.open(FAKE, disk=disk)
    assert [number_of(row) for row in await replay(spool)] == [1, 2]


async def test_replay_goes_on_although_cursor_and_quarantine_find_no_room(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(n) for n in range(6)])
    disk.capacity = 0
    await spool.acknowledge(await spool.read(2), 2, [Rejected(0, "22003", "poison")])
    chunk = await spool.read()
    assert [number_of(line.record) for line in chunk.lines] == [2, 3, 4, 5]
    await spool.acknowledge(chunk, 4)
    assert not spool.backlog_bytes
    disk.capacity = None
    await spool.append([record(6)])
    assert b"22003" in (disk.content(spool.quarantine_path) or b"")
    assert [number_of(row) for row in await replay(spool)] == [6]


async def test_what_waits_for_the_quarantine_is_bounded(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    disk.put(spool.quarantine_path, b"")
    large = record_of(event("x" * 500_000))
    disk.capacity = 0
    for _ in range(8):
        await spool.quarantine(large, sqlstate="22003", reason="poison")
    with pytest.raises(SpoolError, match="memory is full"):
        await spool.quarantine(large, sqlstate="22003", reason="poison")


async def test_a_disk_that_hangs_is_an_error_and_nothing_overtakes_the_hanging_rows(
    disk: FakeDisk, autojump_clock: trio.testing.MockClock
) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    disk.delay_s = 3600.0
    with pytest.raises(SpoolError, match="has not answered"):
        await spool.append([record(1)])
    disk.delay_s = 0.0
    await spool.append([record(1), record(2)])
    assert [number_of(row) for row in await replay(spool)] == [1, 1, 2]


async def test_settling_writes_cursor_and_quarantine_once_there_is_room(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(n) for n in range(4)])
    disk.capacity = 0
    await spool.acknowledge(await spool.read(2), 2, [Rejected(0, "22003", "poison")])
    unsettled = [spool.unsettled]
    await spool.settle()
    unsettled.append(spool.unsettled)
    disk.capacity = None
    await spool.settle()
    unsettled.append(spool.unsettled)
    assert unsettled == [True, True, False]
    assert b"22003" in disk.durable(spool.quarantine_path)
    disk.kill()
    disk.restart()
    again = await Spool.open(FAKE, disk=disk)
    assert [number_of(row) for row in await replay(again)] == [2, 3]


async def test_trouble_with_cursor_and_quarantine_is_told_once(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(n) for n in range(8)])
    disk.capacity = 0
    with capture_logs() as told:
        for _ in range(3):
            await spool.acknowledge(await spool.read(2), 2)
            assert len(told) == 1
    assert [entry["log_level"] for entry in told] == ["warning"]


async def test_a_row_costs_one_write_and_one_fsync(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(n) for n in range(4)])
    await spool.acknowledge(await spool.read(2), 2)
    disk.calls.clear()
    await spool.append([record(4)])
    assert disk.calls == ["pwrite", "fsync"]
    disk.put(FAKE, b"")  # someone else's, from now on
    await spool.append([record(5)])
    disk.calls.clear()
    await spool.append([record(6)])
    assert disk.calls == ["pwrite", "fsync"]


@pytest.mark.parametrize(
    ("time", "kept"), [("2026-01-02T14:30:00", False), ("2 January 2026", True)]
)
async def test_of_a_line_of_the_earlier_system_the_database_may_read_the_time(
    path: Path, time: str, kept: bool
) -> None:
    path.write_bytes(orjson.dumps({"table": "api_logs", "row": {"timestamp": time}}) + b"\n")
    spool = await Spool.open(path, keep=timedelta(days=1))
    await spool.acknowledge(await spool.read(), 1)
    spool.close()
    spool = await Spool.open(path, keep=timedelta(days=1))
    assert (spool.sent.newest is not None) == kept
    spool.close()


async def test_a_row_that_is_not_durable_yet_costs_one_write(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    calls = len(disk.calls)
    ends = await spool.append([record(0), record(1)], durably=False)
    assert disk.calls[calls:] == ["pwrite"]
    assert ends == [len(encode_line(record(0))), spool.end]
    assert disk.durable(FAKE) == b""
    assert await spool.sync() == spool.end
    assert disk.durable(FAKE) == disk.content(FAKE) != b""
    calls = len(disk.calls)
    await spool.sync()
    assert disk.calls[calls:] == []


async def test_what_a_failed_fsync_takes_along_is_told_and_may_be_appended_again(
    disk: FakeDisk,
) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(0)])
    generation = spool.generation
    await spool.append([record(1)], durably=False)
    chunk = await spool.read()
    disk.fail_next.append(("fsync", errno.EIO))
    with pytest.raises(SpoolError):
        await spool.sync()
    assert spool.generation != generation
    assert await spool.acknowledge(chunk, 2) == 0
    assert spool.acknowledged == 0, "the chunk is none of this file"
    await spool.append([record(1)])
    assert [line.record for line in (await spool.read()).lines] == [record(0), record(1)]
    assert disk.durable(FAKE) == encode_line(record(0)) + encode_line(record(1))


async def test_a_torn_line_of_before_stays_apart_after_a_failed_fsync(disk: FakeDisk) -> None:
    torn = encode_line(record(9))[:50]
    disk.put(FAKE, torn)
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(0)], durably=False)
    disk.fail_next.append(("fsync", errno.EIO))
    with pytest.raises(SpoolError):
        await spool.sync()
    await spool.append([record(0)])
    chunk = await spool.read()
    assert [line.record for line in chunk.lines] == [record(0)]
    assert [line.raw for line in chunk.unfit] == [torn]


async def test_what_is_acknowledged_is_cut_off_although_new_rows_keep_coming(
    disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 2_000)
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(0)], durably=False)
    largest = 0
    for n in range(1, 200):
        chunk = await spool.read()
        await spool.append([record(n)], durably=False)  # while the database takes the one before
        assert [line.record for line in chunk.lines] == [record(n - 1)]
        await spool.acknowledge(chunk, 1, durably=n % 7 == 0)
        largest = max(largest, len(disk.content(FAKE) or b""))
    assert 2_000 < largest < 6_000
    disk.kill()
    disk.restart()
    again = await Spool.open(FAKE, disk=disk)
    numbers = [number_of(line.record) for line in (await again.read()).lines]
    assert numbers[-1] == 199
    assert numbers == list(range(numbers[0], 200))


async def test_lines_of_the_earlier_system_are_not_moved(
    disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ids depend on their place."""
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 1_000)
    old = b'{"table": "api_logs", "row": {"timestamp": "2026-01-02T14:30:00Z", "message": "m"}}\n'
    disk.put(FAKE, old * 20)
    spool = await Spool.open(FAKE, disk=disk)
    ids = [line.record for line in (await spool.read()).lines]
    found = []
    while chunk := await spool.read(3):
        found += [line.record for line in chunk.lines]
        await spool.acknowledge(chunk, len(chunk.lines))
    assert found == ids


@pytest.mark.parametrize("call", range(8))
async def test_a_crash_while_it_is_cut_off_leaves_every_row_that_is_not_acknowledged(
    disk: FakeDisk, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 2_000)
    spool = await Spool.open(FAKE, disk=disk)
    await spool.append([record(n) for n in range(20)])
    chunk = await spool.read(17)
    disk.crash_at = len(disk.calls) + call
    with suppress(SimulatedCrash):
        await spool.acknowledge(chunk, 17)
    if not disk.crashed:
        disk.crash()
    disk.restart()
    again = await Spool.open(FAKE, disk=disk)
    left = [number_of(line.record) for line in (await again.read()).lines]
    assert left[-3:] == [17, 18, 19]
    assert left == list(range(left[0], 20))


async def test_of_what_waits_for_the_quarantine_what_memory_holds_outlives_the_file(
    disk: FakeDisk,
) -> None:
    disk.put(FAKE, encode_line(record(1)) + b"x" * (CHUNK_BYTES + 10) + b"\n")
    spool = await Spool.open(FAKE, disk=disk)
    disk.capacity = 0
    await spool.acknowledge(await spool.read(1), 1, [Rejected(0, "22003", "poison")])
    await spool.acknowledge(await spool.read(1), 0)  # too long for memory: it is read once more
    disk.put(FAKE, encode_line(record(2)) * 10_000)
    with capture_logs() as told:
        await spool.read(1)
    assert [entry["log_level"] for entry in told] == ["error"]
    disk.capacity = None
    await spool.settle()
    entries = (disk.content(spool.quarantine_path) or b"").splitlines()
    assert [orjson.loads(entry)["reason"] for entry in entries] == ["poison"]


def open_files(directory: Path) -> set[str]:
    """Which files there this process has open."""
    files = [Path(file.path) for file in psutil.Process().open_files()]
    return {file.name for file in files if file.parent == directory.resolve()}


class ReadOnlyDisk(RealDisk):
    """As a file system is after an error of its disk, while it is `broken`."""

    broken = False

    def _check(self) -> None:
        if self.broken:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open(self, path: Path, *, create: bool) -> int:
        self._check()
        return super().open(path, create=create)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self._check()
        return super().pwrite(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._check()
        super().truncate(fd, length)

    def unlink(self, path: Path) -> None:
        self._check()
        super().unlink(path)


async def test_a_disk_that_became_read_only_still_gives_the_rows_it_holds(path: Path) -> None:
    disk = ReadOnlyDisk()
    spool = await Spool.open(path, disk=disk)
    await spool.append([record(1), record(2)])
    disk.broken = True
    for _ in range(2):
        with pytest.raises(SpoolError, match=r"Read-only file system|Bad file descriptor"):
            await spool.append([record(3)])
    assert [number_of(row) for row in await replay(spool)] == [1, 2]
    assert not spool.backlog_bytes  # so the next rows may go to the database
    disk.broken = False
    for _ in range(2):  # the first finds the file as it was opened to read
        with suppress(SpoolError):
            await spool.append([record(4)])
            break
    assert [number_of(row) for row in await replay(spool)] == [4]
    assert path.read_bytes() == b""
    spool.close()


async def test_a_closed_spool_leaves_no_file_open(path: Path) -> None:
    spool = await Spool.open(path)
    await spool.quarantine(record(1), sqlstate="22003", reason="poison")
    assert open_files(path.parent) == {path.name, path.name + ".lock", spool.quarantine_path.name}
    spool.close()
    assert open_files(path.parent) == set()


async def test_what_could_not_be_opened_leaves_no_file_open_and_no_lock(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError):
        await Spool.open(path)
    assert open_files(path.parent) == set()
    path.rmdir()
    spool = await Spool.open(path)
    for _ in range(2):
        with pytest.raises(ConfigError, match="another process"):
            await Spool.open(path)
    spool.close()
    assert open_files(path.parent) == set()


async def test_a_disk_that_hangs_at_the_start_is_one_clear_line(
    disk: FakeDisk, autojump_clock: trio.testing.MockClock
) -> None:
    disk.delay_s = 3600.0
    with pytest.raises(StartError, match=f"BRIDGE_BUFFER_PATH={FAKE}: the disk does not answer"):
        await Spool.open(FAKE, disk=disk)
    assert trio.current_time() < 60.0


@pytest.mark.parametrize(("passes", "number"), [(True, errno.ENOSPC), (False, errno.EACCES)])
async def test_a_trouble_that_may_pass_at_the_start_is_told_from_a_wrong_setting(
    disk: FakeDisk, passes: bool, number: int
) -> None:
    disk.failing = {"create": number}
    with pytest.raises(ConfigError, match=f"BRIDGE_BUFFER_PATH={FAKE}: ") as caught:
        await Spool.open(FAKE, disk=disk)
    assert isinstance(caught.value, StartError) == passes


async def test_closing_twice_closes_nobody_elses_file(disk: FakeDisk) -> None:
    spool = await Spool.open(FAKE, disk=disk)
    spool.close()
    spool.close()  # the disk raises for a descriptor that is not open


async def test_a_slow_disk_does_not_hold_up_the_event_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await Spool.open(path)
    ticks = 0
    ticked = threading.Event()
    seen = []
    real = os.fsync

    def fsync(fd: int) -> None:
        """As slow as three ticks of the loop, if it ticks."""
        seen.append(ticked.wait(10))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await trio.sleep(0.01)
                    ticks += 1
                    if ticks == 3:
                        ticked.set()

            nursery.start_soon(tick)
            await spool.append([record(1)])
            scope.cancel()
    assert seen
    assert all(seen)
    spool.close()


class CountingDisk(RealDisk):
    """Counts what is asked of the real disk."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_read = 0
        self.calls = 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self.calls += 1
        content = super().pread(fd, length, offset)
        self.bytes_read += len(content)
        return content


async def test_replay_costs_the_same_per_chunk_wherever_it_lies_and_little_memory(
    path: Path,
) -> None:
    disk = CountingDisk()
    spool = await Spool.open(path, disk=disk)
    rows = [record(n) for n in range(1_000)]
    for _ in range(50):
        await spool.append(rows)
    size = path.stat().st_size
    process = psutil.Process()
    before = process.memory_info().rss
    disk.bytes_read = disk.calls = 0
    for _ in range(49):
        chunk = await spool.read()
        assert len(chunk.lines) == 1_000
        await spool.acknowledge(chunk, 1_000)
    assert disk.calls <= 49 * 3
    assert disk.bytes_read < 4 * size
    assert process.memory_info().rss - before < 10_000_000
    spool.close()


async def test_damage_behind_an_acknowledged_part_is_not_quarantined_yet(path: Path) -> None:
    path.write_bytes(encode_line(record(1)) + b"damaged\n" + encode_line(record(2)))
    spool = await Spool.open(path)
    chunk = await spool.read()
    await spool.acknowledge(chunk, 1)
    assert not spool.quarantine_path.exists()
    await replay(spool)
    spool.close()
    assert [entry["line"] for entry in quarantined(path)] == ["damaged"]


async def test_one_can_read_ahead_of_what_is_acknowledged(spool: Spool) -> None:
    await spool.append([record(number) for number in range(5)])
    first = await spool.read(2)
    second = await spool.read(2, after=first)
    third = await spool.read(2, after=second)
    nothing = await spool.read(2, after=third)
    ahead = [*first.lines, *second.lines, *third.lines]
    assert [number_of(line.record) for line in ahead] == [0, 1, 2, 3, 4]
    assert not nothing
    await spool.acknowledge(first, 2)
    await spool.acknowledge(second, 2)
    assert [number_of(row) for row in await replay(spool)] == [4]


async def test_what_is_not_acknowledged_durably_may_come_again_after_a_crash(path: Path) -> None:
    spool = await Spool.open(path)
    await spool.append([record(number) for number in range(4)])
    for number, durably in enumerate((True, False, False)):
        chunk = await spool.read(1)
        assert number_of(chunk.lines[0].record) == number
        await spool.acknowledge(chunk, 1, durably=durably)
    spool.close()
    again = await Spool.open(path)
    assert [number_of(row) for row in await replay(again)] == [1, 2, 3]
    again.close()


async def test_a_chunk_read_ahead_of_a_replaced_file_begins_anew(path: Path) -> None:
    spool = await Spool.open(path)
    await spool.append([record(number) for number in range(4)])
    first = await spool.read(2)
    path.unlink()
    path.write_bytes(encode_line(record(7)) + encode_line(record(8)))
    ahead = await spool.read(2, after=first)
    assert [number_of(line.record) for line in ahead.lines] == [7, 8]
    await spool.acknowledge(first, 2)
    assert [number_of(row) for row in await replay(spool)] == [7, 8]
    spool.close()


async def test_what_is_read_of_a_file_just_replaced_can_be_acknowledged(path: Path) -> None:
    spool = await Spool.open(path)
    await spool.append([record(number) for number in range(4)])
    await spool.acknowledge(await spool.read(2), 2)
    path.unlink()
    path.write_bytes(encode_line(record(7)) + encode_line(record(8)))
    await spool.acknowledge(await spool.read(), 1)
    assert [number_of(row) for row in await replay(spool)] == [8]
    spool.close()
