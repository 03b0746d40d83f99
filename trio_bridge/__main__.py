"""`python -m trio_bridge` and the program `trio-bridge`: the service, or one of its commands."""

from __future__ import annotations

import signal


def main() -> None:
    """Entry point. Ctrl-C while the libraries load ends it at once, without a traceback."""
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is not signal.default_int_handler:  # ignored, say
        from trio_bridge.cli import main as run
    else:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from trio_bridge.cli import main as run

        signal.signal(signal.SIGINT, interrupted)
    run()


if __name__ == "__main__":
    main()
