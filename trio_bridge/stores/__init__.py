"""Where rows end up: PostgreSQL, and the JSONL spool while PostgreSQL is down."""

# trio-asyncio puts its own functions into asyncio when it is imported, so it comes before psycopg,
# which takes asyncio's as they are. Here, because every import of psycopg lies below this package.
import trio_bridge.asyncio_compat  # noqa: F401
