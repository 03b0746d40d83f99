"""Become a PostgreSQL program: drop root, arrange to die with the parent, exec. Run as a script.

    python -I -S launch.py PARENT UID GID DEATH_SIGNAL PROGRAM ARGUMENT...

It imports nothing of the package and runs in a process of its own instead of a `preexec_fn`, since
Python code between fork and exec can deadlock in a process with threads. A change of uid clears the
parent-death signal, so the order here matters.

UID and GID are -1 to keep the user; DEATH_SIGNAL is 0 for none.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
CANNOT_START = 126


def main(parent: int, uid: int, gid: int, death_signal: int, *command: str) -> None:
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if death_signal:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:  # the parent died before the signal was set
            return
    os.umask(0o077)
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        numbers = [int(argument) for argument in sys.argv[1:5]]
        main(numbers[0], numbers[1], numbers[2], numbers[3], *sys.argv[5:])
    except OSError as error:
        print(f"cannot start {sys.argv[5]}: {error}", file=sys.stderr)
        sys.exit(CANNOT_START)
