"""PORTAL mode: the Client Portal Gateway through httpx."""
