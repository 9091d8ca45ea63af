"""The names that the package declares: there, imported when first used, and none of them a command's."""

import json
import subprocess
import sys
from pathlib import Path

import vse_tf
from vse_tf.losses.registry import LOSSES


def test_every_declared_name_is_there():
    assert all(callable(getattr(vse_tf, name)) for name in vse_tf.__all__)
    assert set(vse_tf.__all__) - {"fit", "interpolate", "load"} == set(vse_tf._MODULES)
    assert {loss.class_name for loss in LOSSES.values()} < set(vse_tf.__all__)


def test_no_declared_name_is_that_of_a_command():
    commands = {
        path.stem for path in Path(vse_tf.__file__).parent.glob("*.py") if "run_command(main)" in path.read_text()
    }
    assert {"check", "train", "evaluate", "export", "embed", "search", "serve"} <= commands
    assert not commands & set(vse_tf.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(vse_tf, "no_such_name")


def test_importing_the_package_imports_no_tensorflow():
    code = "import sys, json, vse_tf, vse_tf.losses; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"tensorflow", "keras", "keras_hub"} & set(loaded)


def test_recalls_take_the_image_of_each_caption():
    image = [[1.0, 0.0], [0.0, 1.0]]
    assert vse_tf.recalls(image, image, image_id=[0, 1])["rsum"] == 600
    assert vse_tf.recalls(image, image, [1, 0], folds=1)["t2i_r1"] == 0
