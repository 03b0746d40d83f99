"""Each common receiver gets the JSON that it understands, and no more."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
import trio
from pydantic import SecretStr

from trio_bridge.errors import ConfigError
from trio_bridge.model import Severity
from trio_bridge.policy.digest import Bulletin, DigestLine
from trio_bridge.tasks.webhook import POST_TIMEOUT_S, Webhook, payload_for

AT = datetime(2026, 1, 2, 14, 30, 5, tzinfo=UTC)


def bulletin(message: str = "delta < 0 & @everyone", *, left_out: int = 0) -> Bulletin:
    return Bulletin((DigestLine(AT, "kind", Severity.WARNING, message, 3),), left_out)


@pytest.mark.parametrize(
    ("host", "payload"),
    [
        (
            "hooks.slack.com",
            {
                "text": "trio_bridge on box: warning\n"
                "14:30:05 UTC warning: delta &lt; 0 &amp; @everyone (×3)"
            },
        ),
        (
            "chat.googleapis.com",
            {
                "text": "trio_bridge on box: warning\n"
                "14:30:05 UTC warning: delta < 0 & @everyone (×3)"
            },
        ),
        (
            "Discord.com",
            {
                "content": "trio_bridge on box: warning\n"
                "14:30:05 UTC warning: delta < 0 & @everyone (×3)",
                "allowed_mentions": {"parse": []},
            },
        ),
    ],
)
def test_receivers_that_want_their_own_fields(host: str, payload: dict[str, object]) -> None:
    assert payload_for(host, bulletin(), sender="box") == payload


def test_everybody_else_gets_text_content_and_the_events() -> None:
    payload = payload_for("ntfy.example.com", bulletin("late", left_out=2), sender="box")
    assert payload["title"] == "trio_bridge on box: warning"
    assert payload["text"] == "14:30:05 UTC warning: late (×3)\n… and 2 more"
    assert payload["events"][0]["count"] == 3
    assert payload["left_out"] == 2


def test_a_long_text_is_cut_to_what_receivers_take() -> None:
    many = Bulletin(tuple(DigestLine(AT, "kind", Severity.ERROR, "x" * 300, 1) for _ in range(50)))
    assert len(payload_for("discord.com", many, sender="box")["content"]) < 2000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://user:the-secret/@127.0.0.1:1"),
        ("NO_PROXY", "[::1"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_a_way_there_that_cannot_be_used_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^BRIDGE_ALERT_URL .*ALL_PROXY.*SSL_CERT_FILE") as told:
        Webhook(SecretStr("https://hooks.example.com/the-secret"))
    assert "\n" not in str(told.value)
    assert "the-secret" not in str(told.value)


async def test_an_answer_without_an_end_is_not_waited_for() -> None:
    async def go_on_and_on(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                await stream.send_all(bytes(65_536))
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, go_on_and_on, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        webhook = Webhook(SecretStr(f"http://127.0.0.1:{port}/"))
        began = trio.current_time()
        await webhook.post(bulletin())
        assert trio.current_time() - began < POST_TIMEOUT_S
        await webhook.aclose()
        nursery.cancel_scope.cancel()
