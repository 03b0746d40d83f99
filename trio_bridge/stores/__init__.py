"""Where rows end up: PostgreSQL, and the JSONL spool while PostgreSQL is away."""

# It puts its own functions into asyncio when it is imported, so it comes before psycopg, which
# takes asyncio's as they are. Here, because every import of psycopg lies below this package.
import trio_asyncio  # noqa: F401
