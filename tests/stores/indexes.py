"""Small indexes of random vectors, and a store in memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter

DIM = 6
MODEL = {"kind": "run", "name": "a-run", "path": "../runs/a-run", "id": "1" * 16}


def unit(rows, dim=DIM, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def made_index(folder, contents, model=MODEL, dim=DIM, shard=5):
    """An index of captions: by id, what its vector and its text are made of."""
    writer = IndexWriter(folder, "captions", dim)
    items = [Item(name, caption=f"caption {seed}") for name, seed in contents.items()]
    vectors = np.concatenate([np.zeros([0, dim], np.float32), *(unit(1, dim, seed) for seed in contents.values())])
    shards = [writer.write(vectors[start : start + shard]) for start in range(0, len(vectors), shard)]
    return writer.commit(shards, items, model)


class MemoryStore:
    """A store in memory that fails on request."""

    name = "memory"

    def __init__(self):
        self.rows, self.said, self.writes, self.fail_after = {}, None, 0, None

    def about(self):
        return self.said

    def begin(self, about):
        self.said = about

    def digests(self):
        ids = list(self.rows)
        for start in range(0, len(ids), 3):
            some = ids[start : start + 3]
            yield some, [self.rows[each]["digest"] for each in some]

    def write(self, new, changed):
        if self.writes == self.fail_after:
            raise InterruptedError
        rows = new.to_pylist()
        assert not {row["id"] for row in rows} & self.rows.keys()
        assert {row["id"] for row in changed.to_pylist()} <= self.rows.keys()
        self.writes += bool(len(new) + len(changed))
        self.rows |= {row["id"]: row for row in pa.concat_tables([new, changed]).to_pylist()}

    def delete(self, ids):
        for each in ids:
            del self.rows[each]

    def has_index(self):
        return False

    def finish(self, about):
        self.said = about
