"""One paced client: certificates are checked, answers understood, pauses obeyed."""

from __future__ import annotations

import gc
import socket
import ssl
import warnings
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest
import trio
import trustme

from tests.gateways.portal.support import QUICK, make_settings
from tests.gateways.socket.support import steps
from tests.support.heard import of
from tests.support.patient_clock import until
from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.events.portal import (
    AnswersUnusable,
    CertificatePinned,
    CertificateUnchecked,
    NoBrokerageSession,
)
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.portal.bridge import PortalBridge
from trio_bridge.gateways.portal.health import (
    AnswerError,
    Answers,
    Health,
    LoggedOutError,
    NoAnswerError,
    PausedError,
)
from trio_bridge.gateways.portal.values import ShapeError
from trio_bridge.gateways.portal.wire.certificate import fingerprint, tls_context, trust
from trio_bridge.gateways.portal.wire.client import PortalClient, Shared, reason_of
from trio_bridge.gateways.portal.wire.pacing import (
    DEFINITIONS,
    STATUS,
    USUAL_TIMING,
    EndpointLimit,
    Pacing,
)
from trio_bridge.gateways.readiness import Readiness
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal import server as portal_server
from trio_bridge.simulator.portal.certificate import vendor_certificate
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.simulator.portal.server import ServedPortal, open_portal_simulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.support.patient_clock import PatientClock
    from trio_bridge.events.event import Event

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


