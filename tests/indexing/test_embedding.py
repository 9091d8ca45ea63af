"""Embedding a collection: the index is complete whatever was killed, changed, added or deleted before."""

import json
import os
import random

import numpy as np
import pytest

from tests.indexing.collections import DIM, BytesModel, draw, vector_of
from vse_tf.artifacts.background import CAPTIONS
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_manifest import MANIFEST
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing.embedding import embed
from vse_tf.indexing.items import caption_items, image_items
from vse_tf.indexing.work_folder import WORK_FOLDER, locked


@pytest.fixture
def folder(tmp_path):
    for i in range(11):
        draw(tmp_path / "images" / f"{i:02d}.png", i)
    return tmp_path / "images"


def run(folder, model, **options):
    return embed(image_items(folder), model, folder.parent / "index", **{"shard_rows": 4, **options})


def check(folder):
    """Check that the index contains the readable images of the folder as they are now."""
    index = Index.open(folder.parent / "index")
    index.verify()
    good = [path for path in sorted(folder.rglob("*.png")) if b"bad" not in path.read_bytes()]
    assert [item.id for item in index.all_items()] == [path.relative_to(folder).as_posix() for path in good]
    np.testing.assert_array_equal(index.matrix(), [vector_of(path.read_bytes()) for path in good])
    assert {path.name for path in index.folder.iterdir()} == {
        MANIFEST,
        "items.jsonl",
        index.background.name,
        "skipped.jsonl",
        *(shard.name for shard in index.shards),
    }
    return index


def test_a_collection_becomes_an_index(folder):
    model = BytesModel()
    result = run(folder, model)
    assert (result.new, result.unchanged, result.changed, result.deleted, result.skipped) == (11, 0, 0, 0, 0)
    index = check(folder)
    assert [shard.rows for shard in index.shards] == [4, 4, 3]
    assert index.model == model.identity
    assert str(index.path(index.item(0))) == str(folder / "00.png")
    assert index.provenance["versions"]["numpy"] == np.__version__
    assert (index.folder / "skipped.jsonl").read_text() == ""


def test_nothing_is_encoded_twice(folder):
    run(folder, BytesModel())
    before = {path: path.stat().st_mtime_ns for path in (folder.parent / "index").glob("*.npy")}
    model = BytesModel()
    result = run(folder, model)
    assert (result.unchanged, result.new, result.deleted) == (11, 0, 0)
    assert model.encoded == []
    assert {path: path.stat().st_mtime_ns for path in (folder.parent / "index").glob("*.npy")} == before
    check(folder)


