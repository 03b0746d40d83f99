"""A spool is seen from outside as it is, and nothing of it changes by being looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.rows import record
from trio_bridge.stores.record import encode_line
from trio_bridge.stores.spool import look as spool_look
from trio_bridge.stores.spool.disk import RealDisk
from trio_bridge.stores.spool.files import spool_files
from trio_bridge.stores.spool.look import Holder, holder_of, look_at_spool
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.jsonl"


async def test_a_spool_that_is_not_there_yet(path: Path) -> None:
    deep = path.parent / "not" / "made" / "yet.jsonl"
    look = look_at_spool(deep)
    assert (look.backlog_rows, look.backlog_bytes, look.quarantined) == (0, 0, 0)
    assert look.holder is None
    assert look.free_bytes > 0
    assert list(path.parent.iterdir()) == []


async def test_what_is_acknowledged_does_not_count(path: Path) -> None:
    spool = await Spool.open(path)
    await spool.append([record(number) for number in range(10)])
    await spool.acknowledge(await spool.read(max_lines=4), 4)
    await spool.settle()
    spool.close()
    look = look_at_spool(path)
    assert look.backlog_rows == 6
    assert look.backlog_bytes == sum(len(encode_line(record(n))) for n in range(4, 10))


async def test_a_last_line_without_its_end_counts(path: Path) -> None:
    path.write_bytes(encode_line(record(1)) + encode_line(record(2))[:-1])
    assert look_at_spool(path).backlog_rows == 2


@pytest.mark.parametrize("at_read", range(1, 6))
async def test_a_service_may_empty_it_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_read: int
) -> None:
    class EmptiedDisk(RealDisk):
        reads = 0

        def pread(self, fd: int, length: int, offset: int) -> bytes:
            EmptiedDisk.reads += 1
            if EmptiedDisk.reads == at_read:
                os.truncate(path, 0)
            return super().pread(fd, length, offset)

    spool = await Spool.open(path)
    await spool.append([record(number) for number in range(10)])
    await spool.acknowledge(await spool.read(max_lines=4), 4)
    spool.close()
    monkeypatch.setattr(spool_look, "RealDisk", EmptiedDisk)
    assert look_at_spool(path).backlog_rows in {0, 6}


async def test_lines_of_the_quarantine_are_counted(path: Path) -> None:
    path.with_name("buffer.jsonl.quarantine.jsonl").write_bytes(b"{}\n" * 3)
    assert look_at_spool(path).quarantined == 3


@pytest.fixture(params=["kernel", "trial"])
def other_process(
    request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Holder]:
    """A process that records into the spool, and how it should be called."""
    if request.param == "trial":
        monkeypatch.setattr(spool_look, "KERNEL_LOCKS", path.with_name("no such file"))
    elif sys.platform != "linux":
        pytest.skip("only Linux names the process")
    code = (
        "import sys, trio; from pathlib import Path\n"
        "from trio_bridge.stores.spool.spool import Spool\n"
        "spool = trio.run(Spool.open, Path(sys.argv[1])); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield Holder(process.pid if request.param == "kernel" else None)
        assert process.stdin is not None
        process.stdin.close()


async def test_a_process_that_holds_it_is_known(path: Path, other_process: Holder) -> None:
    assert holder_of(path) == other_process
    assert look_at_spool(path).holder == other_process
    assert str(Holder(None)) == "another process"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a list")
async def test_a_file_of_another_file_system_with_the_same_number_is_not_ours(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = await Spool.open(path)
    inode = spool_files(path).lock.stat().st_ino
    locks = path.with_name("locks")
    locks.write_text(f"1: FLOCK  ADVISORY  WRITE 1234 fe:ff:{inode} 0 EOF\n")
    monkeypatch.setattr(spool_look, "KERNEL_LOCKS", locks)
    assert holder_of(path) == Holder(1234)  # as of an overlay
    spool.close()
    assert holder_of(path) is None


async def test_nobody_holds_it_afterwards(path: Path) -> None:
    (await Spool.open(path)).close()
    assert holder_of(path) is None


async def test_the_look_keeps_no_service_from_starting(path: Path) -> None:
    spool = await Spool.open(path)
    spool.close()
    look_at_spool(path)
    (await Spool.open(path)).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_directory_that_may_not_be_written(path: Path) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(PermissionError):
        look_at_spool(path)


async def test_a_directory_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        look_at_spool(path)
