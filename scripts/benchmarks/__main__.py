"""Measure, print, and update docs/benchmarks.md.

./scripts/bench                    every theme, about an hour
./scripts/bench aggregation spool  only these
./scripts/bench --full             with the largest sizes, some hours
./scripts/bench --quick            under a minute, writes nothing, fails on ratios that are far off
./scripts/bench soak --minutes 120 the soak, which runs only when named
./scripts/bench --beside "Python 3.14" cadence    in a section of its own, beside the usual one
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import trio_bridge.asyncio_compat  # noqa: F401  # it must come before psycopg
from benchmarks.figures import Effort, merged
from benchmarks.report import machine, render, renew

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.figures import Section

THEMES = {
    "aggregation": "cost of one row as the portfolio grows",
    "messages": "CPU per gateway message: plain asyncio, uvloop, the bridge",
    "spool": "append and recovery",
    "commit": "from tick to commit or fsync; cost as the table grows; many writers",
    "replay": "replay of the spool beside psql's copy; memory and lateness during it",
    "cadence": "rows against the grid, beside a plain asyncio loop",
    "lifecycle": "start, end, reconnect, detection of a silent gateway, takeover by a standby",
    "scale": "CPU, memory and refresh age as options grow",
    "renewal": "messages that silent market data lines cost",
    "portal": "PORTAL mode: requests, ages, memory",
    "soak": "hours of faults, compressed",
}
QUICK = ("aggregation", "messages", "spool", "replay", "renewal")
ON_REQUEST = ("soak",)
REPEATED = ("spool", "commit", "replay", "cadence", "lifecycle", "scale", "portal")
RUNS = 3
"""For REPEATED; the other themes repeat their measurements themselves, and soaks are long."""


def measure(theme: str) -> Callable[[Effort], Section]:
    """The theme's function."""
    found: Callable[[Effort], Section] = import_module(f"benchmarks.{theme}").measure
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="themes:\n" + "\n".join(f"  {name:12} {text}" for name, text in THEMES.items()),
    )
    parser.add_argument("themes", nargs="*", choices=[*THEMES, []], metavar="theme")
    parser.add_argument("--quick", action="store_true", help="seconds; only checks, no report")
    parser.add_argument("--full", action="store_true", help="also the largest sizes")
    parser.add_argument("--once", action="store_true", help="no theme three times: no ranges")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the soak runs (5)")
    parser.add_argument("--beside", metavar="WORDS", help="these in the title, for its own section")
    chosen = parser.parse_args(arguments)
    effort = Effort.QUICK if chosen.quick else Effort.FULL if chosen.full else Effort.NORMAL
    names = chosen.themes or (
        QUICK if chosen.quick else [name for name in THEMES if name not in ON_REQUEST]
    )
    command = shlex.join(["./scripts/bench", *arguments])
    print(machine(), flush=True)
    failed = []
    for name in names:
        began = time.monotonic()
        if name == "soak":
            section = import_module("benchmarks.soak").measure(effort, minutes=chosen.minutes)
        else:
            again = name in REPEATED and effort is not Effort.QUICK and not chosen.once
            runs = RUNS if again else 1
            section = merged([measure(name)(effort) for _ in range(runs)])
        if chosen.beside:
            section = replace(section, title=f"{section.title} ({chosen.beside})")
        print(f"\n{render(section, command)}\n{time.monotonic() - began:.0f} s", flush=True)
        for check in section.checks:
            print(check, flush=True)
        failed += [check for check in section.checks if not check.holds]
        if effort is not Effort.QUICK:
            renew([section], command)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
