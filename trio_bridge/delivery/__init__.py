"""How rows become safe: one folder for the promise that nothing is lost, doubled or reordered."""
