"""Every figure of the documentation comes from here: `./scripts/bench`. See `__main__`."""
