"""The PostgreSQL that the bridge runs itself when no database is configured."""
