"""The model card of a run: its figures, its limits, and the licence that somebody has filled in."""

from __future__ import annotations

import json
import re

from tests.tiny import tiny_settings
from vse_tf import export
from vse_tf.artifacts.model_card import LICENCE, CardData, model_card
from vse_tf.artifacts.run_folder import RunFolder

DATA = CardData({"train": (64, 320), "val": (20, 100)}, words=31)


def test_a_trained_run_has_a_card_with_its_figures(corrected_run):
    run = RunFolder(corrected_run)
    card, results = run.read_card(), json.loads(run.results.read_text())
    for key, name in (("", "val"), ("_corrected", "val, corrected")):
        metrics = results[f"galleries{key}"]["val"]
        low, high = results[f"intervals{key}"]["val"]["t2i_r5"]
        line = next(line for line in card.partition("## Figures")[2].splitlines() if line.startswith(f"| {name} |"))
        assert f"{metrics['t2i_r5']:.1f} ({low:.1f} to {high:.1f})" in line
    assert "| train | 64 | 320 |" in card
    assert f"- Licence: {LICENCE}" in card
    assert "Small galleries (val, test, hard)" in card
    assert re.search(r"Its vocabulary has \d+ words, those seen 1 times or more", card)
    assert "/" not in re.search(r"Source: (.*)\)", card)[1]
    assert str(corrected_run.parent) not in card


def test_a_licence_that_was_filled_in_stays(corrected_run, tmp_path):
    run = RunFolder(corrected_run)
    results, settings = run.read_results(), tiny_settings(tmp_path)
    first = model_card("a_b<c>", settings, results, DATA)
    assert first.startswith("# Model card: a\\_b\\<c\\>\n")
    edited = first.replace(LICENCE, "CC BY 4.0")
    assert "- Licence: CC BY 4.0\n" in model_card("a", settings, results, DATA, edited)
    # Results of earlier versions have no intervals.
    for key in ("intervals", "intervals_corrected"):
        results.pop(key)
    assert " to " not in model_card("a", settings, results, DATA).partition("| split | i2t")[2].partition("##")[0]


def test_export_copies_the_card(tiny_run, tiny_models):
    card = RunFolder(tiny_run).read_card()
    assert card
    for name in ("image_tower", "text_tower"):
        (folder,) = (path for path in (tiny_models / name).iterdir() if path.is_dir())
        assert (folder / "model_card.md").read_text() == card


def test_a_card_that_is_a_link_is_not_followed(tmp_path, capsys):
    (tmp_path / "secret").write_text("secret")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.card.symlink_to(tmp_path / "secret")
    assert run.read_card() == ""
    export._copy_card(str(run.path), tmp_path)
    assert not (tmp_path / "model_card.md").exists()
