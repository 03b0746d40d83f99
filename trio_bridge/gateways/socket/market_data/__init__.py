"""SOCKET mode: the options' market data: which lines are held, and what came over them."""
