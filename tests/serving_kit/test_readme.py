"""What the kit's README tells people to type is typed here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

KIT = Path(__file__).resolve().parents[2] / "export"
TEXT = (KIT / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8501"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


LINES = [line for block in blocks("sh") for line in block.splitlines()]
CURLS = [line for line in LINES if "curl" in line]


@pytest.fixture
def folder(tmp_path):
    """A folder as a reader has it: the kit and two photos."""
    shutil.copytree(KIT, tmp_path / "export", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("photo.jpg", "photo.png"):
        Image.new("RGB", (400, 300), (250, 3, 3)).save(tmp_path / name)
    return tmp_path


def type_in(line, server, folder):
    command = line.replace(ADDRESS, server.url).replace("python ", f"{sys.executable} ")
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl on the PATH")
@pytest.mark.parametrize("line", CURLS, ids=[line[-70:] for line in CURLS])
def test_curl_lines(server, folder, line):
    assert ADDRESS in line
    done = type_in(line, server, folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    expected = {":predict": ["predictions", "outputs"], "/metadata": ["metadata"]}
    wanted = next((keys for end, keys in expected.items() if line.endswith(end)), ["model_version_status"])
    (key,) = answer.keys() & set(wanted)
    if "retrieval" in line:
        assert answer[key]["captions"][0]
    elif key == "predictions":
        assert all(len(vector) == 3 for vector in answer[key])


def test_there_are_curl_lines_for_every_call():
    told = " ".join(CURLS)
    for call in ("text_tower:predict", "image_tower:predict", "labels/", "versions/", "metadata", "retrieval:predict"):
        assert call in told


def test_the_path_from_run_to_answer_has_five_commands():
    first = blocks("sh")[0].splitlines()
    assert [line.split()[0] for line in first] == ["python", "python", "python", "curl", "python"]
    done = [re.search(r"-m vse_tf\.(\w+)", line) for line in first[:3]]
    assert [found[1] for found in done] == ["train", "export", "serve"]


def test_the_clients_line(server, folder):
    (line,) = [line for line in LINES if "export/client.py" in line and "compare" in line]
    done = type_in(line.replace("export/client.py", f"export/client.py --url {server.url}"), server, folder)
    assert done.returncode == 0, done.stderr
    assert [json.loads(each).keys() for each in done.stdout.splitlines()] == [{"text", "score"}] * 2


def test_the_clients_code(server, folder):
    (code,) = blocks("python")
    (folder / "export" / "use.py").write_text(code.replace(ADDRESS, server.url).replace("photo.jpg", "../photo.jpg"))
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=folder / "export", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["a", "dog"], ["a", "cat"]]


def test_named_files_are_there():
    for name in re.findall(r"`(\w+\.(?:yaml|config|conf|pbtxt|py))`", TEXT):
        assert (KIT / name).is_file()
    for line in LINES:
        for path in re.findall(r"export/[\w.]+", line):
            assert (KIT.parent / path).exists()
