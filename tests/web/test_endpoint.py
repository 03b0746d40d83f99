"""The endpoint of a real service process, on a simulated gateway and a real database."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from pydantic import SecretStr

from tests.support.database import count_rows, fetch, wait_for_rows
from tests.support.process import PATIENCE_S, free_port, running_service
from tests.web.support import Watched, following, watched_service
from trio_bridge.config import load_settings
from trio_bridge.errors import ConfigError
from trio_bridge.events.gateway import Connected
from trio_bridge.events.rows import RowsMissed, RowsResumed
from trio_bridge.events.service import PartBroke
from trio_bridge.status import from_json
from trio_bridge.web.endpoint import Endpoint, open_endpoint
from trio_bridge.web.guard import SECURITY_HEADERS
from trio_bridge.web.streams import MOST_STREAMS

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.support.postgres import PostgresServer

TOKEN = "a-token-that-nobody-guesses"


async def test_everything_there_is_to_ask(tmp_path: Path, fresh_database: str) -> None:
    async with watched_service(tmp_path, fresh_database) as here, here.client() as http:
        await here.wait_ready()
        await wait_for_rows(fresh_database, 3)

        health = await http.get("/healthz")
        assert (health.status_code, health.json()) == (200, {"alive": True})
        assert (await when_ready(http)).json() == {"ready": True, "reason": None}
        for name, value in SECURITY_HEADERS.items():
            assert health.headers[name] == value
        assert "server" not in health.headers

        answer = await http.get("/api/status")
        assert answer.headers["content-type"] == "application/json"
        status = from_json(answer.content)
        assert status.pid == here.service.pid
        assert status.ticker.last is not None
        assert status.ticker.last.priced == status.ticker.last.positions == 33
        assert answer.json()["not_ready_because"] is None
        assert answer.json()["spool_rows"] == 0

        last_minute = {"from": f"{time.time() - 60:.3f}", "points": "2000"}
        rows = (await http.get("/api/rows", params=last_minute)).json()
        assert rows["coverage"]["rows"] == len(rows["t"]) >= 3
        stored = fetch(
            fresh_database,
            "SELECT extract(epoch FROM timestamp)::float8, delta FROM portfolio_greeks"
            " ORDER BY id LIMIT 3",
        )
        assert rows["t"][:3] == [pytest.approx(at, abs=0.001) for at, _ in stored]
        assert rows["series"]["delta"]["last"][:3] == [delta for _, delta in stored]

        events = (await http.get("/api/events?limit=5")).json()
        assert events["from"] == "database"
        assert any(
            event["message"].startswith("connected to 127.0.0.1") for event in events["events"]
        )
        recent = (await http.get("/api/recent")).json()
        assert recent[0]["delta"] == stored[0][1]

        metrics = (await http.get("/metrics")).text
        assert "\ntrio_bridge_recording 1.0\n" in metrics
        assert "\ntrio_bridge_positions 33.0\n" in metrics
        assert 'trio_bridge_gateway_messages_total{direction="sent"} ' in metrics
        assert "\ntrio_bridge_market_data_lines 26.0\n" in metrics

        page = await http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        again = await http.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_bad_questions(tmp_path: Path, fresh_database: str) -> None:
    async with watched_service(tmp_path, fresh_database) as here, here.client() as http:
        await here.wait_ready()
        asked = {
            "/api/rows?from=yesterday": 400,
            "/api/rows?points=1e9": 400,
            "/api/rows?from=1&to=2": 400,
            "/api/events?limit=-1": 400,
            "/api/nothing": 404,
            "/static/nothing.js": 404,
            "/static/index.html": 404,
            "/static/../app.py": 404,
            "/static/..%2fapp.py": 404,
            "/static/%2e%2e/%2e%2e/etc/passwd": 404,
            "/api/status/": 404,
        }
        for path, status in asked.items():
            answer = await http.get(path)
            assert answer.status_code == status, path
            assert answer.json()["error"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE"):
            assert (await http.request(method, "/api/status")).status_code == 405
        assert (await http.get("/api/status", headers={"Host": "evil.example"})).status_code == 421
        foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert (await http.get("/api/rows", headers=foreign)).status_code == 403
        assert (await http.head("/healthz")).content == b""


async def test_live_rows_are_those_that_are_stored(tmp_path: Path, fresh_database: str) -> None:
    async with watched_service(tmp_path, fresh_database) as here:
        await here.wait_ready()
        told: list[dict[str, Any]] = []
        kinds = set()
        with trio.fail_after(PATIENCE_S):
            async with following(here.port) as stream:
                async for kind, data in stream:
                    kinds.add(kind)
                    if kind == "row":
                        told.append(data)
                        if len(told) == 2:
                            here.gateway.lose_upstream()
                    if kind == "event" and data["kind"] == RowsMissed.kind:
                        here.gateway.restore_upstream()
                    if kind == "event" and data["kind"] == RowsResumed.kind:
                        break
        assert kinds == {"status", "recent", "row", "event"}
        await wait_for_rows(fresh_database, len(told))
        stored = fetch(
            fresh_database, "SELECT delta FROM portfolio_greeks WHERE event_id = %s",
            [told[0]["event_id"]],
        )  # fmt: skip
        assert stored == [(told[0]["delta"],)]


async def test_a_stream_begins_with_the_rows_before_it(tmp_path: Path, fresh_database: str) -> None:
    """Who has asked for the history earlier misses none in between."""
    async with watched_service(tmp_path, fresh_database) as here:
        await wait_for_rows(fresh_database, 3)
        told: list[str] = []
        with trio.fail_after(PATIENCE_S):
            async with following(here.port) as stream:
                async for kind, data in stream:
                    if kind == "recent":
                        told += [row["event_id"] for row in data]
                        assert len(told) >= 3
                    if kind == "row":
                        told.append(data["event_id"])
                        break
        await wait_for_rows(fresh_database, len(told))
        stored = fetch(
            fresh_database, "SELECT event_id::text FROM portfolio_greeks ORDER BY id LIMIT %s",
            [len(told)],
        )  # fmt: skip
        assert [event_id for (event_id,) in stored] == told


async def test_ready_says_why_not(tmp_path: Path, own_postgres: PostgresServer) -> None:
    async with (
        watched_service(tmp_path, own_postgres.url, BRIDGE_FLUSH_INTERVAL=1) as here,
        here.client() as http,
    ):
        await here.wait_ready()
        here.gateway.lose_upstream()
        assert await reason_of_503(here, http) == (
            "no rows: the gateway has lost its link to Interactive Brokers"
        )
        assert (await http.get("/healthz")).status_code == 200
        here.gateway.restore_upstream()
        await here.wait_ready()

        # A database that is away does not keep rows from being safe.
        await trio.to_thread.run_sync(own_postgres.stop)
        with trio.fail_after(PATIENCE_S):
            while (await http.get("/api/status")).json()["storage"]["breaker"] != "OPEN":
                await trio.sleep(0.1)
        await when_ready(http)
        assert (await http.get("/api/status")).json()["storage"]["breaker"] != "CLOSED"
        answer = await http.get("/api/rows")
        assert answer.status_code == 503
        assert answer.json()["error"]
        assert answer.headers["retry-after"] == "5"
        assert (await http.get("/api/events")).json()["from"] == "memory"
        assert len((await http.get("/api/recent")).json()) >= 3
        assert (await http.get("/api/status")).json()["spool_rows"] > 0
        assert "trio_bridge_spool_rows " in (await http.get("/metrics")).text

        await trio.to_thread.run_sync(own_postgres.start)
        with trio.fail_after(PATIENCE_S):
            while (await http.get("/api/status")).json()["spool_rows"] != 0:
                await trio.sleep(0.1)
        assert (await http.get("/api/rows")).json()["coverage"]["rows"] > 3


async def when_ready(http: httpx.AsyncClient) -> httpx.Response:
    """The first answer that says so: a busy machine is late with a row now and then."""
    with trio.fail_after(PATIENCE_S):
        while (answer := await http.get("/readyz")).status_code != 200:
            await trio.sleep(0.05)
    return answer


async def reason_of_503(here: Watched, http: httpx.AsyncClient) -> str:
    with trio.fail_after(PATIENCE_S):
        while True:
            answer = await http.get("/readyz")
            if answer.status_code == 503:
                return str(answer.json()["reason"])
            await trio.sleep(0.05)


async def test_the_token_opens_and_nothing_else_does(tmp_path: Path, fresh_database: str) -> None:
    async with (
        watched_service(tmp_path, fresh_database, BRIDGE_STATUS_TOKEN=TOKEN) as here,
        here.client() as http,
    ):
        await here.wait_ready(authorization=f"Bearer {TOKEN}")
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/static/page.css")).status_code == 200
        closed = ["/", "/readyz", "/metrics", "/events", "/api/status", "/api/rows", "/api/recent"]
        for path in closed:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "trio_bridge=x"}):
                answer = await http.get(path, headers=headers)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "rows" not in answer.text
        told = await http.get("/api/status", headers={"Authorization": f"Bearer {TOKEN}"})
        assert told.status_code == 200

        # A browser: the page asks for it, or it comes once in the address.
        asking = await http.get("/")
        assert 'action="/login"' in asking.text
        assert (await http.get("/?token=wrong")).status_code == 401
        assert (await http.post("/login", data={"token": "wrong"})).status_code == 401
        assert (await http.post("/login", content=b"token=" + b"x" * 10_000)).status_code == 413
        assert (await http.post("/login", content=bytes(range(256)))).status_code == 401
        assert (await http.post("/login", content=b"a=b&" * 100)).status_code == 401
        assert (await http.get(f"/?{'a=b&' * 100}")).status_code == 401
        for let_in in (
            await http.post("/login", data={"token": TOKEN}),
            await http.get(f"/?token={TOKEN}"),
        ):
            assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
            cookie = let_in.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert TOKEN not in cookie
            http.cookies.clear()
            headers = {"Cookie": cookie.partition(";")[0]}
            assert (await http.get("/api/status", headers=headers)).status_code == 200
        assert TOKEN not in here.service.output


async def test_without_a_port_there_is_no_endpoint_and_nothing_of_it_is_loaded(
    tmp_path: Path, fresh_database: str
) -> None:
    async with watched_service(tmp_path, fresh_database, BRIDGE_STATUS_PORT="") as here:
        await wait_for_rows(fresh_database, 2)
        assert "status page" not in here.service.output
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", here.port)


async def test_a_port_that_is_taken_ends_in_one_line_before_anything_is_touched(
    tmp_path: Path, fresh_database: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        async with running_service(
            tmp_path, DATABASE_URL=fresh_database, BRIDGE_STATUS_PORT=port
        ) as service:
            assert await service.wait() == 2
    assert len(service.output.splitlines()) == 1
    assert service.output.startswith(f"trio_bridge: BRIDGE_STATUS_PORT={port}: another program")
    assert not (tmp_path / ".portfolio_bridge_buffer.jsonl").exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
async def test_an_address_of_another_machine_is_named(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(
        status_port=free_port(), status_host=host, status_token=SecretStr(TOKEN)
    )
    with pytest.raises(ConfigError, match=f"BRIDGE_STATUS_HOST={host}: not an address of this"):
        async with open_endpoint(settings):
            pass


@pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.5"])
async def test_this_machine_has_several_addresses(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(status_port=free_port(), status_host=host)
    try:
        async with open_endpoint(settings) as endpoint:
            stream = await trio.open_tcp_stream(host, settings.status_port or 0)
            await stream.aclose()
            shown = f"[{host}]" if ":" in host else host
            assert endpoint.url == f"http://{shown}:{settings.status_port}/"
    except ConfigError:
        if host != "::1" or socket.has_ipv6:
            raise


async def test_open_streams_do_not_hold_up_the_end(tmp_path: Path, fresh_database: str) -> None:
    async with watched_service(tmp_path, fresh_database) as here, AsyncExitStack() as streams:
        await here.wait_ready()
        for _ in range(10):
            await anext(await streams.enter_async_context(following(here.port)))
        here.service.interrupt(signal.SIGTERM)
        # Half a second, on an idle machine; for ever, if it waited for them to be closed.
        assert await here.service.wait() == 0
    assert "Traceback" not in here.service.output


async def test_there_is_room_for_so_many_streams(tmp_path: Path, fresh_database: str) -> None:
    async with (
        watched_service(tmp_path, fresh_database) as here,
        here.client() as http,
        trio.open_nursery() as nursery,
    ):
        await here.wait_ready()
        listening = 0

        async def listen() -> None:
            nonlocal listening
            async with following(here.port) as stream:
                await anext(stream)
                listening += 1
                await trio.sleep_forever()

        for _ in range(MOST_STREAMS):
            nursery.start_soon(listen)
        with trio.fail_after(PATIENCE_S):
            while listening < MOST_STREAMS:
                await trio.sleep(0.05)
        answer = await http.get("/events")
        assert (answer.status_code, answer.json()) == (503, {"error": "too many live streams"})
        assert (
            f"trio_bridge_http_event_streams {MOST_STREAMS}.0" in (await http.get("/metrics")).text
        )
        nursery.cancel_scope.cancel()


async def test_events_on_their_way_to_the_database_are_told_once(
    tmp_path: Path, fresh_database: str
) -> None:
    """Whoever asks now is told live only of what comes after."""
    async with (
        watched_service(tmp_path, fresh_database) as here,
        here.client() as http,
    ):
        await here.wait_ready()
        with psycopg.connect(fresh_database) as other:
            other.execute("LOCK TABLE api_logs IN EXCLUSIVE MODE")  # it can be read
            here.gateway.lose_upstream()
            await here.service.wait_for_output("no rows: ")
            answer = (await http.get("/api/events")).json()
            assert answer["from"] == "database"
            during = [event["kind"] for event in answer["events"]]
            assert (await http.get("/api/events?limit=1")).json()["events"] == answer["events"][-1:]
            assert fetch(fresh_database, "SELECT FROM api_logs WHERE kind = 'rows.missed'") == []
        with trio.fail_after(PATIENCE_S):
            while not fetch(fresh_database, "SELECT FROM api_logs WHERE kind = 'rows.missed'"):
                await trio.sleep(0.1)
        after = [event["kind"] for event in (await http.get("/api/events")).json()["events"]]
        for told in (during, after):
            assert told.count(RowsMissed.kind) == 1
            assert told.count(Connected.kind) == 1


async def test_an_endpoint_that_breaks_down_comes_back_and_the_recording_goes_on(
    tmp_path: Path, fresh_database: str
) -> None:
    """A bug in the endpoint itself: made by a module that is found before the real one."""
    (tmp_path / "sitecustomize.py").write_text(BUG)
    async with (
        watched_service(tmp_path, fresh_database, PYTHONPATH=tmp_path) as here,
        here.client() as http,
    ):
        await wait_for_rows(fresh_database, 2)
        await here.service.wait_for_output("the status endpoint failed")
        rows = count_rows(fresh_database)
        await wait_for_rows(fresh_database, rows + 5)
        await here.wait_ready()
        events = (await http.get("/api/events")).json()["events"]
        broke = [event for event in events if event["kind"] == PartBroke.kind]
        assert [event["status"] for event in broke] == ["error"]
        metrics = (await http.get("/metrics")).text
        assert "trio_bridge_row_lateness_seconds_count" in metrics


BUG = """
import trio_bridge.web.streams as streams

real = streams.Hub.listeners.fget
calls = []

def broken(hub):
    calls.append(1)
    if len(calls) == 1:
        raise RuntimeError("made by the test")
    return real(hub)

streams.Hub.listeners = property(broken)
"""


def test_the_endpoint_is_not_made_without_a_port() -> None:
    with pytest.raises(AssertionError):
        Endpoint(load_settings(), [])