def test_only_what_is_new_or_changed_is_encoded(folder):
    run(folder, BytesModel())
    draw(folder / "00a.png", 200)
    draw(folder / "05.png", 201)
    # Of the same size, changed a nanosecond later.
    stat = (folder / "07.png").stat()
    draw(folder / "07.png", 8)
    os.utime(folder / "07.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (folder / "02.png").unlink()
    (folder / "10.png").unlink()
    model = BytesModel()
    result = run(folder, model)
    assert sorted(model.encoded) == ["00a.png", "05.png", "07.png"]
    assert (result.new, result.changed, result.deleted, result.unchanged) == (1, 2, 2, 7)
    check(folder)


@pytest.mark.parametrize("seed", range(10))
def test_the_index_is_right_after_any_changes_and_kills(folder, seed):
    choose = random.Random(seed)
    for step in range(8):
        for _ in range(choose.randrange(4)):
            path = folder / f"{choose.randrange(16):02d}.png"
            action = choose.choice(["draw", "delete", "break"])
            if action == "draw":
                draw(path, 20 + step)
                os.utime(path, ns=(0, 10**9 * (seed * 100 + step)))
            elif action == "delete" and len(list(folder.iterdir())) > 6:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(b"bad" * (step + 1))
        try:
            run(folder, BytesModel(stop=choose.choice([0, 2, 5, None])), shard_rows=choose.choice([1, 3, 5, 50]))
        except KeyboardInterrupt:
            continue
        check(folder)
    run(folder, BytesModel())
    check(folder)


def test_a_killed_call_continues(folder):
    with pytest.raises(KeyboardInterrupt):
        run(folder, BytesModel(stop=9))
    model = BytesModel()
    run(folder, model)
    assert model.encoded == ["08.png", "09.png", "10.png"]
    check(folder)


def test_a_killed_update_leaves_the_old_index_and_continues(folder):
    run(folder, BytesModel())
    before = Index.open(folder.parent / "index").matrix()
    for i in range(20, 30):
        draw(folder / f"{i}.png", i)
    with pytest.raises(KeyboardInterrupt):
        run(folder, BytesModel(stop=5))
    np.testing.assert_array_equal(Index.open(folder.parent / "index").matrix(), before)
    draw(folder / "00a.png", 77)
    model = BytesModel()
    result = run(folder, model)
    assert len(model.encoded) == 10 + 1 - 5
    assert result.new == 11
    check(folder)


def test_damaged_shards_of_a_killed_call_are_made_again(folder):
    with pytest.raises(KeyboardInterrupt):
        run(folder, BytesModel(stop=9))
    shards = sorted((folder.parent / "index").glob("vectors-*.npy"))
    contents = bytearray(shards[0].read_bytes())
    contents[-1] ^= 1
    shards[0].write_bytes(contents)
    shards[1].write_bytes(b"")
    for part in (folder.parent / "index" / WORK_FOLDER).glob("part-*"):
        part.with_name("part-broken.jsonl").write_bytes(part.read_bytes()[:-9])
    model = BytesModel()
    run(folder, model)
    assert len(model.encoded) == 11
    check(folder)


def cut(contents):
    return contents[:-1]


def flipped(contents):
    return contents[:-1] + bytes([contents[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_index_is_made_again(folder, damage):
    run(folder, BytesModel())
    shard = sorted((folder.parent / "index").glob("vectors-*.npy"))[0]
    shard.write_bytes(damage(shard.read_bytes()))
    notes = []
    model = BytesModel()
    run(folder, model, note=notes.append)
    assert len(model.encoded) == 11
    assert shard.name in notes[0]
    check(folder)


def test_another_model_embeds_everything_again(folder):
    run(folder, BytesModel("a"))
    notes = []
    model = BytesModel("b")
    result = run(folder, model, note=notes.append)
    assert len(model.encoded) == 11
    assert "another model" in notes[0]
    assert result.index.model["id"] == "b"
    assert result.unchanged == 11
    check(folder)


def test_another_models_killed_work_is_not_used(folder):
    with pytest.raises(KeyboardInterrupt):
        run(folder, BytesModel("a", stop=9))
    model = BytesModel("b")
    run(folder, model)
    assert len(model.encoded) == 11
    check(folder)


def test_bad_images_are_skipped_and_listed_or_an_error(folder):
    (folder / "03.png").write_text("bad")
    for i in range(8, 11):
        (folder / f"{i:02d}.png").write_text("bad")
    (folder / "11.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(UserError, match=r"11\.png: missing image.*--on_bad skip"):
        run(folder, BytesModel(), on_bad="fail")
    result = run(folder, BytesModel())
    assert result.skipped == 5
    assert result.new == 7
    listed = [json.loads(line) for line in (result.index.folder / "skipped.jsonl").read_text().splitlines()]
    assert [os.path.basename(problem["where"]) for problem in listed] == [  # noqa: PTH119
        "11.png",
        "03.png",
        "08.png",
        "09.png",
        "10.png",
    ]
    (folder / "11.png").unlink()
    check(folder)
    with pytest.raises(UserError, match=r"03\.png.*--on_bad skip"):
        run(folder, BytesModel(), on_bad="fail")
    model = BytesModel()
    draw(folder / "03.png", 3)
    assert run(folder, model).new == 1
    check(folder)


def test_an_image_listed_twice_is_two_items(folder):
    (folder.parent / "list.txt").write_text("images/00.png\nimages/01.png\nimages/00.png\n")
    for _ in range(2):
        index = embed(image_items(folder.parent / "list.txt"), BytesModel(), folder.parent / "listed").index
        assert [item.id for item in index.all_items()] == ["images/00.png", "images/01.png", "images/00.png"]
        np.testing.assert_array_equal(index.gather([0]), index.gather([2]))


def test_captions_are_a_collection(tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\n\na cat\n")
    index = embed(caption_items(tmp_path / "captions.txt"), BytesModel(), tmp_path / "index").index
    assert [(item.id, item.caption) for item in index.all_items()] == [("1", "a dog"), ("3", "a cat")]
    np.testing.assert_array_equal(index.matrix(), [vector_of(b"a dog"), vector_of(b"a cat")])
    (tmp_path / "captions.txt").write_text("a dog\na bird\na cat\n")
    model = BytesModel()
    result = embed(caption_items(tmp_path / "captions.txt"), model, tmp_path / "index")
    assert model.encoded == ["a bird"]
    assert (result.new, result.unchanged) == (1, 2)
    assert index.kind == "captions"


def test_what_cannot_be_embedded_is_one_line(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images to embed$"):
        embed(image_items(tmp_path / "empty"), BytesModel(), tmp_path / "index")
    (tmp_path / "empty" / "a.png").write_text("bad")
    with pytest.raises(UserError, match=r"no images to embed: 1 bad .*skipped\.jsonl"):
        embed(image_items(tmp_path / "empty"), BytesModel(), tmp_path / "index")
    with pytest.raises(UserError, match="something that is not an index"):
        embed(image_items(folder), BytesModel(), folder)
    with pytest.raises(UserError, match="is a file"):
        embed(image_items(folder), BytesModel(), folder / "00.png")
    run(folder, BytesModel())
    (tmp_path / "captions.txt").write_text("a dog\n")
    with pytest.raises(UserError, match="an index of images"):
        embed(caption_items(tmp_path / "captions.txt"), BytesModel(), tmp_path / "index")
    assert not (folder / WORK_FOLDER).exists()


def test_a_diverged_model_is_one_line(folder):
    class Diverged(BytesModel):
        def encode_files(self, paths, on_bad, advance=lambda count: None):
            vectors, rows, problems = super().encode_files(paths, on_bad)
            vectors[1] = np.nan
            return vectors, rows, problems

    with pytest.raises(UserError, match=r"01\.png.*diverged"):
        run(folder, Diverged())


def test_two_processes_do_not_embed_into_one_index(folder):
    with locked(folder.parent / "index"), pytest.raises(UserError, match="another process"):
        run(folder, BytesModel())
    run(folder, BytesModel())
    check(folder)


def test_nothing_is_written_through_links_in_the_work_folder(folder, tmp_path):
    diary, work = tmp_path / "diary.txt", folder.parent / "index" / WORK_FOLDER
    diary.write_text("mine")
    work.mkdir(parents=True)
    (work / "lock").symlink_to(diary)
    with pytest.raises(UserError, match="lock: cannot be written"):
        run(folder, BytesModel())
    (work / "lock").unlink()
    for name in ("items.jsonl", "places.i64", "skipped.jsonl", "all-skipped.jsonl", "reuse.sqlite", "model"):
        (work / name).symlink_to(diary)
    (work.parent / "skipped.jsonl").symlink_to(diary)
    # Only `model` is read: it names another model.
    run(folder, BytesModel())
    check(folder)
    work.symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link"):
        run(folder, BytesModel())
    assert diary.read_text() == "mine"


def test_a_pipe_in_the_work_folder_does_not_block(folder):
    work = folder.parent / "index" / WORK_FOLDER
    work.mkdir(parents=True)
    (work / "model").write_text("a")
    os.mkfifo(work / "part-0.jsonl")
    run(folder, BytesModel("a"))
    check(folder)
    work.mkdir()
    os.mkfifo(work / "model")
    with pytest.raises(UserError, match="model: cannot be read: not a regular file but a pipe"):
        run(folder, BytesModel("a"))


def test_a_full_disk_is_one_line_and_the_old_index_stays(folder, monkeypatch):
    run(folder, BytesModel())
    index = check(folder)
    draw(folder / "20.png", 20)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(UserError, match="cannot be written: No space left on device; free some space"):
            run(folder, BytesModel())
    assert len(Index.open(index.folder)) == 11
    run(folder, BytesModel())
    check(folder)


def test_one_shard_at_a_time_is_in_memory(folder, monkeypatch):
    seen = []
    write = IndexWriter.write

    def noted(self, vectors, *name):
        seen.append(vectors.shape)
        return write(self, vectors, *name)

    monkeypatch.setattr(IndexWriter, "write", noted)
    run(folder, BytesModel(), shard_rows=3)
    assert seen == [(3, DIM), (3, DIM), (3, DIM), (2, DIM), (len(CAPTIONS), DIM)]


def compact_files(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder.parent / "index").glob("compact-*.npy")}


def test_compact_vectors_are_made_kept_and_removed(folder):
    notes = []
    index = run(folder, BytesModel(), storage="int8:4", note=notes.append).index
    assert str(index.compact.form) == "int8:4" and len(index.compact.shards) == 3
    assert [note for note in notes if note.startswith("int8:4: 8 bytes a vector instead of 24; recall@10")]
    before = compact_files(folder)
    # Nothing asked for: as before. Of unchanged shards they are not made again.
    (folder / "10.png").unlink()
    index = run(folder, BytesModel()).index
    assert str(index.compact.form) == "int8:4" and index.compact.levels
    assert len(before.items() & compact_files(folder).items()) == 2
    index.verify()
    assert str(run(folder, BytesModel(), storage="float16").index.compact.form) == f"float16:{DIM}"
    assert run(folder, BytesModel(), storage="float32").index.compact is None
    check(folder)


def test_nothing_changes_where_all_is_as_it_was(folder):
    run(folder, BytesModel(), storage="int8")
    before, notes = compact_files(folder), []
    manifest = (folder.parent / "index" / MANIFEST).read_text()
    run(folder, BytesModel(), storage="int8", note=notes.append)
    assert compact_files(folder) == before and not notes
    assert json.loads((folder.parent / "index" / MANIFEST).read_text()) == json.loads(manifest)


def test_without_float32_vectors_everything_is_embedded_again(folder):
    index, notes = run(folder, BytesModel(), storage="int8:4").index, []
    for shard in index.shards:
        (index.folder / shard.name).unlink()
    model = BytesModel()
    again = run(folder, model, note=notes.append).index
    assert len(model.encoded) == 11 and again.complete
    assert notes[0] == "embedding everything again: the index has no float32 vectors"
    assert str(again.compact.form) == "int8:4" and again.compact.levels == index.compact.levels
    assert again.calibration.levels == index.calibration.levels


def test_a_wrong_form_is_refused_before_anything_is_embedded(folder):
    model = BytesModel()
    with pytest.raises(UserError, match="from 1 to the model's 6"):
        run(folder, model, storage="int8:7")
    assert model.encoded == []
