"""Recalls: ranks and neighbours in NumPy, metrics made of them, and the table that reports them.

Knows embeddings only, no models and no files.
"""