class Noted(Health):
    """Remembers how requests ended."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers, Readiness(), 60.0)
        self.outcomes: list[tuple[str, type[GatewayError] | None]] = []

    def note(self, endpoint: EndpointLimit, error: GatewayError | None, account: str = "") -> None:
        super().note(endpoint, error, account)
        self.outcomes.append((endpoint.path, None if error is None else type(error)))


def make_client(
    url: str, *, pacing: Pacing | None = None, **timing: Any
) -> tuple[PortalClient, Noted]:
    shared = Shared(make_settings(url), discard_event, lambda: NOW, USUAL_TIMING._replace(**timing))
    shared.pacing = pacing or shared.pacing
    noted = Noted(shared.answers)
    return PortalClient(shared, tls_context(url, None), noted), noted


@asynccontextmanager
async def client_and_sim(
    **timing: Any,
) -> AsyncGenerator[tuple[PortalClient, ServedPortal, Noted]]:
    async with open_portal_simulator(make_book(options=1)) as sim:
        client, noted = make_client(sim.url, **timing)
        yield client, sim, noted
        await client.aclose()


async def test_an_answer_is_read_and_told_with_the_instant_of_its_question() -> None:
    async with client_and_sim() as (client, _, noted):
        before = trio.current_time()
        answer = await client.ask(
            STATUS, read=lambda payload: isinstance(payload, dict) and payload["authenticated"]
        )
        assert answer.value is True
        assert before <= answer.asked_at <= trio.current_time()
        assert noted.outcomes == [(STATUS.path, None)]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, LoggedOutError),
        ({"status": 302}, LoggedOutError),
        ({"status": 403}, AnswerError),
        ({"status": 404}, AnswerError),
        ({"status": 411}, AnswerError),
        ({"status": 500}, AnswerError),
        ({"status": 503}, AnswerError),
        ({"status": 429}, PausedError),
        ({"html": True}, AnswerError),
        ({"text": ""}, AnswerError),
        ({"text": '{"authenticated": tr'}, AnswerError),
        ({"hang": True}, NoAnswerError),
        ({"drip": True}, NoAnswerError),
    ],
    ids=str,
)
async def test_what_is_no_answer_is_an_error_of_its_kind(
    fault: dict[str, Any], error: type[GatewayError]
) -> None:
    async with client_and_sim(answer_s=1.0) as (client, sim, noted):
        with sim.faults(Fault("", **fault)), pytest.raises(error) as caught:
            await client.ask(STATUS)
        assert type(caught.value) is error
        assert "\n" not in str(caught.value)
        assert noted.outcomes == [(STATUS.path, error)]


async def test_an_answer_of_another_shape_is_of_no_use() -> None:
    def refuse(payload: Any) -> Any:
        raise ShapeError("not what was promised")

    async with client_and_sim() as (client, _, noted):
        with pytest.raises(AnswerError, match="not what was promised"):
            await client.ask(STATUS, read=refuse)
        assert noted.outcomes == [(STATUS.path, AnswerError)]


async def test_an_endless_answer_is_given_up() -> None:
    async with client_and_sim() as (client, sim, _):
        with (
            sim.faults(Fault("", text=" " * (17 * 2**20))),
            pytest.raises(AnswerError, match="larger than 16 MiB"),
        ):
            await client.ask(STATUS)
        await client.ask(DEFINITIONS)


@pytest.mark.parametrize(
    ("retry_after", "pause_s"),
    [
        ("30", 30),
        ("0", 1),
        ("-5", 1),
        ("1e9", 1_800),
        ("nan", 600),
        ("soon", 600),
        (None, 600),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 1),
        ("Mon, 02 Mar 2026 15:00:30 -0000", 600),
    ],
)
async def test_a_429_is_followed_by_the_pause_it_asks_for(
    retry_after: str | None, pause_s: float
) -> None:
    async with client_and_sim() as (client, sim, _):
        sim.rules.penalize(5)
        sim.rules.retry_after = retry_after
        with pytest.raises(PausedError):
            await client.ask(STATUS)
        assert client.pacing.pause_s == pytest.approx(pause_s, abs=0.9)
        sent = len(sim.rules.requests)
        with pytest.raises(PausedError):
            await client.ask(STATUS)
        assert len(sim.rules.requests) == sent
        await client.knock()
        assert len(sim.rules.requests) == sent


async def test_a_name_that_cannot_be_looked_up_is_no_answer() -> None:
    client, _ = make_client("https://xn--a")
    with pytest.raises(NoAnswerError):
        await client.ask(STATUS, read=lambda payload: payload)
    with pytest.raises(NoAnswerError):
        await client.knock()
    await client.aclose()


async def test_a_port_where_nobody_listens() -> None:
    async with client_and_sim() as (client, sim, noted):
        await sim.stop()
        with pytest.raises(NoAnswerError, match="cannot connect: connection refused"):
            await client.ask(STATUS)
        with pytest.raises(NoAnswerError):
            await client.knock()
        assert noted.outcomes == [(STATUS.path, NoAnswerError)]


async def test_a_port_that_takes_connections_and_says_nothing(fast_clock: PatientClock) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    client, noted = make_client(url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, silent, listeners)
        began = trio.current_time()
        with pytest.raises(NoAnswerError, match="no answer within 5 s"):
            await client.ask(STATUS)
        assert trio.current_time() - began < 6
        await client.knock()
        nursery.cancel_scope.cancel()
    await client.aclose()
    assert noted.outcomes == [(STATUS.path, NoAnswerError)]


async def silent(stream: trio.SocketStream) -> None:
    """Takes what it is sent and answers nothing."""
    async for _ in stream:
        pass
    await stream.aclose()


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (ConnectionRefusedError(111, "Error connecting to ('::1', 5000)"), "connection refused"),
        (TimeoutError(110, "x"), "connection timed out"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "wrong version"),
        (OSError("all attempts to connect failed"), "all attempts to connect failed"),
        (ExceptionGroup("x", [ConnectionRefusedError(111, "x")]), "connection refused"),
        (
            ExceptionGroup("x", [ConnectionRefusedError(111, "x"), OSError(113, "y")]),
            "connection refused; no route to host",
        ),
        (RuntimeError(), "ValueError"),
    ],
    ids=repr,
)
def test_the_reason_of_a_failure_is_told_in_words(cause: Exception, told: str) -> None:
    error = ValueError()
    error.__cause__ = cause
    assert told in reason_of(error)


async def test_a_connection_that_ends_in_the_middle() -> None:
    async with client_and_sim() as (client, sim, noted):
        with sim.faults(Fault("", hang=True)) as fault:

            async def cut() -> None:
                while not fault.hits:
                    await trio.sleep(0.01)
                await sim.stop()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut)
                with suppress(NoAnswerError):
                    await client.ask(STATUS)
        assert noted.outcomes == [(STATUS.path, NoAnswerError)]


async def test_a_request_given_up_at_any_step_leaves_no_socket_behind(
    fast_clock: PatientClock,
) -> None:
    pacing = Pacing()
    answered = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with open_portal_simulator(make_book(options=1)) as sim:
            for number in range(60):
                client, _ = make_client(sim.url, pacing=pacing)
                await trio.sleep(0.2)
                pacing.unanswered.forget()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.ask, STATUS)
                    await steps(number)
                    nursery.cancel_scope.cancel()
                answered += pacing.answers
                pacing.answers = 0
                await client.aclose()
                del client
        gc.collect()
    assert 0 < answered < 55, "some were given up, and some not"
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []


async def test_handshakes_that_hang_hold_no_descriptor(fast_clock: PatientClock) -> None:
    """Over many connections, without the collector, which would find what was forgotten."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    pacing, counts = Pacing(), []
    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, silent, listeners)
            for _ in range(25):
                client, _ = make_client(url, pacing=pacing)
                for _ in range(4):
                    with pytest.raises(NoAnswerError, match="no answer within 5 s"):
                        await client.ask(STATUS)
                await client.aclose()
                counts.append(psutil.Process().num_fds())
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
    assert max(counts) - counts[0] < 5, counts


