"""Runs, shards, indexes and models in a bucket of an S3 server, with faults in front of it."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import pytest

from tests.tiny import arguments, rows_of
from vse_tf import addresses, embed, export, search, train
from vse_tf.artifacts import manifest
from vse_tf.cache import cache_folder
from vse_tf.config import DataSettings, to_dict
from vse_tf.data.sources import read
from vse_tf.errors import UserError
from vse_tf.remote import copies, filesystem
from vse_tf.settings_parser import parse_settings

pytestmark = pytest.mark.extras


@pytest.mark.parametrize("fault", ["cut", "503", "slow"])
def test_a_fault_that_passes_is_not_noticed(bucket, monkeypatch, fault):
    monkeypatch.setattr(filesystem, "CHUNK", 1000)
    contents = os.urandom(3500)
    bucket.put("x/a.bin", contents)
    seen = []

    def faults(method, path, number):
        if method == "GET" and path.endswith("a.bin") and number % 3 == 0:
            seen.append(fault)
            return fault
        return None

    bucket.faults = faults
    assert copies.local_file(addresses.allow("s3://photos/x/a.bin")).read_bytes() == contents
    assert seen


def test_an_object_that_is_replaced_is_read_again(bucket, monkeypatch):
    monkeypatch.setattr(filesystem, "CHUNK", 1000)
    old, new = os.urandom(3500), os.urandom(3500)
    bucket.put("x/a.bin", old)
    done = []

    def faults(method, path, number):
        if method == "GET" and path.endswith("a.bin") and not done:
            done.append(number)
            return lambda: bucket.put("x/a.bin", new)
        return None

    bucket.faults = faults
    assert copies.local_file(addresses.allow("s3://photos/x/a.bin")).read_bytes() == new
    assert done


def test_a_server_that_stays_ill_is_one_line(bucket, monkeypatch):
    monkeypatch.setattr(filesystem, "TRIES", 1)
    bucket.put("x/a.bin", b"abc")
    bucket.faults = lambda method, path, number: "503"
    with pytest.raises(UserError, match=r"s3://photos/x/a\.bin: cannot be read: ") as failed:
        copies.local_file(addresses.allow("s3://photos/x/a.bin"))
    assert "\n" not in str(failed.value) and "the-secret" not in str(failed.value)


def test_no_credentials_is_one_line(bucket, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"AWS_ENDPOINT_URL": bucket.url, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "vse_tf.search", "--index", "s3://photos/x", "a dog"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "no credentials were found" in errors[0]
    assert "Traceback" not in done.stderr


def test_without_the_extra_its_name_is_in_the_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    monkeypatch.setattr(addresses, "_typed", {})
    with pytest.raises(UserError, match=r"s3:// needs the extra: pip install 'vse_tf\[remote\]'"):
        filesystem.opened(addresses.allow("s3://photos/x"))


@pytest.fixture
def web(tmp_path):
    """A web server that wants a password and a token, and tells neither ranges nor ETags."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def send_head(self):
            wanted = "Basic " + base64.b64encode(b"ann:secret").decode()
            if self.headers.get("Authorization") != wanted or "token=xyz123" not in self.path:
                self.send_error(403)
                return None
            return super().send_head()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_caption_file_of_a_web_server(bucket, web, tmp_path, noise_images, capsys):
    names = [f"{number:02}.png,a photo of noise {number}" for number in range(12)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *names]) + "\n")
    typed = f"http://ann:secret@{web}/captions.csv?token=xyz123"
    settings = parse_settings(["--data.annotations", typed, "--data.images", str(noise_images)], "train", "")
    assert sum(map(len, read(settings.data).splits.values())) == 12
    with pytest.raises(UserError, match="access denied") as refused:
        copies.local_file(addresses.allow(f"http://ann:wrong@{web}/captions.csv?token=abc999"))
    shown = capsys.readouterr()
    everything = f"{to_dict(settings)} {shown.out} {shown.err} {refused.value}"
    everything += "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    assert not [secret for secret in ("secret", "xyz123", "abc999", "wrong") if secret in everything]


