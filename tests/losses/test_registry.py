"""The registry: what settings need to know of the losses without TensorFlow, against the losses themselves."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from vse_tf import losses
from vse_tf.config import LossSettings
from vse_tf.losses.registry import LOSSES


def test_registry_and_settings_import_no_tensorflow() -> None:
    code = (
        "import sys, vse_tf.losses.registry, vse_tf.settings_parser; print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", LOSSES)
def test_an_entry_describes_its_loss(name: str) -> None:
    entry, loss = LOSSES[name], losses.import_losses()[name]
    assert issubclass(loss, losses.PairLoss)
    assert loss.__name__ == entry.class_name and loss is getattr(losses, entry.class_name)
    assert getattr(losses, entry.function).__module__ == f"vse_tf.losses.{entry.module}"
    assert ("temperature" in inspect.signature(loss).parameters) == (entry.temperature != "none")
    for key in entry.settings:
        assert hasattr(LossSettings(), key)
        # A schedule of the hardness comes from the setting; the class takes the hardness itself.
        assert key.removesuffix("_epochs") in inspect.signature(loss).parameters


def test_all_public_names_can_be_imported() -> None:
    for name in losses.__all__:
        assert getattr(losses, name) is not None
    assert not hasattr(losses, "convs")
