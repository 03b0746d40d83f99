"""Measurements that need a separate process, whose CPU time and memory are theirs alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.report import PROJECT

PATIENCE_S = 600.0


def run_child(module: str, *arguments: object) -> Any:
    """Run `python -m benchmarks.MODULE ARGUMENTS...` and return the JSON that it prints.

    Raises:
        subprocess.CalledProcessError: it failed; its message is on stderr.
    """
    answer = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    )
    return json.loads(answer.stdout)
