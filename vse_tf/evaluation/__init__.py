"""Evaluation: ranks and nearest neighbours in NumPy, metrics computed from them, and the tables that report them.

It works on embeddings and knows no models and no files.
"""
