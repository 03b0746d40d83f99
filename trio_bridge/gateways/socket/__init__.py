"""SOCKET mode: TWS or IB Gateway through ib_async."""
