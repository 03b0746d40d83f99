"""The two ways to an Interactive Brokers account behind one contract (`base.IBridgeBase`)."""

# trio-asyncio must be imported before ib_async, for the reason that `stores` gives.
import trio_bridge.asyncio_compat  # noqa: F401
