"""Ranks, metrics and their table. Pure NumPy."""
