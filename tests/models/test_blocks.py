"""Blocks of backbones from the input to the output: those that a cut counts, with and without a cut."""

import keras
import numpy as np
import pytest

from tests.models import test_backbone_tail as cut_tests
from tests.models.test_backbone_tail import CASES, built, matching
from vse_tf.models.blocks import blocks_of
from vse_tf.models.hub_backbones import hub_image_backbone, hub_text_backbone

presets, padding_token = cut_tests.presets, cut_tests.padding_token


@pytest.mark.parametrize("case", CASES)
def test_the_last_blocks_are_those_of_a_cut(presets, case):
    count = CASES[case][1]
    whole, (cut, _) = blocks_of(built(presets, case, True)[0]), built(presets, case, count)
    tail = blocks_of(cut.tail)
    assert len(tail) == count
    for mine, theirs in zip(tail, whole[-count:], strict=True):
        expected = {id(variable) for variable in theirs}
        assert {id(matching(variable, theirs)) for variable in mine} == expected


@pytest.mark.parametrize("case", [*CASES, "vit", "albert"])
def test_every_weight_is_in_a_block(presets, case):
    if case == "vit":
        backbone = hub_image_backbone(presets["vit"], cut_tests.SIZE, True, "float32")
    elif case == "albert":
        backbone = hub_text_backbone(presets["albert"], 12, True, "float32")
    else:
        backbone = built(presets, case, True)[0]
    blocks = blocks_of(backbone)
    found = {id(variable) for block in blocks for variable in block}
    assert found >= {id(variable) for variable in backbone.trainable_variables}
    assert all(any(len(variable.shape) > 1 for variable in block) for block in blocks)


def test_the_layers_of_a_transformer_are_blocks_in_their_order(presets):
    paths = [[variable.path for variable in block] for block in blocks_of(built(presets, "bert", True)[0])]
    layers = [next((word for word in path.split("/") if word.startswith("transformer")), "") for path, *_ in paths]
    # The embedding of words, then that of positions and segments with its norm.
    assert layers == ["", "", *(f"transformer_layer_{number}" for number in range(4))]
    assert any("layer_norm" in path for path in paths[1])
    vit = blocks_of(hub_image_backbone(presets["vit"], cut_tests.SIZE, True, "float32"))
    # Patches and positions, then three layers; the last norm belongs to the last of them.
    assert len(vit) == 4
    assert len(vit[3]) == len(vit[2]) + 2


def test_shortcuts_and_branches_do_not_end_a_block():
    x = inputs = keras.Input([4])
    for number in range(3):
        y = keras.layers.Dense(4, name=f"first_{number}")(x)
        y = keras.layers.Dense(4, name=f"second_{number}")(y)
        x = keras.layers.Add()([x, y])
    # Without anything behind it, the last sum belongs to the last block too.
    assert [len(block) for block in blocks_of(keras.Model(inputs, keras.layers.ReLU()(x)))] == [4, 4, 4]
    outer = keras.Model(inputs, keras.layers.BatchNormalization(name="last")(x))
    names = [[variable.path.split("/")[0] for variable in block] for block in blocks_of(outer)]
    assert [sorted(set(block)) for block in names] == [
        ["first_0", "second_0"],
        ["first_1", "second_1"],
        ["first_2", "last", "second_2"],
    ]
    assert np.sum([len(block) for block in names]) == len(outer.weights)
