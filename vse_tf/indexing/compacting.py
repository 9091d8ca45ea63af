"""Makes the compact vectors of an index from its float32 ones. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Compact, Form
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.artifacts.shards import Shard
from vse_tf.display import phase_if
from vse_tf.indexing.compact_search import CompactSearch
from vse_tf.indexing.recall import recall, sample_queries
from vse_tf.indexing.relevance import calibrate
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.folding import truncated


def compacted(
    writer: IndexWriter,
    shards: Sequence[Shard],
    form: Form | None,
    calibration: Calibration,
    earlier: Index | None = None,
    progress: bool = False,
) -> Compact | None:
    """Write the compact vectors of an index that is being written.

    Args:
        writer: writes the index; the shards are in its folder.
        shards: the float32 vectors, in row order.
        form: how to store them; None: there shall be none.
        calibration: that of the float32 vectors.
        earlier: the index before, whose files are reused.
        progress: show what is done.
    """
    if form is None:
        return None
    before = None if earlier is None or earlier.compact is None or earlier.compact.form != form else earlier.compact
    files = {} if before is None or earlier is None else dict(zip(earlier.shards, before.shards, strict=True))
    if before is not None and before.levels and earlier and earlier.complete and list(shards) == earlier.shards:
        return before
    with phase_if(progress, f"storing the vectors as {form}", len(shards), "shards") as bar:
        for shard in shards:
            if shard not in files:
                files[shard] = writer.write_compact(shard, form)
            bar.update(1)
        compact = Compact(writer.folder, form, [files[shard] for shard in shards], {})
        texts = None if calibration.texts is None else truncated(calibration.texts, form.dims, writer.plain_dim)

        def vectors() -> Iterator[np.ndarray]:
            return (part for _, part in compact.vectors())

        count = sum(shard.rows for shard in shards)
        levels = calibrate(vectors, count, writer.kind, form.dims, texts).levels
    return Compact(compact.folder, form, compact.shards, levels)


def compact_summary(index: Index) -> str:
    """What the compact vectors of a complete index cost and find, for the user."""
    assert index.compact is not None
    queries, exact = sample_queries(index), ExactSearch(index)
    found = recall(CompactSearch(index), exact, queries)
    alone = recall(CompactSearch(index, exact=False), exact, queries)
    form = index.compact.form
    return (
        f"{form}: {form.row_bytes:,} bytes a vector instead of {4 * index.dim:,}; recall@10 against exact search "
        f"{found:.3f}, without the float32 vectors {alone:.3f}"
    )
