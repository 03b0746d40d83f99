"""The default PostgreSQL of a fresh machine: found or bundled, made, kept running, stopped."""

from trio_bridge.stores.embedded.cluster import default_directory
from trio_bridge.stores.embedded.server import open_embedded, running_conninfo

__all__ = ["default_directory", "open_embedded", "running_conninfo"]
