"""What the numbers mean: plain functions of plain values."""
