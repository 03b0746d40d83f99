"""Events of the service itself, of what runs beside the recording, and of alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.events.event import ERROR, WARNING, Event
from trio_bridge.text import duration

if TYPE_CHECKING:
    from datetime import datetime

    from trio_bridge.model import ApiMode


class ServiceStarted(Event):
    """After a kill or a power cut only this shows that there was no service until now."""

    kind = "service.started"
    says = "trio_bridge {version} has started: {mode} mode, a row every {interval_s:g} s"
    version: str
    mode: ApiMode
    interval_s: float


class ServiceStopped(Event):
    """A normal stop. `endpoint`: the gateway from which it disconnected, if it was connected."""

    kind = "service.stopped"
    endpoint: str | None = None

    @property
    def text(self) -> str:
        where = f"disconnected from {self.endpoint}: " if self.endpoint else ""
        return f"{where}the service is stopping"


class TookOver(Event):
    """A standby (BRIDGE_STANDBY) records from here on."""

    kind = "recorder.took_over"
    severity = WARNING
    says = "the standby takes over: {reason}"
    advises = "look after the other service"
    reason: str


class SteppedBack(Event):
    """A standby leaves the recording to another again."""

    kind = "recorder.stepped_back"
    says = "the standby steps back: {other} records again"
    other: str


class ConnectionStuck(Event):
    """A bug, ours or a library's: everything else ended in time."""

    kind = "service.connection_stuck"
    severity = ERROR
    says = "a connection did not end within {waited_s:g} s: the service ends without it"
    waited_s: float


class ServiceDied(Event):
    """For alerts only: by then nothing can store an event any more."""

    kind = "service.died"
    severity = ERROR
    says = "the service ended without being asked to: its log says why"


class ClockStepped(Event):
    """The wall clock was set by `step_s` seconds between `before` and `after`, which it showed.

    Which of the two was right the machine can't know.
    """

    kind = "clock.stepped"
    severity = WARNING
    advises = "let an NTP server keep it"
    step_s: float
    before: datetime
    after: datetime

    @property
    def text(self) -> str:
        way = "forward" if self.step_s > 0 else "back"
        by = duration(abs(self.step_s))
        return (
            f"the machine's clock was set {way} by {by}: the times of rows up to "
            f"{self.before:%Y-%m-%d %H:%M:%S} UTC, or of those from {self.after:%Y-%m-%d %H:%M:%S} "
            "UTC on, are wrong by as much"
        )


class PartBroke(Event):
    """A bug in something that runs beside the recording."""

    kind = "service.part_broke"
    severity = ERROR
    says = "{part} failed and restarts in {delay_s:g} s; the recording is not affected"
    part: str
    delay_s: float


class AlertTried(Event):
    """For alerts only: `check --alert`."""

    kind = "alert.test"
    says = "a test: alerts of this bridge arrive here"


class EmbeddedCreated(Event):
    """The first start."""

    kind = "embedded.created"
    says = "creating a PostgreSQL database in {directory}"
    directory: str


class EmbeddedEnded(Event):
    """It restarts by itself."""

    kind = "embedded.ended"
    severity = WARNING
    says = "the embedded PostgreSQL has ended ({ending})"
    ending: str


class EmbeddedFailed(Event):
    """The restart failed, and will be tried again."""

    kind = "embedded.failed"
    severity = ERROR
    says = "the embedded PostgreSQL cannot be restarted: {reason}"
    reason: str


class EmbeddedRestarted(Event):
    kind = "embedded.restarted"
    says = "the embedded PostgreSQL is running again"