# Certificates --------------------------------------------------------------------------------


async def connects(url: str, ca_file: Path | None = None) -> tuple[str | None, list[Event]]:
    """The error of an attempt, if any, and the events."""
    events: list[Event] = []
    async with PortalBridge(make_settings(url, ibkr_ca_file=ca_file), emit=events.append) as bridge:
        try:
            await bridge.connect()
        except (GatewayError, ConfigError) as error:
            return str(error), events
        await bridge.disconnect()
        # Told once, not with every connection.
        await bridge.connect()
        await bridge.disconnect()
    return None, events


async def test_a_self_signed_certificate_is_accepted_on_loopback_and_said_once(
    fast_clock: PatientClock,
) -> None:
    async with open_portal_simulator(make_book(options=1)) as sim:
        error, events = await connects(sim.url)
    assert error is None
    assert len([event for event in events if isinstance(event, CertificateUnchecked)]) == 1


async def test_with_a_ca_file_the_certificate_is_checked_on_loopback_too(
    fast_clock: PatientClock, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(wrong)
    async with open_portal_simulator(make_book(options=1)) as sim:
        sim.ca_pem.write_to_path(right)
        assert await connects(sim.url, right) == (None, [])
        error, _ = await connects(sim.url, wrong)
    assert error is not None
    assert "certificate is not trusted" in error
    assert "IBKR_CA_FILE" in error


async def test_any_other_host_must_have_a_valid_certificate(
    fast_clock: PatientClock, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    # On this machine, but no address that is always on this machine.
    async with open_portal_simulator(make_book(options=1), host="0.0.0.0") as sim:
        sim.ca_pem.write_to_path(ca_file)
        error, _ = await connects(sim.url)
        assert error is not None
        assert "certificate is not trusted" in error
        assert await connects(sim.url, ca_file) == (None, [])


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    async with open_portal_simulator(make_book(options=1)) as sim:
        sim.ca_pem.write_to_path(ca_file)
        # The certificate names localhost and 127.0.0.1; this address reaches the same machine.
        error, _ = await connects(f"https://0.0.0.0:{sim.port}", ca_file)
    assert error is not None
    assert "certificate is not trusted" in error


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(ConfigError, match=r"IBKR_CA_FILE=.*ca\.pem"):
        tls_context("https://localhost:5000", ca_file)


# The gateway's own certificate fits no name and has expired; so a file that holds it pins it.


async def test_a_file_with_the_servers_own_certificate_pins_it(
    fast_clock: PatientClock, tmp_path: Path
) -> None:
    own = tmp_path / "gateway.pem"
    async with open_portal_simulator(make_book(options=1), host="0.0.0.0", vendor_tls=True) as sim:
        sim.ca_pem.write_to_path(own)
        error, events = await connects(sim.url, own)
        shown = fingerprint(ssl.PEM_cert_to_DER_cert(sim.ca_pem.bytes().decode()))
    assert error is None
    assert events == [CertificatePinned(sim.url, shown)]


async def test_a_pin_for_another_certificate_is_refused_with_both_fingerprints(
    fast_clock: PatientClock, tmp_path: Path
) -> None:
    own = tmp_path / "gateway.pem"
    vendor_certificate().cert_chain_pems[0].write_to_path(own)
    async with open_portal_simulator(make_book(options=1), host="0.0.0.0", vendor_tls=True) as sim:
        error, events = await connects(sim.url, own)
        shown = ssl.PEM_cert_to_DER_cert(sim.ca_pem.bytes().decode())
    given = ssl.PEM_cert_to_DER_cert(own.read_text())
    assert error is not None
    assert "\n" not in error
    assert error.index(fingerprint(shown)) < error.index(fingerprint(given))
    assert events == []


async def test_a_certificate_that_changes_later_is_refused_too(
    fast_clock: PatientClock, tmp_path: Path
) -> None:
    own = tmp_path / "gateway.pem"
    book = make_book(options=1)
    async with open_portal_simulator(book, vendor_tls=True) as sim:
        sim.ca_pem.write_to_path(own)
        shared = Shared(make_settings(sim.url), discard_event, lambda: NOW, USUAL_TIMING)
        client = PortalClient(shared, await trust(sim.url, own), Noted(shared.answers))
        await client.ask(STATUS)
    async with open_portal_simulator(book, port=sim.port, vendor_tls=True):
        with pytest.raises(NoAnswerError, match="not the one in IBKR_CA_FILE"):
            await client.ask(STATUS)
    await client.aclose()


async def test_a_self_signed_ca_that_is_the_servers_own_certificate_is_pinned(
    fast_clock: PatientClock, tmp_path: Path
) -> None:
    """As `openssl req -x509` makes it: it calls itself a CA, and names another host."""
    own = tmp_path / "gateway.pem"
    certificate = self_signed_ca()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portal_server, "vendor_certificate", lambda: certificate)
        async with open_portal_simulator(
            make_book(options=1), host="0.0.0.0", vendor_tls=True
        ) as sim:
            sim.ca_pem.write_to_path(own)
            error, events = await connects(sim.url, own)
    assert error is None
    assert [type(event) for event in events] == [CertificatePinned]


def self_signed_ca() -> trustme.LeafCert:
    authority = trustme.CA(organization_name="somebody's own")
    return trustme.LeafCert(authority.private_key_pem.bytes(), authority.cert_pem.bytes(), [])


# What the gateway says is shown without anything that a terminal obeys, and never at length.

NASTY = "\x1b[2J\u202eko\u202c\x9b1m\u2066" + "x" * 2_000


async def test_the_gateways_words_are_shown_clean_and_short(fast_clock: PatientClock) -> None:
    book = make_book(options=1)
    events: list[Event] = []
    async with (
        open_portal_simulator(book) as sim,
        PortalBridge(make_settings(sim.url), emit=events.append, timing=QUICK) as bridge,
    ):
        await bridge.connect()
        sim.login.can_open = sim.login.brokerage = False
        with sim.faults(Fault("/ssodh/init", text=orjson.dumps({"error": NASTY}).decode())):
            await until(
                lambda: of(events, NoBrokerageSession), every_s=0.2, complaint=lambda: str(events)
            )
        sim.login.brokerage = True
        with sim.faults(Fault("/positions/", status=500, text=NASTY)):
            await until(
                lambda: of(events, AnswersUnusable), every_s=0.2, complaint=lambda: str(events)
            )
        await bridge.disconnect()
    told = [*of(events, NoBrokerageSession), *of(events, AnswersUnusable)]
    assert all(event.message.isprintable() for event in events)
    assert all("\\x1b[2J\\u202eko" in event.message for event in told)
    assert max(len(event.message) for event in events) < 700


async def test_the_reason_of_a_failed_attempt_is_clean_and_short(fast_clock: PatientClock) -> None:
    async with (
        open_portal_simulator(make_book(options=1)) as sim,
        PortalBridge(make_settings(sim.url), timing=QUICK) as bridge,
    ):
        with (
            sim.faults(Fault("", status=500, text=NASTY)),
            pytest.raises(GatewayError) as caught,
        ):
            await bridge.connect()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
