"""Embedding a collection of images or captions into an index, and searching it.

`artifacts.index` defines the format of an index. This package holds the items of a collection, the models that embed
them, reuse of existing vectors, merging, exact search and FAISS.
"""
