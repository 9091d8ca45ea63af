"""LanceDB and PostgreSQL: what was published is there, is found as NumPy finds it, and follows the index."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.stores.indexes import made_index, unit
from tests.warm_python import warm_python
from vse_tf import embed, publish, search
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.models.folding import fold, search_queries
from vse_tf.stores import publishing
from vse_tf.stores.about import About
from vse_tf.stores.address import address_of
from vse_tf.stores.published import PublishedIndex
from vse_tf.stores.store import open_store

pytestmark = pytest.mark.extras
NAMES = ["plain", "O'Hare", 'quo"te', "back\\slash", "%s {x} $1", "späte Züge/été.jpg", "zwei\nZeilen", "🌊"]


@pytest.fixture
def store(address, table):
    opened = open_store(address_of(address), table)
    yield opened
    opened.close()


def stored(store):
    """Digests by id."""
    return {name: digest for ids, digests in store.digests() for name, digest in zip(ids, digests, strict=True)}


def test_a_store_follows_the_index(store, tmp_path):
    contents = {f"{name} {i}": i for i, name in enumerate(NAMES * 3)}
    first = publishing.publish(made_index(tmp_path / "a", contents), store, batch=4)
    assert (first.new, first.deleted) == (len(contents), 0)
    assert stored(store).keys() == contents.keys()
    after = {name: seed + (seed % 3 == 0) * 100 for name, seed in contents.items() if seed % 5} | {"new": 1}
    index = made_index(tmp_path / "b", after)
    result = publishing.publish(index, store, batch=4)
    assert result.new == 1
    assert result.changed == sum(1 for seed in contents.values() if seed % 5 and seed % 3 == 0)
    assert result.deleted == sum(1 for seed in contents.values() if not seed % 5)
    before = stored(store)
    again = publishing.publish(index, store)
    assert (again.unchanged, again.new, again.changed, again.deleted) == (len(after), 0, 0, 0)
    assert stored(store) == before
    found = store.nearest(index.matrix(), 1, exact=False)
    assert [rows["caption"].to_pylist() for rows in found] == [[item.caption] for item in index.all_items()]


@pytest.mark.parametrize("corrected", [False, True])
def test_hits_are_numpys_best_ten(store, tmp_path, corrected):
    plain, count = unit(3000, 32), 3000
    vectors = fold(plain, np.random.default_rng(1).uniform(0, 0.5, count).astype(np.float32), "image")
    vectors = vectors if corrected else plain
    writer = IndexWriter(tmp_path, "images", vectors.shape[1], 32)
    items = [Item(f"{i}.jpg", path=f"{i}.jpg", size=10, offset=i) for i in range(count)]
    shards = [writer.write(vectors[:2000]), writer.write(vectors[2000:])]
    index = writer.commit(shards, items, {"id": "a"}, root=tmp_path)
    publishing.publish(index, store)
    for queries in (unit(5, vectors.shape[1], 9), vectors[:5]):
        sent = search_queries(queries, "images", 32)
        expected = np.argsort(-(sent @ vectors.T), axis=1)[:, :10]
        for exact in (False, True):
            found = store.nearest(sent, 10, exact)
            assert [rows["id"].to_pylist() for rows in found] == [[f"{i}.jpg" for i in row] for row in expected]
            assert [rows["byte_offset"].to_pylist() for rows in found] == expected.tolist()


def test_an_approximate_index_says_its_recall(address, table, tmp_path, capsys):
    vectors = unit(4000, 16)
    writer = IndexWriter(tmp_path / "index", "captions", 16)
    writer.commit([writer.write(vectors)], [Item(str(i), caption="x") for i in range(4000)], {"id": "a"})
    argv = [str(tmp_path / "index"), "--to", address, "--table", table]
    publish.main([*argv, "--approximate"])
    said = re.search(r"recall@10 of its approximate index against exact search ([\d.]+)", capsys.readouterr().out)
    printed = float(said[1])
    opened = PublishedIndex.open(address_of(address), table)
    assert opened.about.recall == pytest.approx(printed, abs=1e-3)
    assert opened.store.has_index()
    queries = unit(200, 16, 5)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    shares = []
    for row, rows in zip(expected, opened.store.nearest(queries, 10, exact=False), strict=True):
        shares.append(len({str(i) for i in row} & set(rows["id"].to_pylist())) / 10)
    assert np.mean(shares) > 0.5
    assert abs(np.mean(shares) - printed) < 0.2
    found = opened.store.nearest(queries, 10, exact=True)
    assert [rows["id"].to_pylist() for rows in found] == [[str(i) for i in row] for row in expected]
    # Published again without the option, the index stays, and its recall is measured again.
    publish.main(argv)
    assert "recall@10" in capsys.readouterr().out


def test_a_killed_call_goes_on_where_it_was(address, table, tmp_path, monkeypatch):
    contents = {f"item {i:04}": i % 50 for i in range(400)}
    made_index(tmp_path / "index", contents, shard=100)
    monkeypatch.setattr(publishing, "BATCH", 100)
    code = f"""
