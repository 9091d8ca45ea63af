"""What a store knows of its index: as it was written, and as earlier versions wrote it."""

import json

from vse_tf.artifacts.calibration import STEPS, Calibration
from vse_tf.stores.about import About

ABOUT = About("images", 4, 4, 3, {"id": "x"}, Calibration(None, {"captions": [i / 100 for i in range(STEPS)]}), True)


def test_it_is_read_as_it_was_written():
    assert About.of_json(ABOUT.to_json(), "a store") == ABOUT


def test_of_the_earlier_definition_there_is_no_relevance():
    values = json.loads(ABOUT.to_json())
    levels = values.pop("levels")
    earlier = json.dumps({**values, "calibration": {"levels": levels, "texts": None}, "own": "AAAAAA=="})
    found = About.of_json(earlier, "a store")
    assert found.calibration is None and found.count == 3
