"""The default PostgreSQL of a fresh machine: found or bundled, made, kept running, stopped."""
