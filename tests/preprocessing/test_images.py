"""Views against Pillow's resize and torchvision's rules, the seeds of random ones, and the exported graph."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.warm_python import warm_python
from vse_tf.errors import UserError
from vse_tf.preprocessing import images

LIMIT = 1_000_000
STRING, SEED = tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32)


@tf.function(input_signature=[STRING])
def centre(contents: tf.Tensor) -> tf.Tensor:
    return images.decode_centre_view(contents, LIMIT, (32, 24))


@tf.function(input_signature=[STRING, SEED])
def random(contents: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return images.decode_random_view(contents, LIMIT, (32, 24), (0.08, 1.0), True, seed)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def draw_image(width: int = 61, height: int = 43, seed: int = 0) -> Image.Image:
    """Smooth colours with some grain, so that chroma and filters matter."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-9, 10, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8))


def torchvision_centre(image: Image.Image, size: tuple[int, int], resize: int) -> np.ndarray:
    """Resize(resize) and CenterCrop(size) as torchvision writes them, on Pillow's antialiased bilinear filter."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    long = int(resize * long / short)
    width, height = (resize, long) if width <= height else (long, resize)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - size[0]) / 2.0), round((width - size[1]) / 2.0)
    return np.asarray(image).astype(np.float64)[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("shape", [(640, 480), (101, 333), (224, 224), (60, 47), (7, 900), (900, 7), (3, 2), (1, 1)])
@pytest.mark.parametrize(("size", "resize"), [((224, 224), None), ((32, 32), 33), ((32, 48), 61), ((50, 20), 50)])
def test_centre_view_is_torchvisions(shape: tuple[int, int], size: tuple[int, int], resize: int | None) -> None:
    image = draw_image(*shape)
    got = images.centre_view(np.asarray(image), size, resize).numpy()
    want = torchvision_centre(image, size, resize or 256)
    assert got.dtype == np.float32
    assert got.shape == want.shape == (*size, 3)
    assert 0 <= got.min() <= got.max() <= 255
    # Pillow rounds to integer levels after each of its two passes.
    assert np.abs(got - want).max() <= 1.1


def test_centre_view_is_a_window_of_the_whole_resized_image() -> None:
    image = np.asarray(draw_image(300, 200))
    resized = tf.image.resize(image, (48, 72), antialias=True).numpy()
    assert np.abs(images.centre_view(image, (40, 40), 48).numpy() - resized[4:44, 16:56]).max() < 0.01


def test_centre_view_of_an_endless_strip_needs_little_memory() -> None:
    strip = np.zeros((1, 3_000_000, 3), np.uint8)
    strip[:, 1_500_000:] = 200
    view = images.centre_view(strip, (64, 64), 64).numpy()
    # One pixel becomes 64, so the step is a ramp over the complete view.
    assert np.allclose(view, (200 * (np.arange(64) + 0.5) / 64)[None, :, None], atol=0.01)


def test_nothing_to_resize_leaves_the_pixels_exactly() -> None:
    image = np.asarray(draw_image(48, 48))
    assert np.array_equal(images.centre_view(image, (48, 48), 48).numpy(), image)
    wide = np.asarray(draw_image(71, 48))
    assert np.array_equal(images.centre_view(wide, (40, 48), 48).numpy(), wide[4:44, 12:60])
    assert np.array_equal(images.random_view(image, (48, 48), (1.0, 1.0), (1.0, 1.0), seed=[1, 2]).numpy(), image)


def test_default_resize_and_its_check() -> None:
    assert [images.default_resize(size) for size in ((224, 224), (48, 48), (224, 112), (1, 1))] == [256, 55, 256, 1]
    with pytest.raises(UserError, match=r"image\.resize 100 is smaller than image\.size 224"):
        images.centre_view(np.zeros((9, 9, 3), np.uint8), (224, 64), 100)


def torchvision_windows(height: int, width: int, scale: tuple[float, float], count: int) -> np.ndarray:
    """RandomResizedCrop.get_params as torchvision writes it, `(count, 4)`: top, left, height, width."""
    rng = np.random.default_rng(3)
    ratio, windows = (3 / 4, 4 / 3), []
    for _ in range(count):
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                break
        else:
            h, w = height, width
            if width / height < ratio[0]:
                h = round(w / ratio[0])
            elif width / height > ratio[1]:
                w = round(h * ratio[1])
            top, left = (height - h) // 2, (width - w) // 2
        windows.append((top, left, h, w))
    return np.array(windows)


@tf.function
def windows_in_graph(
    height: tf.Tensor, width: tf.Tensor, low: tf.Tensor, high: tf.Tensor, count: tf.Tensor
) -> tf.Tensor:
    return tf.map_fn(
        lambda i: images.random_window(height, width, (low, high), seed=tf.stack([17, i])),
        tf.range(count),
        fn_output_signature=tf.TensorSpec([4], tf.int32),
        parallel_iterations=1,
    )


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (480, 640, (0.08, 1.0)),
        (640, 480, (0.5, 1.0)),
        (100, 310, (0.08, 1.0)),
        (310, 100, (0.3, 0.9)),
        (3, 2, (0.08, 1.0)),
    ],
)
def test_random_windows_are_distributed_as_torchvisions(height: int, width: int, scale: tuple[float, float]) -> None:
    count = 1500
    got = windows_in_graph(height, width, *map(tf.constant, scale), count).numpy().astype(float)
    want = torchvision_windows(height, width, scale, 6000).astype(float)
    assert (got[:, :2] >= 0).all()
    assert (got[:, 2:] >= 1).all()
    assert (got[:, :2] + got[:, 2:] <= [height, width]).all()
    # Quantiles of area, aspect and centre (as shares) agree up to the sampling error of 1500 draws.
    for measure in (
        lambda w: w[:, 2] * w[:, 3] / (height * width),
        lambda w: np.log(w[:, 3] / w[:, 2]),
        lambda w: (w[:, 0] + w[:, 2] / 2) / height,
        lambda w: (w[:, 1] + w[:, 3] / 2) / width,
        lambda w: (w[:, 0] + w[:, 2] / 2) / height - (w[:, 1] + w[:, 3] / 2) / width,
    ):
        pooled = np.sort(np.concatenate([measure(got), measure(want)]))
        below = [np.searchsorted(np.sort(measure(w)) - 1e-9, pooled, "right") / len(w) for w in (got, want)]
        # Kolmogorov-Smirnov distance; 0.059 is its 0.1 % point for these counts.
        assert np.abs(below[0] - below[1]).max() < 0.059
    if height > 50:
        assert (got[:, 2] * got[:, 3] >= scale[0] * height * width * 0.97).all()
        assert (np.abs(np.log(got[:, 3] / got[:, 2])) <= math.log(4 / 3) + 0.05).all()


def test_fallback_window_is_the_largest_centred_one_of_the_ratio() -> None:
    assert images.random_window(10, 1000, (0.9, 1.0), seed=[0, 0]).numpy().tolist() == [0, 493, 10, 13]
    assert images.random_window(1000, 10, (0.9, 1.0), seed=[0, 0]).numpy().tolist() == [493, 0, 13, 10]
    assert images.random_window(1, 1, (0.08, 1.0), seed=[0, 0]).numpy().tolist() == [0, 0, 1, 1]


def test_random_view_is_its_window_resized() -> None:
    image = draw_image(200, 150)
    for number in range(5):
        seed = [number, 3]
        top, left, height, width = images.random_window(150, 200, (0.2, 1.0), seed=seed).numpy().tolist()
        want = image.crop((left, top, left + width, top + height)).resize((40, 56), Image.Resampling.BILINEAR)
        got = images.random_view(np.asarray(image), (56, 40), (0.2, 1.0), seed=seed).numpy()
        assert got.shape == (56, 40, 3)
        assert np.abs(got - np.asarray(want)).max() <= 1.1


def test_one_seed_is_one_view_in_every_order_of_work() -> None:
    contents = encoded(draw_image(200, 150), "PNG")
    seeds = tf.stack([tf.range(40), tf.range(40) % 7], 1)

    def views(parallel: int) -> np.ndarray:
        stream = tf.data.Dataset.from_tensor_slices(seeds).map(
            lambda seed: random(contents, seed), num_parallel_calls=parallel
        )
        return np.stack(list(stream.as_numpy_iterator()))

    first = views(1)
    assert np.array_equal(first, views(4))
    assert len({view.tobytes() for view in first}) == 40
    alone = images.random_view(np.asarray(draw_image(200, 150)), (32, 24), (0.08, 1.0), seed=seeds[9], flip=True)
    assert np.array_equal(alone.numpy(), first[9])


def test_flip_mirrors_half_of_the_views() -> None:
    image = np.asarray(draw_image(30, 20))

    @tf.function
    def view(seed: tf.Tensor, flip: bool) -> tf.Tensor:
        return images.random_view(image, (16, 16), (0.3, 1.0), seed=seed, flip=flip)

    mirrored = 0
    for number in range(120):
        seed = tf.constant([number, 5])
        plain, flipped = view(seed, False).numpy(), view(seed, True).numpy()
        assert np.array_equal(flipped, plain) != np.array_equal(flipped, plain[:, ::-1])
        mirrored += np.array_equal(flipped, plain[:, ::-1])
    assert 40 <= mirrored <= 80


def test_random_view_of_a_jpeg_decodes_the_same_window() -> None:
    image = draw_image(200, 150)
    upright = encoded(image, "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image, "JPEG", quality=95, exif=exif)
    for number in range(6):
        seed = [number, 1]
        for contents, limit in ((upright, 45), (turned, 0)):
            want = images.random_view(
                images.decode(contents, LIMIT), (32, 24), (0.08, 1.0), seed=seed, flip=True
            ).numpy()
            got = random(contents, tf.constant(seed)).numpy()
            assert np.abs(got - want).max() <= limit
            assert np.abs(got - want).mean() < 1.5


def test_views_take_any_number_type_and_have_static_shapes() -> None:
    image = np.asarray(draw_image(30, 20))
    for kind in (np.uint8, np.float32, np.float64):
        assert np.allclose(images.centre_view(image.astype(kind), (16, 16)), images.centre_view(image, (16, 16)))
    for view in (centre, random):
        assert view.get_concrete_function().output_shapes == (32, 24, 3)


LOAD = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
files = [open(path, "rb").read() for path in sys.argv[2:]]
views = model.views(tf.constant(files))
assert not [name for name in sys.modules if name.split(".")[0] == "vse_tf"]
open(sys.argv[1] + ".npy", "wb").write(tf.io.serialize_tensor(views).numpy())
try:
    model.views(tf.constant([b"no image"]))
except tf.errors.InvalidArgumentError as error:
    print(json.dumps(error.message))
"""


