"""The version alone, so that whoever needs it does not import the package's public names."""

__version__ = "0.1.0"
