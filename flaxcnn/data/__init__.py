"""Data: where pixels come from, and in which order."""
