"""What all events have in common, and the row of `api_logs` that an event becomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from trio_bridge.model import ApiEvent, Severity
from trio_bridge.text import clean, count

if TYPE_CHECKING:
    from trio_bridge.model import ApiMode

WARNING = Severity.WARNING
ERROR = Severity.ERROR


@dataclass_transform(frozen_default=True)
class Event:
    """Something in the bridge's life that a person may want to know. Each subclass is a frozen
    dataclass of its annotated fields.

    Fields may hold words of a gateway, a server or a library: they are cleaned (`text.clean`) when
    the event is made, and so are safe wherever it goes."""

    kind: ClassVar[str]
    """The stable name, `<subject>.<what happened>`; texts may be improved, kinds may not."""
    severity: ClassVar[Severity] = Severity.INFO
    stops_rows: ClassVar[bool | None] = None
    """True: there are no rows from here on; False: that cause has ended; None: neither."""
    says: ClassVar[str]
    """What happened, in one sentence for a person, with the fields in braces (`Sentence`)."""
    advises: ClassVar[str] = ""
    """What the reader can do about it, if anything."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str):
                object.__setattr__(self, name, clean(value))
            elif isinstance(value, tuple):
                cleaned = tuple(clean(one) if isinstance(one, str) else one for one in value)
                object.__setattr__(self, name, cleaned)

    @property
    def text(self) -> str:
        return SENTENCE.vformat(self.says, (), vars(self))

    @property
    def remedy(self) -> str:
        return SENTENCE.vformat(self.advises, (), vars(self))

    @property
    def message(self) -> str:
        """Text and remedy on one line."""
        return "; ".join(filter(None, (self.text, self.remedy)))

    @property
    def numbers(self) -> dict[str, float]:
        """The fields that are numbers, by name."""
        return {name: value for name, value in vars(self).items() if type(value) in (int, float)}

    def as_row(self, at: datetime, api_mode: ApiMode) -> ApiEvent:
        """The row of `api_logs` for an event that happened at this instant."""
        return ApiEvent(at, api_mode, self.message, self.severity, self.kind, self.numbers or None)


class Sentence(Formatter):
    """Fills in fields: `{rows:row}` counts (`1 row`, `2 rows`), `{because:()}` adds brackets unless
    it is empty, a tuple becomes a list with commas, a time ISO 8601."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        match value:
            case int() if format_spec:
                return count(value, format_spec)
            case str() if format_spec == "()":
                return f" ({value})" if value else ""
            case tuple():
                return ", ".join(map(str, value))
            case datetime():
                return value.isoformat()
        return super().format_field(value, format_spec)


SENTENCE = Sentence()
