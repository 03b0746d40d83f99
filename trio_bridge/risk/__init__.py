"""What the numbers mean, as plain functions of plain values."""
