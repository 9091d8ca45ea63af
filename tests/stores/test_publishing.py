"""What is written and deleted: after publishing, a store is what the index is, whatever was there before."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stores.indexes import MODEL, MemoryStore, made_index
from vse_tf.errors import UserError
from vse_tf.stores.publishing import publish

CONTENTS = st.dictionaries(st.sampled_from("abcdefghijkl"), st.integers(0, 3), min_size=1)


def captions(store):
    return {name: row["caption"] for name, row in store.rows.items()}


def expected(contents):
    return {name: f"caption {seed}" for name, seed in contents.items()}


@settings(deadline=None, max_examples=40)
@given(before=CONTENTS, after=CONTENTS, batch=st.integers(1, 6), fail_after=st.integers(0, 4))
def test_a_store_becomes_the_index(before, after, batch, fail_after):
    with tempfile.TemporaryDirectory() as folder:
        store = MemoryStore()
        first = publish(made_index(f"{folder}/before", before), store, batch=batch)
        assert (first.new, first.changed, first.deleted, first.unchanged) == (len(before), 0, 0, 0)
        index = made_index(f"{folder}/after", after)
        store.writes, store.fail_after = 0, fail_after
        try:
            result = publish(index, store, batch=batch)
        except InterruptedError:
            assert store.said.complete is False
            store.fail_after = None
            result = publish(index, store, batch=batch)
        else:
            changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
            assert (result.new, result.changed) == (len(after.keys() - before.keys()), changed)
        assert captions(store) == expected(after)
        assert result.deleted == len(before.keys() - after.keys())
        assert result.new + result.changed + result.unchanged == len(after)
        assert store.said.complete and store.said.count == len(after)
        store.writes = 0
        again = publish(index, store, batch=batch)
        assert (again.unchanged, again.new + again.changed + again.deleted, store.writes) == (len(after), 0, 0)


def test_vectors_and_payload_are_those_of_the_index(tmp_path):
    index, store = made_index(tmp_path, {"x": 1, "y": 2}), MemoryStore()
    publish(index, store)
    np.testing.assert_array_equal([store.rows[name]["vector"] for name in "xy"], index.matrix())
    assert store.said.model == {key: MODEL[key] for key in ("kind", "name", "id")}, "a path of this machine"


@pytest.mark.parametrize("change", [{"id": "2" * 16}, {}])
def test_vectors_of_another_space_are_refused(tmp_path, change):
    store = MemoryStore()
    publish(made_index(tmp_path / "a", {"x": 1}), store)
    other = made_index(tmp_path / "b", {"x": 1}, {**MODEL, **change}, dim=6 if change else 7)
    with pytest.raises(UserError, match=r"memory: it holds vectors of another model .* name another --table"):
        publish(other, store)
    assert store.said.complete


def test_two_items_of_one_name_are_refused(tmp_path):
    from vse_tf.indexing.merging import merge  # noqa: PLC0415

    for name in "ab":
        made_index(tmp_path / name, {"1": ord(name), "2": 5})
    store = MemoryStore()
    with pytest.raises(UserError, match="two items are called '1'"):
        publish(merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all"), store)
    assert store.said is None
