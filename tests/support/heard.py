"""What a test has heard: events, asked for by their kind and their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_bridge.events.event import Event

AnEvent = TypeVar("AnEvent", bound="Event")


def of(events: Iterable[Event], kind: type[AnEvent], **fields: Any) -> list[AnEvent]:
    """Those of this kind whose fields have these values."""
    return [
        event
        for event in events
        if isinstance(event, kind)
        and all(getattr(event, name) == value for name, value in fields.items())
    ]


def because(events: Iterable[Event], words: str) -> list[Event]:
    """Those whose reason, somebody else's words, holds these words."""
    return [event for event in events if words in getattr(event, "reason", "")]


def with_code(events: Iterable[Event], code: int) -> list[Event]:
    """Those about a message of the gateway that has this code."""
    return [event for event in events if getattr(event, "code", None) == code]