def test_exported_graph_gives_the_same_bytes_in_plain_tensorflow(tmp_path: Path) -> None:
    class Views(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def views(self, contents: tf.Tensor) -> tf.Tensor:
            return tf.map_fn(centre, contents, fn_output_signature=tf.TensorSpec([32, 24, 3], tf.float32))

    exif = Image.Exif()
    exif[0x0112] = 6
    chosen = [encoded(draw_image(), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")]
    chosen += [encoded(draw_image(), "JPEG", exif=exif), encoded(draw_image().convert("CMYK"), "JPEG")]
    paths = [tmp_path / str(number) for number in range(len(chosen))]
    for path, contents in zip(paths, chosen, strict=True):
        path.write_bytes(contents)
    module = Views()
    tf.saved_model.save(module, str(tmp_path / "saved"))
    command = [*warm_python(), "-c", LOAD, str(tmp_path / "saved"), *map(str, paths)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not a JPEG, PNG, GIF, BMP or WebP image" in json.loads(done.stdout)
    there = tf.io.parse_tensor((tmp_path / "saved.npy").read_bytes(), tf.float32)
    here = [centre(contents) for contents in chosen]
    assert np.array_equal(there, np.stack(here))


@pytest.mark.skipif("VSE_TF_FLICKR8K" not in os.environ, reason="VSE_TF_FLICKR8K names no folder of images")
def test_real_photos_decode_as_pillow_does() -> None:
    paths = sorted(Path(os.environ["VSE_TF_FLICKR8K"], "images").iterdir())[::700]
    assert paths
    for path in paths:
        contents, photograph = path.read_bytes(), Image.open(path).convert("RGB")
        assert np.array_equal(images.decode(contents, LIMIT), photograph)
        want = torchvision_centre(photograph, (224, 224), 256)
        assert np.abs(images.decode_centre_view(contents, LIMIT, (224, 224)).numpy() - want).max() <= 1.1
