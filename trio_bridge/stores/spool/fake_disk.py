"""A disk in memory that fails at a chosen call, fills up, and forgets at a crash.

It is stricter than any real file system. Each write and each new name that was not synced survives
a crash or not, independently, and writes may be torn. A name is durable only after its directory
was synced. After a failed fsync the data is lost, although it can still be read and the next fsync
says OK (as on Linux).
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from trio_bridge.stores.spool.disk import FileIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

T = TypeVar("T")


class SimulatedCrash(BaseException):
    """The machine has stopped. Only the test may catch this."""


class _Change(NamedTuple):
    """A write of `data` at `offset`, or (data None) a truncation to `offset`."""

    offset: int
    data: bytes | None


def _apply(content: bytearray, change: _Change) -> None:
    offset, data = change
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@dataclass
class _File:
    inode: int
    durable: bytearray = field(default_factory=bytearray)
    content: bytearray = field(default_factory=bytearray)
    """What reads return."""
    pending: list[_Change] = field(default_factory=list)
    """What the next fsync will make durable."""
    is_directory: bool = False

    def change(self, change: _Change) -> None:
        _apply(self.content, change)
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()

    def lose_writes(self) -> None:
        """The effect of a failed fsync: the kernel marks the pages clean."""
        self.pending = [change for change in self.pending if change.data is None]


class _Naming(NamedTuple):
    """A new name that is not synced yet; `file` None: the name is removed."""

    path: Path
    file: _File | None


class FakeDisk:
    """Implements `stores.spool.disk.Disk`.

    `calls` lists the name of every call that changes something. `crash_at` and `fail_at` are
    positions in it, from 0; `fail_next` makes the next call of a name fail, `failing` every call.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.calls: list[str] = []
        self.crash_at: int | None = None
        self.fail_at: dict[int, int] = {}
        self.fail_next: list[tuple[str, int]] = []
        self.failing: dict[str, int] = {}
        self.short_write_at: int | None = None
        self.capacity: int | None = None
        """In bytes; None: no limit."""
        self.delay_s = 0.0
        self.crashed = False
        self._random = Random(seed)
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._renamings: list[tuple[_Naming, ...]] = []
        self._open: dict[int, _File] = {}
        self._locked: dict[int, int] = {}
        self._next = 3
        self._one_at_a_time = trio.CapacityLimiter(1)

    # For the test.

    def put(self, path: Path, content: bytes) -> None:
        """A durable file from before the test."""
        file = _File(self._number(), bytearray(content), bytearray(content))
        self._names[path] = self._durable_names[path] = file

    def fill(self) -> None:
        """No byte more has room until something is removed."""
        self.capacity = self._used()

    def put_directory(self, path: Path) -> None:
        self._names[path] = self._durable_names[path] = _File(self._number(), is_directory=True)

    def content(self, path: Path) -> bytes | None:
        """What a reader sees; None if there is no such file."""
        file = self._names.get(path)
        return None if file is None else bytes(file.content)

    def durable(self, path: Path) -> bytes:
        """What would be left after a crash now, in the worst case."""
        file = self._durable_names.get(path)
        return b"" if file is None else bytes(file.durable)

    def crash(self) -> None:
        """The machine stops: a random part of what is not durable survives."""
        self.crashed = True
        for file in {id(file): file for file in self._all_files()}.values():
            for change in file.pending:
                if self._random.random() < 0.5:
                    continue
                if change.data is not None and self._random.random() < 0.5:
                    torn = self._random.randrange(len(change.data) + 1)
                    change = change._replace(data=change.data[:torn])
                _apply(file.durable, change)
            file.pending.clear()
            file.content = bytearray(file.durable)
        # A journal keeps names in order: the first few changes survive.
        for renaming in self._renamings[: self._random.randrange(len(self._renamings) + 1)]:
            self._name(self._durable_names, renaming)
        self._renamings.clear()
        self._names = dict(self._durable_names)
        self._open.clear()
        self._locked.clear()

    def kill(self) -> None:
        """Only the process stops, so nothing that was written is lost."""
        self.crashed = True
        self._open.clear()
        self._locked.clear()

    def restart(self) -> None:
        """The next process may begin."""
        self.crashed = False
        self.crash_at = None
        self._one_at_a_time = trio.CapacityLimiter(1)

    # The interface.

    def open(self, path: Path, *, create: bool) -> int:
        self._alive()
        if path in self._names:
            if create:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if self._names[path].is_directory:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if error := self.failing.get("open"):
                raise OSError(error, os.strerror(error))
        elif not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        else:
            made = _Naming(path, _File(self._number()))
            with self._maybe_crash_in(lambda: self._rename(made)):
                self._call("create")
            self._rename(made)
        fd = self._number()
        self._open[fd] = self._names[path]
        return fd

    def open_to_read(self, path: Path) -> int:
        return self.open(path, create=False)

    def close(self, fd: int) -> None:
        self._alive()
        del self._open[fd]
        self._locked.pop(fd, None)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._alive()
        if error := self.failing.get("pread"):
            raise OSError(error, os.strerror(error))
        return bytes(self._open[fd].content[offset : offset + length])

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        file = self._open_file(fd)
        data = bytes(data)
        if self.short_write_at == len(self.calls):
            data = data[: len(data) // 2]
        if self.capacity is not None:
            room = self.capacity - self._used() + max(0, len(file.content) - offset)
            if room < len(data):
                data = data[: max(0, room)]
            if not data:
                self.fail_at.setdefault(len(self.calls), errno.ENOSPC)
        torn = data[: self._random.randrange(len(data) + 1)] if data else data
        with self._maybe_crash_in(lambda: file.change(_Change(offset, torn))):
            self._call("pwrite")
        file.change(_Change(offset, data))
        return len(data)

    def truncate(self, fd: int, length: int) -> None:
        file = self._open_file(fd)
        with self._maybe_crash_in(lambda: file.change(_Change(length, None))):
            self._call("truncate")
        file.change(_Change(length, None))

    def fsync(self, fd: int) -> None:
        file = self._open_file(fd)
        with self._maybe_crash_in(file.sync):
            try:
                self._call("fsync")
            except OSError:
                file.lose_writes()
                raise
        file.sync()

    def size(self, fd: int) -> int:
        self._alive()
        return len(self._open[fd].content)

    def identity(self, fd: int) -> FileIdentity:
        self._alive()
        return FileIdentity(1, self._open[fd].inode)

    def identity_at(self, path: Path) -> FileIdentity | None:
        self._alive()
        file = self._names.get(path)
        return None if file is None else FileIdentity(1, file.inode)

    def make_private(self, fd: int) -> None:
        self._alive()

    def lock(self, fd: int) -> bool:
        self._alive()
        inode = self._open[fd].inode
        if inode in self._locked.values():
            return False
        self._locked[fd] = inode
        return True

    def rename(self, source: Path, target: Path) -> None:
        self._alive()
        both = (_Naming(target, self._names[source]), _Naming(source, None))
        with self._maybe_crash_in(lambda: self._rename(*both)):
            self._call("rename")
        self._rename(*both)

    def unlink(self, path: Path) -> None:
        self._alive()
        if path in self._names:
            with self._maybe_crash_in(lambda: self._rename(_Naming(path, None))):
                self._call("unlink")
            self._rename(_Naming(path, None))

    def names(self, directory: Path) -> list[str]:
        self._alive()
        return sorted(path.name for path in self._names if path.parent == directory)

    def sync_directory(self, path: Path) -> None:
        self._alive()
        with self._maybe_crash_in(self._sync_names):
            self._call("sync_directory")
        self._sync_names()

    def make_directory(self, path: Path) -> None:
        self._alive()

    async def run(self, job: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            try:
                await trio.sleep(self.delay_s)
            except trio.Cancelled:
                # Like a thread whose task was cancelled.
                with contextlib.suppress(Exception):
                    job()
                raise
            return job()

    # The machinery.

    def _alive(self) -> None:
        if self.crashed:
            raise SimulatedCrash

    def _open_file(self, fd: int) -> _File:
        self._alive()
        return self._open[fd]

    def _call(self, name: str) -> None:
        """Count the call; crash or fail if the test wants that now."""
        self._alive()
        number = len(self.calls)
        self.calls.append(name)
        if number == self.crash_at:
            raise SimulatedCrash
        error = self.fail_at.pop(number, None) or self.failing.get(name)
        if error is None and self.fail_next and self.fail_next[0][0] == name:
            error = self.fail_next.pop(0)[1]
        if error is not None:
            raise OSError(error, os.strerror(error))

    @contextlib.contextmanager
    def _maybe_crash_in(self, effect: Callable[[], None]) -> Iterator[None]:
        """After a crash within a call its effect is there or not, at random."""
        try:
            yield
        except SimulatedCrash:
            if not self.crashed:
                if self._random.random() < 0.5:
                    effect()
                self.crash()
            raise

    def _used(self) -> int:
        return sum(len(file.content) for file in self._names.values())

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _rename(self, *namings: _Naming) -> None:
        self._name(self._names, namings)
        self._renamings.append(namings)

    def _sync_names(self) -> None:
        for renaming in self._renamings:
            self._name(self._durable_names, renaming)
        self._renamings.clear()

    @staticmethod
    def _name(names: dict[Path, _File], namings: Iterable[_Naming]) -> None:
        for path, file in namings:
            if file is None:
                names.pop(path, None)
            else:
                names[path] = file

    def _all_files(self) -> list[_File]:
        named = [naming.file for renaming in self._renamings for naming in renaming]
        files = [*self._names.values(), *self._durable_names.values(), *self._open.values()]
        return files + [file for file in named if file is not None]
