"""Records the risk of an Interactive Brokers portfolio, without a gap."""

__version__ = "0.1.0"