def test_shards_are_read_from_the_bucket_when_the_cache_is_empty(bucket, packed):
    bucket.put_folder(packed, "shards")
    settings = DataSettings(annotations=addresses.allow("s3://photos/shards"))
    remote = read(settings, progress=False).splits["train"]
    wanted = read(DataSettings(annotations=str(packed)), progress=False).splits["train"]
    for path in (cache_folder(settings) / "shards").glob("*/*"):
        path.unlink()
    assert [remote.images.read(row) for row in range(8)] == [wanted.images.read(row) for row in range(8)]


def test_a_run_goes_on_on_another_machine(bucket, packed, tmp_path, capsys):
    bucket.put_folder(packed, "shards")
    own = {"data__annotations": "s3://photos/shards", "image__encoder": "cnn", "train__schedule": "constant"}
    own |= {
        "data__source": "webdataset",
        "train__warmup_epochs": 0.5,
        "text__min_count": 1,
        "image__size": 16,
        "image__resize": 16,
    }

    def settings(folder, **changed):
        given = arguments(folder, **own, **changed)
        pairs = zip(given[::2], given[1::2], strict=True)
        return [part for pair in pairs if not pair[0].startswith("--data.shapes") for part in pair]

    whole, first, second = (tmp_path / name / "run" for name in ("whole", "first", "second"))
    train.main(settings(whole, train__epochs=2))
    sync = ["--train.sync_to", "s3://photos/copy"]
    train.main([*settings(first, train__epochs=1), *sync])
    assert "s3://photos/shards" in (first / "config.yaml").read_text()
    train.main([*settings(second, train__epochs=2), *sync])
    assert "the run is taken from there" in capsys.readouterr().out
    assert rows_of(second) == rows_of(whole)
    last = json.loads((whole / "checkpoints/pointer.json").read_text())["last"]
    state = (whole / f"checkpoints/{last}/state.h5").read_bytes()
    assert (second / f"checkpoints/{last}/state.h5").read_bytes() == state
    assert bucket.get(f"copy/checkpoints/{last}/state.h5") == state
    train.main([*settings(tmp_path / "third" / "run", train__epochs=2), *sync])
    assert "already finished" in capsys.readouterr().out


@pytest.mark.usefixtures("loaded_once")
def test_a_collection_becomes_an_index(bucket, packed, tiny_run, tmp_path, capsys):
    bucket.put_folder(packed, "shards")
    bucket.put_folder(tiny_run, "run")
    command = ["--run", "s3://photos/run", "--images", "s3://photos/shards", "--output", "s3://photos/scenes.index"]
    embed.main(command)
    made = bucket.folder("scenes.index")
    described = json.loads(made["manifest.json"])
    assert described["root"] is None and described["root_name"] == "shards" and "path" not in described["model"]
    assert described["items"]["name"] in made and "items.jsonl" not in made
    puts = [path.partition("?")[0] for method, path in bucket.requests if method == "PUT" and "scenes.index/" in path]
    assert puts[-1].endswith("manifest.json")
    written = [path for path in puts if "/.vse_tf-" not in path]
    assert len(written) == len(set(written))
    local = tmp_path / "local.index"
    embed.main(["--run", str(tiny_run), "--images", str(packed), "--output", str(local)])
    (shard,) = json.loads((local / "manifest.json").read_text())["shards"]
    assert made[shard["name"]] == (local / shard["name"]).read_bytes()
    capsys.readouterr()
    embed.main(command)
    assert "0 new, 0 changed, 0 deleted" in capsys.readouterr().out
    assert bucket.folder("scenes.index") == made
    search.main(["--index", "s3://photos/scenes.index", "--run", "s3://photos/run", "a red circle", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 10


def test_models_appear_whole(bucket, tiny_run, tmp_path):
    for number in (1, 2):
        bucket.requests.clear()
        export.main(["--run", str(tiny_run), "--output", "s3://photos/models"])
        puts = [
            path.partition("?")[0] for method, path in bucket.requests if method == "PUT" and ".vse_tf-" not in path
        ]
        names = [path.rpartition("/")[2] for path in puts]
        assert names[-4:] == ["saved_model.pb", "saved_model.pb", "manifest.json", "manifest.json"]
        assert all(f"/{number}/" in path for path in puts) and len(puts) == len(set(puts))
    bucket_models = bucket.folder("models")
    for name, contents in bucket_models.items():
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name).write_bytes(contents)
    for folder in (tmp_path / "models").glob("*/2"):
        manifest.verify(folder)
