"""What pages and commands read back from the database."""
