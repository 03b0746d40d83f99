"""One data directory: how it is made, and the command line that serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.stores.embedded.binaries import Installation

ROLE = "portfolio"
DATABASE = "portfolio_engine"
PORT = 5432
"""Only the name of the socket file: the server listens on no network address."""


def initdb_command(installation: Installation, directory: Path) -> list[str | Path]:
    """Make an empty cluster. Only those who can reach its socket can log in, so trust is enough."""
    return [
        installation.initdb,
        f"--pgdata={directory}",
        f"--username={ROLE}",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",  # every machine has it, whatever LANG says
        "--data-checksums",
    ]


def postgres_command(
    installation: Installation, directory: Path, *, socket_directory: Path
) -> list[str | Path]:
    """Serve it on a Unix socket only, and quietly."""
    settings = {
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": socket_directory,
        "unix_socket_permissions": "0700",
        "max_connections": 20,
        "shared_buffers": "32MB",
        "log_checkpoints": "off",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [installation.postgres, f"-D{directory}", *options]
