"""What is written about a result's origin."""

from tests.serving.runs import write_run
from vse_tf.artifacts.provenance import provenance_of_run, without_folders
from vse_tf.artifacts.run_folder import RunFolder


def test_settings_are_handed_on_without_folders():
    settings = {
        "data": {"annotations": ["/home/me/a.csv", "b.csv"], "images": None, "tfds": {"data_dir": "/srv/sets"}},
        "image": {"encoder": "hub:/home/me/preset", "weights": "imagenet", "size": 224},
        "text": {"encoder": "hub:bert_tiny_en_uncased"},
    }
    assert without_folders(settings) == {
        "data": {"annotations": ["a.csv", "b.csv"], "images": None, "tfds": {"data_dir": "sets"}},
        "image": {"encoder": "hub:preset", "weights": "imagenet", "size": 224},
        "text": {"encoder": "hub:bert_tiny_en_uncased"},
    }


def test_an_exports_facts_name_no_folder(tmp_path):
    run = write_run(tmp_path / "run", data__cache_dir=str(tmp_path / "cache"))
    facts = provenance_of_run(RunFolder(run), "best")
    assert facts["settings"]["data"]["cache_dir"] == "cache"
    assert str(tmp_path) not in str(facts)
