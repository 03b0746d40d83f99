"""Measurements that need a process of their own: its CPU time and memory are nobody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.report import PROJECT

PATIENCE_S = 600.0


def run_child(module: str, *arguments: object) -> Any:
    """Run `python -m benchmarks.MODULE ARGUMENTS...`; what it prints is JSON.

    Raises:
        subprocess.CalledProcessError: it failed; its words are on stderr.
    """
    answer = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    )
    return json.loads(answer.stdout)
