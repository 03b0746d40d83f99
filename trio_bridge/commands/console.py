"""Where commands print for people: rich's console, except for a broken pipe."""

from __future__ import annotations

import rich.console

STYLES = {"warning": "yellow", "error": "red"}
"""An event's style, by its status."""


class Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Rich would exit here with code 1, which means "not well"; `cli` has a code of its own."""
        raise  # the BrokenPipeError that is being handled
