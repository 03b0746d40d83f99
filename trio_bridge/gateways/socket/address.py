"""Where the gateway is: the addresses behind IB_SOCKET_HOST, and why there is no way to them."""

from __future__ import annotations

import trio

from trio_bridge.errors import GatewayError


async def resolve(host: str, port: int, *, timeout_s: float) -> list[str]:
    """The addresses behind the host's name, the best one first.

    asyncio would look it up in a thread that nobody can interrupt; Ctrl-C would have to wait for a
    name server that does not answer.

    Raises:
        GatewayError: there is no such host, or nobody says so in time.
    """
    try:
        with trio.fail_after(timeout_s):
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except trio.TooSlowError:
        raise GatewayError(
            f"IB_SOCKET_HOST={host}: no answer from the name server within {timeout_s:g} s",
            setting="IB_SOCKET_HOST",
        ) from None
    except (OSError, UnicodeError) as error:
        raise GatewayError(
            f"IB_SOCKET_HOST={host}: no such host ({error})", setting="IB_SOCKET_HOST"
        ) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def explain(error: OSError, host: str, port: int) -> GatewayError:
    """What stood in the way of a connection, in words for a person."""
    if isinstance(error, ConnectionRefusedError):
        return GatewayError(
            f"connection refused by {host}:{port}",
            remedy="is TWS or IB Gateway up, its API port enabled?",
        )
    return GatewayError(f"no connection to {host}:{port}: {error}")
