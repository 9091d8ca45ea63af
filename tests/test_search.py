"""The search command, end to end."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vse_tf
from vse_tf import embed, search
from vse_tf.artifacts.rebuilding import Description
from vse_tf.errors import UserError

pytestmark = [pytest.mark.lowest, pytest.mark.usefixtures("loaded_once")]


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    shutil.copytree(tiny_run, folder / "run")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / "images" / f"{i:02d}.png")
    (folder / "captions.txt").write_text("a red circle\na blue star\n")
    for option, source in (("--images", "images"), ("--captions", "captions.txt")):
        output = str(folder / f"{source}.index")
        embed.main(["--run", str(folder / "run"), option, str(folder / source), "--output", output])
    return folder


def answers_of(folder, capsys, *argv, index="images.index"):
    capsys.readouterr()
    search.main(["--index", str(folder / index), "--json", *argv])
    return json.loads(capsys.readouterr().out)


def test_a_text_finds_images_best_first(folder, capsys):
    answers = answers_of(folder, capsys, "a red circle", "--top_k", "5")
    model = vse_tf.load(folder / "run")
    paths = sorted((folder / "images").iterdir())
    scores = model.encode_images(paths) @ model.encode_texts(["a red circle"])[0]
    best = np.argsort(-scores)[:5]
    assert [answer["path"] for answer in answers] == [str(paths[i]) for i in best]
    assert [answer["item"] for answer in answers] == [paths[i].name for i in best]
    np.testing.assert_allclose([answer["score"] for answer in answers], scores[best], atol=1e-5)
    assert answers_of(folder, capsys, "a", "red", "circle", "--top-k", "5") == answers
    assert len(answers_of(folder, capsys, "a red circle", "--top_k", "99")) == 12


def test_an_image_finds_itself_and_captions(folder, capsys):
    answers = answers_of(folder, capsys, "--image", str(folder / "images" / "07.png"))
    assert answers[0]["item"] == "07.png"
    assert answers[0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(answers) == 10
    answers = answers_of(folder, capsys, "--image", str(folder / "images" / "07.png"), index="captions.txt.index")
    assert {answer["caption"] for answer in answers} == {"a red circle", "a blue star"}
    assert "path" not in answers[0]


def test_words_and_an_image_together_and_without(folder, tmp_path, capsys):
    image, model = folder / "images" / "07.png", vse_tf.load(folder / "run")
    paths = sorted((folder / "images").iterdir())
    words, excluded = model.encode_texts(["a red circle", "a blue star"])
    photo, vectors = model.encode_images(image), model.encode_images(paths)
    page = tmp_path / "out.html"
    for argv, query, title in (
        (["a red circle", "--image", str(image)], words + photo, "a red circle + 07.png"),
        (["a red circle", "--without", "a blue star"], words - excluded, "a red circle − a blue star"),
        (["--image", str(image), "--without", "a blue star"], photo - excluded, "07.png − a blue star"),
    ):
        answers = answers_of(folder, capsys, *argv, "--html", str(page))
        scores = vectors @ (query / np.linalg.norm(query))
        assert [answer["item"] for answer in answers] == [paths[i].name for i in np.argsort(-scores)[:10]]
        np.testing.assert_allclose([answer["score"] for answer in answers], -np.sort(-scores)[:10], atol=1e-5)
        assert title in page.read_text()
    assert page.read_text().count("data:image/jpeg;base64,") == 11
    # Each line of a file of texts, with the same image.
    (tmp_path / "queries.txt").write_text("a red circle\na blue star\n")
    for one in answers_of(folder, capsys, "--queries", str(tmp_path / "queries.txt"), "--image", str(image)):
        alone = answers_of(folder, capsys, one["query"], "--image", str(image))
        assert [answer["item"] for answer in one["answers"]] == [answer["item"] for answer in alone]
    for argv, problem in (
        (["--without", "a star"], "name what to search for"),
        (["a star", "--without", "a star"], "nothing is left of the query"),
        (["a star", "--queries", str(tmp_path / "queries.txt")], "leave the text 'a star' out"),
    ):
        with pytest.raises(UserError, match=problem):
            answers_of(folder, capsys, *argv)


def test_the_table_and_the_contact_sheet(folder, tmp_path, capsys):
    page = tmp_path / "out.html"
    search.main(["--index", str(folder / "images.index"), "a <red> circle", "--top_k", "3", "--html", str(page)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("  1  ")
    assert str(folder / "images") in lines[0]
    assert page.read_text().count("data:image/jpeg;base64,") == 3
    assert "a &lt;red&gt; circle" in page.read_text()


def test_many_queries_and_their_picture(folder, tmp_path, capsys):
    (tmp_path / "queries.txt").write_text("a red circle\n\na blue star\n")
    argv = ("--queries", str(tmp_path / "queries.txt"), "--top_k", "3", "--picture", str(tmp_path / "out.png"))
    answers = answers_of(folder, capsys, *argv)
    assert [one["query"] for one in answers] == ["a red circle", "a blue star"]
    for one in answers:
        single = answers_of(folder, capsys, one["query"], "--top_k", "3")
        assert [answer["item"] for answer in one["answers"]] == [answer["item"] for answer in single]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"
        assert picture.height > 2 * 160
    search.main(["--index", str(folder / "images.index"), *argv])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a red circle"
    assert lines[5] == "a blue star"


@pytest.fixture
def compact(folder, tmp_path):
    """The index with compact vectors of half of the dimensions."""
    shutil.copytree(folder, tmp_path / "all")
    argv = ["--run", str(tmp_path / "all" / "run"), "--images", str(tmp_path / "all" / "images")]
    embed.main([*argv, "--output", str(tmp_path / "all" / "images.index"), "--storage", "int8:4"])
    return tmp_path / "all"


def test_compact_vectors_find_the_same_and_may_be_alone(folder, compact, capsys):
    index = vse_tf.Index.open(compact / "images.index")
    assert str(index.compact.form) == "int8:4" and index.complete
    image = str(folder / "images" / "07.png")
    queries = (["a red circle"], ["--image", image], ["a red circle", "--image", image, "--without", "a star"])
    for argv in queries:
        answers = answers_of(folder, capsys, *argv)
        for backend in ("auto", "exact"):
            found = answers_of(compact, capsys, *argv, "--backend", backend)
            assert [answer["item"] for answer in found] == [answer["item"] for answer in answers]
            assert [answer["relevance"] for answer in found] == [answer["relevance"] for answer in answers]
    assert [hit.item.id for hit in index.search("a red circle")] == [
        each["item"] for each in answers_of(folder, capsys, "a red circle")
    ]
    for shard in index.shards:
        (index.folder / shard.name).unlink()
    alone = vse_tf.Index.open(compact / "images.index")
    model = vse_tf.load(folder / "run")
    photos, words = (
        each[:, :4] / np.linalg.norm(each[:, :4], axis=1, keepdims=True)
        for each in (model.encode_images(sorted((folder / "images").iterdir())), model.encode_texts(["a red circle"]))
    )
    scores = -np.sort(-(photos @ words[0]))[:10]
    for argv in queries:
        found = answers_of(compact, capsys, *argv)
        assert len(found) == 10 and all(0 <= answer["relevance"] <= 1 for answer in found)
    found = answers_of(compact, capsys, "a red circle")
    np.testing.assert_allclose([answer["score"] for answer in found], scores, atol=0.02)
    assert [hit.item.id for hit in alone.search("a red circle")] == [answer["item"] for answer in found]


def test_faiss_answers_like_exact_search(folder, capsys):
    pytest.importorskip("faiss")
    argv = ("a red circle", "--top_k", "4")
    exact, flat = answers_of(folder, capsys, *argv), answers_of(folder, capsys, *argv, "--backend", "faiss-flat")
    assert [answer["item"] for answer in flat] == [answer["item"] for answer in exact]


def test_a_moved_index_works(folder, tmp_path, capsys):
    answers = answers_of(folder, capsys, "a red circle")
    moved = tmp_path / "moved"
    folder.rename(moved)
    try:
        together = answers_of(moved, capsys, "a red circle")
        (moved / "away").mkdir()
        (moved / "images.index").rename(moved / "away" / "images.index")
        with pytest.raises(UserError, match=r"'run': the model that made .* does not exist.*; name it with --run"):
            answers_of(moved / "away", capsys, "a red circle")
        named = ("--run", str(moved / "run"), "--root", str(moved / "images"))
        alone = answers_of(moved / "away", capsys, "a red circle", *named)
        (moved / "away" / "images.index").rename(moved / "images.index")
    finally:
        moved.rename(folder)
    for again in (together, alone):
        assert [answer["item"] for answer in again] == [answer["item"] for answer in answers]
        assert [answer["path"] for answer in again] == [str(moved / "images" / one["item"]) for one in again]


def test_images_elsewhere_are_shown_if_the_user_names_them(folder, tmp_path, capsys):
    page, run = tmp_path / "out.html", ("--run", str(folder / "run"))
    (tmp_path / "mine").mkdir()
    shutil.copytree(folder / "images.index", tmp_path / "mine" / "images.index")
    manifest = tmp_path / "mine" / "images.index" / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "root": str(folder / "images")}))
    argv = ["--index", str(manifest.parent), "a red circle", "--top_k", "3", *run, "--html", str(page)]
    search.main([*argv, "--picture", str(tmp_path / "out.png")])
    assert "data:image/jpeg" not in page.read_text()
    with Image.open(tmp_path / "out.png") as picture:
        assert (np.asarray(picture) == 200).all(axis=-1).sum() > 3 * 140 * 140
    errors = capsys.readouterr().err
    assert "3 images are not shown; " in errors
    assert f"lies outside of {tmp_path}/mine; if you trust the index, name its folder: --root {folder}/images" in errors
    search.main([*argv, "--root", str(folder / "images")])
    assert page.read_text().count("data:image/jpeg") == 3
    assert "not shown" not in capsys.readouterr().err


def test_another_model_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "other")
    with (tmp_path / "other" / "model.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"embed again, or name the model that made it"):
        answers_of(folder, capsys, "a red circle", "--run", str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], 'a "text", --image'),
        (["  "], 'a "text", --image'),
        (["a", "--min_relevance", "2"], "min_relevance"),
        (["a", "--queries", "b"], "--queries names a file of texts"),
        (["--queries", "missing.txt"], "--queries: missing.txt: No such file"),
        (["--queries", "b", "--html", "out.html"], "--html shows one query"),
        (["a", "--picture", "no/such/out.png"], "--picture: the folder"),
        (["a", "--top_k", "0"], "--top_k: 0"),
        (["a", "--html", "no/such/out.html"], "--html: the folder"),
        (["a", "--backend", "magic"], "backend"),
        (["--image", "missing.jpg"], "--image: missing.jpg: missing image"),
        (["--image", __file__], "--image: .*not a JPEG"),
    ],
)
def test_a_mistake_is_one_line(folder, argv, named):
    with pytest.raises(UserError, match=named):
        search.main(["--index", str(folder / "images.index"), *argv])


def test_no_index_is_one_line(folder):
    with pytest.raises(UserError, match="no index here"):
        search.main(["--index", str(folder), "a red circle"])


def test_a_query_of_unknown_words_says_so(folder, capsys):
    for query, unknown in (("xyzzy, plugh!", True), ("a red circle", False), ("a xyzzy", False), ("?!", False)):
        search.main(["--index", str(folder / "images.index"), query])
        printed = capsys.readouterr()
        assert ("is in the model's vocabulary" in printed.err) == unknown, query
        assert ("no relevant result" in printed.err and printed.out.count(" 0 % ") > 0) or not unknown


def test_moved_images_are_named_with_the_way_out(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "all")
    (tmp_path / "all" / "images").rename(tmp_path / "all" / "moved")
    argv = ["--index", str(tmp_path / "all" / "images.index"), "a red circle", "--top_k", "3"]
    search.main(argv)
    errors = capsys.readouterr().err
    assert f"3 of these images are missing, the first is {tmp_path}/all/images/" in errors
    assert "name it with --root" in errors
    search.main([*argv, "--root", str(tmp_path / "all" / "moved")])
    assert "missing" not in capsys.readouterr().err


@pytest.mark.parametrize("query", [["a red circle"], ["--image", "IMAGE"]], ids=["words", "image"])
def test_only_the_tower_of_the_query_is_loaded(folder, query, tmp_path, monkeypatch):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    asked, part = [], Description.part
    monkeypatch.setattr(Description, "part", lambda self, name, check: asked.append(name) or part(self, name, check))
    image = next((folder / "images").iterdir())
    argv = [str(image) if each == "IMAGE" else each for each in query]
    search.main(["--index", str(folder / "images.index"), "--run", str(run), *argv])
    assert asked == ["image_tower" if "--image" in query else "text_tower"]


def test_words_need_no_library_of_the_image_tower(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    # The settings alone, which are no part of what an index compares.
    config.write_text(config.read_text().replace("encoder: cnn", "encoder: hub:resnet_50_imagenet"))
    argv = ["--index", str(folder / "images.index"), "a red circle", "--run", str(tmp_path / "run")]
    costly = {"keras_hub", "tensorflow_text", "tensorflow_datasets", "matplotlib", "scipy", "sklearn"}
    code = f"import sys, vse_tf.search as s; s.main({argv}); print({costly} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "set()"


def test_help_needs_no_tensorflow():
    code = "import sys; import vse_tf.search; print('tensorflow' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