from vse_tf import publish
from vse_tf.stores import publishing
rows_of, done = publishing.rows_of, []
def slow(items, vectors):
    done.append(1)
    if len(done) == 3:
        print("half", flush=True)
        time.sleep(600)
    return rows_of(items, vectors)
publishing.rows_of = slow
publish.main([{str(tmp_path / "index")!r}, "--to", {address!r}, "--table", {table!r}])
"""
    with subprocess.Popen([*warm_python(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half\n"
        process.kill()
    with pytest.raises(UserError, match="it is being published, or that was interrupted"):
        PublishedIndex.open(address_of(address), table)
    opened = open_store(address_of(address), table)
    result = publishing.publish(Index.open(tmp_path / "index"), opened)
    assert (result.unchanged, result.new) == (200, 200)
    assert stored(opened).keys() == contents.keys()
    opened.close()


@pytest.fixture(scope="module")
def photos_index(tiny_run, noise_images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "photos.index"
    embed.main(["--run", str(tiny_run), "--images", str(noise_images), "--output", str(folder)])
    return folder


@pytest.mark.usefixtures("loaded_once")
def test_search_answers_as_from_the_folder(address, table, photos_index, tiny_run, noise_images, tmp_path, capsys):
    publish.main([str(photos_index), "--to", address, "--table", table])
    store = ["--index", address, "--table", table, "--run", str(tiny_run), "--root", str(noise_images)]
    for argv in (["a red circle"], ["--image", str(noise_images / "03.png"), "--without", "a blue star"]):
        answers = []
        for index in (["--index", str(photos_index), "--root", str(noise_images)], store):
            capsys.readouterr()
            search.main([*index, "--json", *argv])
            answers.append(json.loads(capsys.readouterr().out))
        for local, published in zip(*answers, strict=True):
            assert published["score"] == pytest.approx(local["score"], abs=1e-5)
            assert published["relevance"] == pytest.approx(local["relevance"], abs=1e-2)
            assert {**local, "row": None, "score": 0, "relevance": 0} == {**published, "score": 0, "relevance": 0}
    page = tmp_path / "found.html"
    search.main([*store, "a red circle", "--html", str(page)])
    assert page.read_text().count("data:image/jpeg;base64,") == 10


@pytest.mark.usefixtures("loaded_once")
def test_what_search_refuses(address, table, photos_index, tiny_run, tmp_path, capsys):
    def refused(*argv):
        with pytest.raises(UserError) as caught:
            search.main(["--index", address, "--table", table, "a", *argv])
        return str(caught.value)

    assert "nothing was published there" in refused("--run", str(tiny_run))
    publish.main([str(photos_index), "--to", address, "--table", table])
    assert "name the model" in refused()
    assert "--backend" in refused("--run", str(tiny_run), "--backend", "faiss")
    # No file is opened, since no folder is named.
    capsys.readouterr()
    page = str(tmp_path / "x.html")
    search.main(["--index", address, "--table", table, "--run", str(tiny_run), "a", "--html", page])
    assert "name it with --root" in capsys.readouterr().err


def test_what_a_stranger_wrote_is_refused(store, tmp_path):
    index = made_index(tmp_path, {"x": 1})
    about = About.of_index(index)
    for broken in ("{}", "[]", "null", about.to_json().replace('"dim": 6', '"dim": "six"'), "[" * 10_000):
        with pytest.raises(UserError, match="publish the index again"):
            About.of_json(broken, store.name)


class TestPostgresql:
    def test_no_secret_is_in_a_message(self, postgresql, tmp_path):
        for address in (
            "postgresql://zoe:s3cret@127.0.0.1:1/photos?application_name=hush",
            postgresql.replace("postgres:", "nobody_here:s3cret", 1),
            "postgresql://zoe:s3cret@127.0.0.1/photos?no_such_option=hush",
        ):
            with pytest.raises(UserError) as caught:
                open_store(address_of(address), "t")
            assert "cannot connect" in str(caught.value)
            assert not re.search("s3cret|hush|zoe|nobody_here", str(caught.value))

    def test_a_process_that_fails_prints_no_secret(self, tmp_path):
        pytest.importorskip("psycopg", reason="needs pip install 'vse_tf[pgvector]'")
        made_index(tmp_path / "index", {"x": 1})
        command = [sys.executable, "-m", "vse_tf.publish", str(tmp_path / "index")]
        command += ["--to", "postgresql://zoe:s3cret@127.0.0.1:1/photos"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "postgresql://127.0.0.1:1/photos" in done.stderr
        assert not re.search("s3cret|zoe", done.stderr)

    def test_too_many_dimensions_for_a_graph(self, postgresql, table, tmp_path):
        index = made_index(tmp_path, {"x": 1, "y": 2}, dim=2100)
        opened = open_store(address_of(postgresql), table)
        with pytest.raises(UserError, match="up to 2000 dimensions, these vectors have 2100"):
            publishing.publish(index, opened, approximate=True)
        assert len(publishing.publish(index, opened).__dict__) and stored(opened).keys() == {"x", "y"}
        opened.close()
