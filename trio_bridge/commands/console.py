"""Where commands show something to a person: rich's console, but for its end without a reader."""

from __future__ import annotations

import rich.console

STYLES = {"warning": "yellow", "error": "red"}
"""Of an event, by its status."""


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process here, with the exit code for "not well"; `cli` has its own."""
        raise  # the BrokenPipeError that is being handled
