"""The JSONL file that keeps rows while the database is down."""
