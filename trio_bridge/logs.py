"""Logging, for a person on the console or a collector as JSON: always on standard error.

The program configures it (`configure_logging`). A program that uses trio_bridge as a library has
its own logging instead: then everything goes to the standard library's logger `trio_bridge`, or,
where that program has configured structlog, there. Importing configures nothing.

For systemd's journal each line carries its priority, so that `journalctl -p warning` shows what
matters; lines for people then leave out the time, which the journal adds.
https://www.freedesktop.org/software/systemd/man/latest/sd-daemon.html
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    from trio_bridge.events.event import Event

CHATTY_LIBRARIES = ("ib_async", "eventkit", "trio-asyncio", "httpx", "httpcore", "hypercorn")
"""Anything a user should know from them is reported as an event, in the bridge's words."""

_CONSOLE = "%(asctime)s [%(levelname)s] %(name)s: %(message)s"
_CLOCK = "%Y-%m-%dT%H:%M:%S%z"
_FINE_CLOCK = "%Y-%m-%dT%H:%M:%S.%f%z"
"""On the console this machine's time, with its offset from UTC."""

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class Log:
    """What a module of the bridge logs with; `about` are facts beside the text."""

    def debug(self, text: str, /, **about: Any) -> None:
        self.log(logging.DEBUG, text, **about)

    def info(self, text: str, /, **about: Any) -> None:
        self.log(logging.INFO, text, **about)

    def warning(self, text: str, /, **about: Any) -> None:
        self.log(logging.WARNING, text, **about)

    def error(self, text: str, /, **about: Any) -> None:
        self.log(logging.ERROR, text, **about)

    def log(
        self, level: int, text: str, /, *, exc_info: BaseException | None = None, **about: Any
    ) -> None:
        """`exc_info` is shown with its traceback."""
        if structlog.is_configured():
            if exc_info is not None:
                about["exc_info"] = exc_info
            getattr(structlog.get_logger(), logging.getLevelName(level).lower())(text, **about)
        else:
            facts = "".join(f" {name}={value!r}" for name, value in about.items())
            logging.getLogger("trio_bridge").log(level, "%s%s", text, facts, exc_info=exc_info)


class ConsoleStream:
    """Standard error for as long as it accepts text.

    With a log on a full disk, a reader that has gone or paused (Ctrl-S), or no reader at all, log
    lines are lost, but rows are not. Not an `io.TextIOBase`: those flush once more after the
    interpreter has already torn this module down.
    """

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            if sys.stderr is not None and _takes_text(sys.stderr):
                sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr is not None and _takes_text(sys.stderr):
                sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr is not None and sys.stderr.isatty()


def _takes_text(stream: TextIO) -> bool:
    """Whether a line can be written without waiting for the reader."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return True  # not a file
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))


def configure_logging(level: str, style: str) -> None:
    """Set up structlog and the standard library's logging for the whole process.

    Args:
        level: "debug", "info", "warning" or "error".
        style: "console" for people, "json" for one object per line.
    """
    console = cast("TextIO", ConsoleStream())
    number = logging.getLevelNamesMapping()[level.upper()]
    for_journal = _writes_to_the_journal()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
    ]
    if style == "json" or not for_journal:
        utc = style == "json"
        shared.append(structlog.processors.TimeStamper(fmt="iso" if utc else _FINE_CLOCK, utc=utc))
    # Tracebacks without the values of local variables, which structlog would show: they include
    # passwords and tokens.
    renderer: tuple[Any, ...]
    if style == "json":
        as_dict = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderer = (
            structlog.processors.ExceptionRenderer(as_dict),
            structlog.processors.JSONRenderer(default=str),
        )
    else:
        plain = structlog.dev.plain_traceback
        renderer = (
            structlog.dev.ConsoleRenderer(colors=console.isatty(), exception_formatter=plain),
        )
    if for_journal:
        renderer = (*renderer, _with_priority)
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(console),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(console)
    formatter = logging.Formatter("[%(levelname)s] %(name)s: %(message)s")
    if not for_journal:
        formatter = logging.Formatter(_CONSOLE, _CLOCK)
    if style == "json":
        formatter = _JsonFormatter()
    handler.setFormatter(_JournalFormatter(formatter) if for_journal else formatter)
    logging.basicConfig(handlers=[handler], level=number)
    logging.captureWarnings(True)
    # httpx logs the URL of every request, and a webhook's URL is a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if number > logging.DEBUG:
        for name in CHATTY_LIBRARIES:
            logging.getLogger(name).setLevel(logging.CRITICAL)


def log_event(event: Event) -> None:
    """Log an event; its severity is the name of a level."""
    Log().log(logging.getLevelNamesMapping()[event.severity.upper()], event.message)


def as_error(line: str) -> str:
    """A line to print, not log: with its priority if the journal reads it, else unchanged."""
    return _with_priority(None, "error", line) if _writes_to_the_journal() else line


def _writes_to_the_journal() -> bool:
    """Whether systemd has connected standard error to its journal."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _with_priority(_logger: object, level: str, text: str) -> str:
    """Prefix every line with the priority: the journal treats each line as an entry."""
    mark = f"<{_PRIORITIES.get(level, _PRIORITIES['info'])}>"
    return "\n".join(mark + line for line in text.splitlines())


class _JsonFormatter(logging.Formatter):
    """Formats the libraries' log records as ours: one object per line."""

    def format(self, record: logging.LogRecord) -> str:
        about = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            about["exception"] = self.formatException(record.exc_info)
        return json.dumps(about)


class _JournalFormatter(logging.Formatter):
    """Formats the libraries' log records for the journal."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return _with_priority(None, record.levelname.lower(), self._inner.format(record))
