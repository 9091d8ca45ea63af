"""Embedding a collection of images or captions into an index, and searching it.

The format of an index is in `artifacts.index`; here is the work: items, encoders, what is reused, exact search, FAISS.
"""
