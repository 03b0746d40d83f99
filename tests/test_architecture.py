"""The folder listing is the architecture: imports point down only, and foreign worlds have one door."""
