"""What the commands do; `trio_bridge.cli` says how they are called. One module each."""
