"""Where rows end up: PostgreSQL, and the JSONL spool while PostgreSQL is away."""
