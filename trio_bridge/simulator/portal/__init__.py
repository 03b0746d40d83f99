"""The Client Portal REST API and its WebSocket over TLS."""
