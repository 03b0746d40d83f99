"""`python -m trio_bridge`: the service, or one of its commands."""

from trio_bridge.cli import main

if __name__ == "__main__":
    main()
