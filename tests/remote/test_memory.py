"""Remote places on fsspec's file system in memory, which needs no extra."""

import json
import os
import re
import shutil
from pathlib import Path

import fsspec
import pytest

from tests.tiny import tiny_settings
from vse_tf import addresses, check, embed, evaluate, pack, search, train
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.cache import cache_folder
from vse_tf.cache_size import BoundedCache
from vse_tf.config import DataSettings
from vse_tf.data.sources import read
from vse_tf.errors import UserError
from vse_tf.remote import copies, filesystem, shards
from vse_tf.settings_parser import parse_settings
from vse_tf.training.run_sync import RunSync


@pytest.fixture(autouse=True)
def _own_place(monkeypatch, tmp_path):
    """An empty bucket, cache, and list of typed addresses."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(addresses, "_typed", {})
    monkeypatch.setattr(filesystem, "FIRST_WAIT", 0.0)


def put(folder, address):
    """Copy a local folder, as `aws s3 cp --recursive` does."""
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.name.startswith(".lock"):
            fsspec.filesystem("memory").pipe_file(f"{address}/{path.relative_to(folder)}", path.read_bytes())


def there(address):
    return {name: fsspec.filesystem("memory").cat_file(f"{address}/{name}") for name in filesystem.listed(address)}


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("https://ann:secret@host/a.csv?token=xyz#part", "https://host/a.csv"),
        ("s3://bucket/folder/", "s3://bucket/folder"),
        ("s3://bucket/who@home/what?.tar", "s3://bucket/who@home/what?.tar"),
    ],
)
def test_what_is_shown_of_an_address(typed, wanted):
    assert addresses.allow(typed) == wanted
    assert addresses.typed(wanted) == typed.rstrip("/") or typed


@pytest.mark.parametrize("typed", ["s3://key:secret@bucket/a", "s3://bucket/a/../b"])
def test_an_address_that_is_refused_is_not_repeated_in_full(typed):
    with pytest.raises(UserError) as refused:
        addresses.allow(typed)
    assert "secret" not in str(refused.value)


def test_only_what_was_typed_and_below_is_opened():
    addresses.allow("memory://bucket/run")
    addresses.allow("memory://bucket/shards/train-*.tar")
    assert addresses.typed("memory://bucket/run/config.yaml") == "memory://bucket/run/config.yaml"
    assert addresses.typed("memory://bucket/shards/train-1.tar")
    for other in ("memory://bucket/running", "memory://bucket", "memory://bucket/run/../x", "memory://bucket/x.tar"):
        with pytest.raises(UserError, match="was not typed"):
            addresses.typed(other)


def test_secrets_of_another_library_are_hidden():
    addresses.allow("https://ann:secret@host/a.csv?token=xyz123")
    message = addresses.without_secrets("404 for https://ann:secret@host/a.csv?token=xyz123 (xyz123)")
    assert message == "404 for https://***@host/a.csv?*** (***)"


def test_the_arguments_of_a_command_lose_their_secrets():
    given = ["--data.annotations", "['https://a:b@h/x.csv?k=v', s3://b/y]", "--image.encoder=hub:s3://b/p", "a://b"]
    wanted = ["--data.annotations", "['https://h/x.csv', s3://b/y]", "--image.encoder=hub:s3://b/p", "a://b"]
    assert addresses.allow_arguments(given) == wanted
    assert addresses.typed("https://h/x.csv") == "https://a:b@h/x.csv?k=v"


def test_a_copy_of_a_folder_follows_it():
    address = addresses.allow("memory://b/folder")
    fsspec.filesystem("memory").pipe({"/b/folder/a.txt": b"1", "/b/folder/sub/b.txt": b"2"})
    folder = copies.local_folder(address)
    assert (folder / "a.txt").read_bytes() + (folder / "sub/b.txt").read_bytes() == b"12"
    untouched = (folder / "sub/b.txt").stat().st_ino
    fsspec.filesystem("memory").pipe({"/b/folder/a.txt": b"3"})
    fsspec.filesystem("memory").pipe({"/b/folder/c.txt": b"4"})
    assert copies.local_folder(address) == folder
    assert (folder / "a.txt").read_bytes() + (folder / "c.txt").read_bytes() == b"34"
    assert (folder / "sub/b.txt").stat().st_ino == untouched
    fsspec.filesystem("memory").rm_file("/b/folder/c.txt")
    copies.local_folder(address)
    assert not (folder / "c.txt").exists()


def test_an_object_replaced_while_it_is_read_is_read_again(monkeypatch):
    address = addresses.allow("memory://b/file.txt")
    memory = fsspec.filesystem("memory")
    memory.pipe_file(address, b"old old old")
    monkeypatch.setattr(filesystem, "CHUNK", 4)
    real, calls = memory.cat_file, []

    def cat_file(path, start=None, end=None, **kwargs):
        found = real(path, start=start, end=end)
        calls.append(start)
        if len(calls) == 2:
            memory.pipe_file(address, b"new new new")
        return found

    monkeypatch.setattr(type(memory), "cat_file", lambda self, path, **kwargs: cat_file(path, **kwargs))
    assert copies.local_file(address).read_bytes() == b"new new new"


def test_a_key_that_leads_out_of_the_folder_is_refused():
    address = addresses.allow("memory://b/folder")
    fsspec.filesystem("memory").store["/b/folder/../../evil"] = fsspec.filesystem("memory").open("/b/x", "wb")
    with pytest.raises(UserError, match="cannot be a file's"):
        filesystem.listed(address)


def test_shards_come_into_the_cache_or_are_read_in_place(packed, tmp_path):
    put(packed, "memory://b/shards")
    address = addresses.allow("memory://b/shards")
    local = read(DataSettings(annotations=str(packed)), progress=False)
    settings = DataSettings(annotations=address)
    remote = read(settings, progress=False)
    assert {name: len(split) for name, split in remote.splits.items()} == {n: len(s) for n, s in local.splits.items()}
    images, wanted = remote.splits["train"].images, local.splits["train"].images
    assert images.read(3) == wanted.read(3)
    (folder,) = (cache_folder(settings) / "shards").iterdir()
    for path in folder.iterdir():
        path.unlink()
    assert [images.read(row) for row in range(5)] == [wanted.read(row) for row in range(5)]
    assert images.read(3, -4) == wanted.read(3)[-4:]
    assert not list(folder.iterdir())


def test_a_shard_that_has_changed_is_not_read(packed):
    put(packed, "memory://b/shards")
    images = read(DataSettings(annotations=addresses.allow("memory://b/shards")), progress=False).splits["val"].images
    for path in (cache_folder(DataSettings()) / "shards").glob("*/*"):
        path.unlink()
    put(packed, "memory://b/shards")
    with pytest.raises(OSError, match="has changed since this command began"):
        images.read(0)


def test_the_cache_evicts_shards_one_by_one(tmp_path):
    for name in ("a", "b"):
        fsspec.filesystem("memory").pipe_file(f"/b/{name}.tar", bytes(700))
    addresses.allow("memory://b/*.tar")
    mirror = shards.Mirror("memory://b", BoundedCache(tmp_path / "small", 1e-6))
    first = mirror.fetch("a.tar")
    os.utime(first, ns=(0, first.stat().st_mtime_ns))
    mirror.fetch("b.tar")
    assert [path.name for path in mirror.root.iterdir()] == ["b.tar"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("train-{0..1}.tar", ["train-0.tar", "train-1.tar"]),
        ("*/t?.tar", ["x/t1.tar"]),
        ("**/*.tar", ["train-0.tar", "train-1.tar", "x/t1.tar", "x/y/t1.tar"]),
    ],
)
def test_patterns(pattern, wanted):
    for name in ("train-0.tar", "train-1.tar", "x/t1.tar", "x/y/t1.tar", "train-0.json"):
        fsspec.filesystem("memory").pipe_file(f"/b/{name}", b"")
    found = shards.shards_at(addresses.allow(f"memory://b/{pattern}"), ".tar", DataSettings())
    assert [shards.mirror_of(path)[1] for path in found] == wanted


def test_an_address_in_a_run_is_not_followed(tiny_run, tmp_path):
    put(tiny_run, "memory://b/run")
    config = fsspec.filesystem("memory").cat_file("/b/run/config.yaml").decode()
    config = config.replace("source: shapes", "source: webdataset").replace(
        "annotations: null", "annotations: memory://b/x"
    )
    fsspec.filesystem("memory").pipe_file("/b/run/config.yaml", config.encode())
    with pytest.raises(UserError, match="memory://b/x: not opened, since it was not typed"):
        evaluate.main(["--run", "memory://b/run"])


def test_a_run_is_copied_and_brought_back(tiny_run, tmp_path):
    settings = tiny_settings(tmp_path / "first", train__sync_to="memory://b/copy")
    first = RunFolder(tmp_path / "first")
    shutil.copytree(tiny_run, first.path)
    sync = RunSync(first, settings)
    sync.finish()
    files = {path.relative_to(first.path).as_posix() for path in first.path.rglob("*") if path.is_file()}
    assert there("memory://b/copy").keys() == files - {".lock"}
    # A later checkpoint here: the one before goes there too, and nothing is brought.
    old, new = first.checkpoints / "step-000000004", first.checkpoints / "step-000000009"
    old.rename(new)
    position = json.loads((new / "position.json").read_text())
    (new / "position.json").write_text(json.dumps({**position, "step": 9}))
    (first.checkpoints / "pointer.json").write_text('{"last": "step-000000009", "best": "step-000000009"}')
    RunSync(first, settings).bring()
    assert new.is_dir()
    sync.finish()
    assert not [name for name in there("memory://b/copy") if "step-000000004" in name]
    config = first.config.read_text()
    first.config.write_text(config.replace("  seed: 0\n  deterministic", "  seed: 7\n  deterministic"))
    with pytest.raises(UserError, match=r"holds another run than .*first, with another train\.seed"):
        RunSync(first, settings).bring()
    second = RunFolder(tmp_path / "second")
    RunSync(second, settings).bring()
    assert there("memory://b/copy") == {
        path.relative_to(second.path).as_posix(): path.read_bytes() for path in second.path.rglob("*") if path.is_file()
    }


def test_an_index_in_a_bucket_appears_with_its_manifest(monkeypatch, tiny_run, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("a red circle\na blue star\n")
    order = []
    real = filesystem.upload
    monkeypatch.setattr(
        "vse_tf.remote.outputs.upload", lambda address, *rest: (order.append(address), real(address, *rest))
    )
    embed.main(["--run", str(tiny_run), "--captions", str(captions), "--output", "memory://b/words.index"])
    assert order[-1] == "memory://b/words.index/manifest.json" and len(order) == len(set(order))


def test_a_recipe_may_name_addresses(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{data: {annotations: 'https://a:b@h/x.tar?k=v'}, image: {encoder: 'hub:s3://b/p'}}")
    settings = parse_settings(["--config", str(recipe), "--train.sync_to", "s3://b/run"], "train", "")
    assert settings.data.annotations == "https://h/x.tar" and settings.data.source == "webdataset"
    assert addresses.typed("https://h/x.tar") == "https://a:b@h/x.tar?k=v"
    assert addresses.typed("s3://b/p/config.json") and addresses.typed("s3://b/run/results.json")
    typed = ["--data.annotations", "https://a:b@h/y.tar?k=v", "--config", str(recipe)]
    parse_settings([*typed[2:], *typed[:2]], "train", "")
    assert addresses.typed("https://h/y.tar") == "https://a:b@h/y.tar?k=v"


def test_local_commands_do_not_import_fsspec():
    files = (Path(addresses.__file__).parent).rglob("*.py")
    assert not [path for path in files if re.search("^(import|from) fsspec", path.read_text(), re.MULTILINE)]


def test_an_address_in_a_caption_file_is_a_missing_image(tmp_path):
    fsspec.filesystem("memory").pipe_file("/b/captions.csv", b"image,caption\nmemory://b/cat.png,a cat\n")
    fsspec.filesystem("memory").pipe_file("/b/cat.png", b"")
    (tmp_path / "photos").mkdir()
    settings = DataSettings(annotations=addresses.allow("memory://b/captions.csv"), images=str(tmp_path / "photos"))
    with pytest.raises(UserError, match="missing image"):
        read(settings, progress=False)


@pytest.mark.parametrize(
    ("main", "argv", "wanted"),
    [
        (pack.main, ["--output", "s3://b/x"], "--output: an address takes no such output; name a local folder"),
        (check.main, ["--data.source", "shapes", "--page", "s3://b/x"], "--page: an address takes no such output"),
        (check.main, ["--data.source", "shapes", "--output", "s3://b/x"], "--output: an address takes no such output"),
        (evaluate.main, ["--run", "memory://b/none"], "memory://b/none: nothing is there"),
        (train.main, ["--train.run_dir", "s3://b/x"], "train.run_dir: .* is an address; name a local file or folder"),
        (train.main, ["--train.sync_to", "https://h/x"], "train.sync_to: https://h/x: a web server takes no files"),
        (embed.main, ["--run", "r", "--images", "memory://b/x.csv", "--output", "y"], "nothing is there"),
        (search.main, ["--index", "memory://b/x", "a"], "memory://b/x: nothing is there"),
        (train.main, ["--data.annotations", "memory://b/x"], "memory://b/x: nothing is there"),
    ],
)
def test_mistakes_are_one_line(main, argv, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=wanted) as refused:
        main(argv)
    assert "\n" not in str(refused.value)
