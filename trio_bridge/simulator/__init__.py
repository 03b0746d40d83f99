"""A made-up portfolio behind Interactive Brokers' real protocols, for the demo and the tests."""
