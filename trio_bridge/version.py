"""The version alone: whatever needs it can avoid importing the public names of the package."""

__version__ = "0.1.0"
