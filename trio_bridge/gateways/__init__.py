"""The two ways to an Interactive Brokers account behind one contract (`base.IBridgeBase`)."""
