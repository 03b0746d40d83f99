"""The TWS wire protocol on TCP."""
