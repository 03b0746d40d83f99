"""A simulated Client Portal Gateway as a process: `python -m trio_bridge.simulator.portal`."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal.server import open_portal_simulator


async def _run(port: int, options: int, accounts: int, seed: int) -> None:
    book = make_book(options=options, accounts=accounts, seed=seed)
    with TemporaryDirectory() as folder:
        async with open_portal_simulator(book, port=port) as sim:
            ca_file = Path(folder, "ca.pem")
            sim.ca_pem.write_to_path(ca_file)
            print(f"simulated Client Portal Gateway on {sim.url}", flush=True)
            print(f"its certificate: IBKR_CA_FILE={ca_file}", flush=True)
            try:
                await trio.sleep_forever()
            finally:
                for violation in sim.rules.violations:
                    print(f"violation: {violation}", flush=True)


def main() -> None:
    """Serve a made-up book until interrupted."""
    parser = argparse.ArgumentParser(description="A simulated Client Portal Gateway.")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--options", type=int, default=26, help="options in the book")
    parser.add_argument("--accounts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        trio.run(_run, arguments.port, arguments.options, arguments.accounts, arguments.seed)
    except* KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
