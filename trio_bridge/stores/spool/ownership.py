"""Whose a file is: nobody else may have put it there, or may put another in its place."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class UnsafeFileError(OSError):
    """A file or directory that somebody else can put in place of ours, or has; or that is no file.

    Through a link rows would go into, and come from, whatever it leads to; and whoever can write
    into the directory can put one there.
    """

    def __init__(self, path: Path, text: str, remedy: str) -> None:
        super().__init__(errno.EPERM, text, str(path))
        self.remedy = remedy


def in_words(path: Path, error: OSError) -> str:
    """What is wrong with `path`, or with the file beside it that the error names."""
    reason = error.strerror or str(error)
    named = error.filename
    return f"{path}: {reason}" if named in (None, str(path)) else f"{path}: {named}: {reason}"


def remedy_for(error: OSError) -> str:
    """What a person can do about a spool that can't be used."""
    if isinstance(error, UnsafeFileError):
        return error.remedy
    return "it must be a file that this user can read and write"


def open_own(path: Path, flags: int, mode: int) -> int:
    """Open a regular file of this user's: what was opened is judged, not what was there before."""
    try:
        # O_NONBLOCK: a pipe would wait for its other end.
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UnsafeFileError(path, "is a link", "name the file that it leads to") from error
    about = os.fstat(fd)
    if stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid():
        return fd
    os.close(fd)
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(about.st_mode):
        raise UnsafeFileError(path, "is not a regular file", "name a file, or none that exists yet")
    raise UnsafeFileError(
        path,
        f"belongs to {_user(about.st_uid)}",
        f"run this as that user, or name a file of {_user(os.geteuid())}'s",
    )


def refuse_shared(directory: Path) -> None:
    """Raises UnsafeFileError: others may put files into a directory. The sticky bit of /tmp is no
    help: they may be there first."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
    finally:
        os.close(fd)
    own = f"name a file in a directory of its own, {directory / 'trio-bridge' / 'buffer.jsonl'} say"
    if about.st_uid not in (0, os.geteuid()):
        raise UnsafeFileError(directory, f"belongs to {_user(about.st_uid)}", own)
    shared = about.st_mode & stat.S_IWOTH
    if shared or (about.st_mode & stat.S_IWGRP and not _is_private_group(about.st_gid)):
        raise UnsafeFileError(directory, "others may write into this directory", own)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _is_private_group(number: int) -> bool:
    """Whether it is this user's own group, as many systems make one for each user, or root's."""
    if number == 0:
        return True
    try:
        return grp.getgrgid(number).gr_name == _user(os.geteuid())
    except KeyError:
        return False
