"""Places outside this machine, such as buckets, through fsspec (extra `remote`): their files come into the cache.

Nothing of fsspec is imported before an address is used. Only addresses that the user typed are opened.
"""
