"""What a person reads on the console, or a collector as JSON: always on standard error."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

CHATTY_LIBRARIES = ("ib_async", "eventkit", "trio-asyncio", "httpx", "httpcore", "hypercorn")
"""What they have to say that a user should know reaches him as an event, in our words."""


class Console(io.TextIOBase):
    """Standard error for as long as somebody takes it.

    A log on a full disk, a reader that has gone, or none from the start: what there is to say is
    lost then, and rows are not.
    """

    def write(self, text: str) -> int:
        # ValueError: it was closed.
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()


def configure_logging(level: str, style: str) -> None:
    """Set up structlog and the standard library's logging for the whole process.

    Args:
        level: "debug", "info", "warning" or "error".
        style: "console" for people, "json" for one object a line.
    """
    console = cast("TextIO", Console())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: Iterable[Any] = (
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=style == "json"),
        structlog.processors.StackInfoRenderer(),
    )
    renderer: tuple[Any, ...]
    if style == "json":
        renderer = (
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(default=str),
        )
    else:
        renderer = (structlog.dev.ConsoleRenderer(colors=console.isatty()),)
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(console),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=console, level=number, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s"
    )
    # It writes the URL of every request, and the one of a webhook is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if number > logging.DEBUG:
        for name in CHATTY_LIBRARIES:
            logging.getLogger(name).setLevel(logging.CRITICAL)
