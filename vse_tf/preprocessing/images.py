"""Encoded or decoded images to model input, the same in `tf.data`, in notebooks and in exported graphs.

All functions take one image, work eagerly, inside `tf.data` and inside `tf.function`. In a graph they use core
TensorFlow operations only, so that a SavedModel made with them needs nothing of this package.

An image is decoded in two steps: its header is checked, then it is decoded with what the header says, its layout; see
`image_checks`. Graphs that stay in this process are given the layout: `decode_checked`, `random_view_checked`.
"""

from __future__ import annotations

import math

import tensorflow as tf

from vse_tf.errors import UserError
from vse_tf.preprocessing.graph_bytes import cut, without_autograph
from vse_tf.preprocessing.image_checks import checked
from vse_tf.preprocessing.image_formats import Layout, stored_pixels
from vse_tf.preprocessing.image_limits import FORMATS

PIXELS_VERSION = 1
"""Raise it when `decode`, `centre_view` or `random_view` give other pixels than before: cached features of them are
then computed again. After that run `python -m tests.preprocessing.pixels`."""

JPEG = FORMATS.index("jpeg")
Size = tuple[int, int]
Pair = tuple[float, float]


@without_autograph
def decode(contents: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Decode an image file the way a viewer shows it.

    EXIF orientation is applied, transparent pixels are put on white, grey and CMYK become RGB, 16 bits per channel are
    reduced to the upper 8, and the first frame of a GIF or an animated PNG is taken. JPEGs are decoded with the
    accurate integer transform and interpolated chroma, so the pixels are those of other libjpeg users.

    Args:
        contents: string scalar, the bytes of a JPEG, PNG, GIF, BMP or still WebP file.
        max_pixels: images with more pixels, according to their header, are not decoded.

    Returns:
        uint8 `(height, width, 3)`.

    Raises:
        tf.errors.InvalidArgumentError: not an image, broken or truncated, an animated WebP, a compressed or palette
            BMP below 8 bits, or too many pixels; the message says which.

    Example:
        >>> decode(tf.io.read_file("cat.jpg"), max_pixels=100_000_000).shape
        TensorShape([480, 640, 3])
    """
    return decode_checked(*checked(contents, max_pixels))


@without_autograph
def decode_checked(contents: tf.Tensor, layout: tf.Tensor) -> tf.Tensor:
    """`decode` for an image whose header was checked.

    Args:
        contents: string scalar, the file's bytes.
        layout: int64 `(9,)`, of `checked` or of `image_headers.checked_header`.

    Returns:
        uint8 `(height, width, 3)`.

    Raises:
        tf.errors.InvalidArgumentError: the pixels are broken or truncated.

    Example:
        >>> contents = Path("cat.jpg").read_bytes()
        >>> decode_checked(contents, checked_header(contents, 100_000_000).layout).shape
        TensorShape([480, 640, 3])
    """
    layout = tf.convert_to_tensor(layout, tf.int64)
    _, orientation, end, *_ = Layout.of(layout)
    return _oriented(stored_pixels(cut(contents, 0, end), layout), orientation)


@without_autograph
def decode_centre_view(contents: tf.Tensor, max_pixels: int, size: Size, resize: int | None = None) -> tf.Tensor:
    """`decode`, then `centre_view`: the view of evaluation, caches and exported models.

    Args:
        contents: string scalar, the file's bytes.
        max_pixels: see `decode`.
        size: height and width of the view in pixels.
        resize: see `centre_view`.

    Returns:
        float32 `(*size, 3)` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: as `decode`.

    Example:
        >>> decode_centre_view(tf.io.read_file("cat.jpg"), 100_000_000, (224, 224)).shape
        TensorShape([224, 224, 3])
    """
    return centre_view(decode(contents, max_pixels), size, resize)


@without_autograph
def decode_random_view(
    contents: tf.Tensor, max_pixels: int, size: Size, scale: Pair, flip: bool, seed: tf.Tensor
) -> tf.Tensor:
    """`decode`, then `random_view`: the view of training.

    Of an upright JPEG only the window is decoded. That is faster, but at the border of the window, where chroma is
    interpolated, it differs by some grey levels from decoding the complete image, so it is for training only. A JPEG
    that is truncated below the window goes unnoticed.

    Args:
        contents: string scalar, the file's bytes.
        max_pixels: see `decode`.
        size: height and width of the view in pixels.
        scale: see `random_view`.
        flip: see `random_view`.
        seed: int `(2,)`.

    Returns:
        float32 `(*size, 3)` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: as `decode`.

    Example:
        >>> decode_random_view(tf.io.read_file("cat.jpg"), 100_000_000, (224, 224), (0.08, 1.0), True, [0, 7]).shape
        TensorShape([224, 224, 3])
    """
    return random_view_checked(*checked(contents, max_pixels), size, scale, flip, seed)


@without_autograph
def random_view_checked(
    contents: tf.Tensor, layout: tf.Tensor, size: Size, scale: Pair, flip: bool, seed: tf.Tensor
) -> tf.Tensor:
    """`decode_random_view` for an image whose header was checked.

    Args:
        contents: string scalar, the file's bytes.
        layout: int64 `(9,)`, see `decode_checked`.
        size: height and width of the view in pixels.
        scale: see `random_view`.
        flip: see `random_view`.
        seed: int `(2,)`.

    Returns:
        float32 `(*size, 3)` in 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the pixels are broken or truncated.

    Example:
        >>> contents = Path("cat.jpg").read_bytes()
        >>> layout = checked_header(contents, 100_000_000).layout
        >>> random_view_checked(contents, layout, (224, 224), (0.08, 1.0), True, [0, 7]).shape
        TensorShape([224, 224, 3])
    """
    layout = tf.convert_to_tensor(layout, tf.int64)
    kind, orientation, end, stored_width, stored_height, _ = Layout.of(layout)
    contents = cut(contents, 0, end)
    turned = orientation >= 5
    height = tf.where(turned, stored_width, stored_height)
    width = tf.where(turned, stored_height, stored_width)
    window = random_window(height, width, scale, seed=seed)

    def from_window() -> tf.Tensor:
        return tf.io.decode_and_crop_jpeg(
            contents, window, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE"
        )

    def from_image() -> tf.Tensor:
        return _crop(_oriented(stored_pixels(contents, layout), orientation), window)

    crop = tf.cond((kind == JPEG) & (orientation == 1), from_window, from_image)
    return _flipped(_fitted(crop, size), flip, seed)


@without_autograph
def centre_view(image: tf.Tensor, size: Size, resize: int | None = None) -> tf.Tensor:
    """Resize the shorter side, antialiased and bilinear, then crop the centre.

    Sizes are rounded as torchvision's `Resize` and `CenterCrop` do: the longer side becomes
    `int(resize * longer / shorter)`, the crop starts at `round((side - size) / 2)`, halves to even. Only the crop is
    computed, so a panorama costs no more than a square. If nothing has to be resized, the pixels are not changed.

    Args:
        image: `(height, width, 3)` in 0..255, uint8 or float, any size and aspect.
        size: height and width of the view in pixels.
        resize: the shorter side in pixels before the crop (default: `default_resize(size)`); 0 resizes to the smallest
            image that covers `size`, so an image of that size is not changed.

    Returns:
        float32 `(*size, 3)` in 0..255.

    Raises:
        UserError: `resize` is above 0 and smaller than `size`.

    Example:
        >>> centre_view(image, (224, 224)).shape
        TensorShape([224, 224, 3])
    """
    resize = default_resize(size) if resize is None else resize
    if 0 < resize < max(size):
        raise UserError(f"image.resize {resize} is smaller than image.size {max(size)}; give at least {max(size)}")
    image = tf.convert_to_tensor(image)
    source = tf.shape(image, tf.int64)[:2]
    if resize:
        resized = resize * source // tf.reduce_min(source)
    else:
        # The side that needs the larger factor gets exactly its size.
        height, width = source[0], source[1]
        tall = tf.stack([size[0], size[0] * width // height])
        resized = tf.where(size[0] * width >= size[1] * height, tall, tf.stack([size[1] * height // width, size[1]]))
    spare = resized - tf.constant(size, tf.int64)
    # round(spare / 2), halves to even, in integers.
    start = spare // 2 + (spare % 2) * (spare // 2 % 2)

    def untouched() -> tf.Tensor:
        return tf.cast(_crop(image, tf.concat([start, size], 0)), tf.float32)

    def resample() -> tf.Tensor:
        # Only the source pixels within reach of the filter are used; float64, because panoramas have large numbers.
        ratio = tf.cast(resized, tf.float64) / tf.cast(source, tf.float64)
        first, last = tf.cast(start, tf.float64) / ratio, tf.cast(start + size, tf.float64) / ratio
        reach = tf.maximum(1 / ratio, 1) + 1
        low = tf.cast(tf.maximum(tf.floor(first - reach), 0), tf.int64)
        high = tf.minimum(tf.cast(tf.math.ceil(last + reach), tf.int64), source)
        offset = tf.cast(low, tf.float64) * ratio - tf.cast(start, tf.float64)
        return _resampled(_crop(image, tf.concat([low, high - low], 0)), size, ratio, offset)

    view = tf.cond(tf.reduce_all(resized == source), untouched, resample)
    return tf.ensure_shape(view, [*size, 3])


def default_resize(size: Size) -> int:
    """The shorter side before the centre cut: 256 for 224, in that proportion for any other size."""
    return round(max(size) * 256 / 224)


@without_autograph
def random_view(
    image: tf.Tensor,
    size: Size,
    scale: Pair = (0.08, 1.0),
    ratio: Pair = (3 / 4, 4 / 3),
    *,
    seed: tf.Tensor,
    flip: bool = False,
) -> tf.Tensor:
    """Crop a random window, resize it (antialiased, bilinear), perhaps mirror it: torchvision's `RandomResizedCrop`.

    Args:
        image: `(height, width, 3)` in 0..255, uint8 or float, any size and aspect.
        size: height and width of the view in pixels.
        scale: smallest and largest share of the image's area in the window.
        ratio: smallest and largest width / height of the window.
        seed: int `(2,)`; the same seed gives the same view on every worker.
        flip: mirror left and right with probability one half.

    Returns:
        float32 `(*size, 3)` in 0..255; a window of exactly `size` is not resampled.

    Example:
        >>> random_view(image, (224, 224), seed=[0, 7], flip=True).shape
        TensorShape([224, 224, 3])
    """
    image = tf.convert_to_tensor(image)
    shape = tf.shape(image, tf.int64)
    window = random_window(shape[0], shape[1], scale, ratio, seed=seed)
    return _flipped(_fitted(_crop(image, window), size), flip, seed)


@without_autograph
def random_window(
    height: tf.Tensor, width: tf.Tensor, scale: Pair, ratio: Pair = (3 / 4, 4 / 3), *, seed: tf.Tensor
) -> tf.Tensor:
    """The window of `random_view`: ten tries, then the largest centred one within `ratio`.

    Args:
        height: of the image in pixels, scalar.
        width: of the image in pixels, scalar.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height; tried on a logarithmic scale.
        seed: int `(2,)`.

    Returns:
        int32 `(4,)`: top, left, height, width.

    Example:
        >>> random_window(480, 640, (0.08, 1.0), seed=[0, 7])
        <tf.Tensor: shape=(4,), dtype=int32, numpy=array([ 12,  91, 402, 377], dtype=int32)>
    """
    draws = _draws(seed)
    sides = tf.cast(tf.stack([height, width]), tf.float32)
    area = tf.reduce_prod(sides) * (scale[0] + draws[:10] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + draws[10:20] * (high - low))
    tries = tf.round(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)], 1))
    fits = tf.reduce_all((tries >= 1) & (tries <= sides), 1)
    centred = tf.round(tf.minimum(sides, tf.stack([sides[1] / ratio[0], sides[0] * ratio[1]])))
    last = tf.maximum(tf.minimum(centred, sides), 1)
    # The first try that fits.
    number = tf.reduce_min(tf.where(fits, tf.range(10), 10))
    window = tf.concat([tries, last[None]], 0)[number]
    margin = sides - window
    start = tf.where(number < 10, tf.minimum(tf.floor(draws[20:22] * (margin + 1)), margin), tf.floor(margin / 2))
    return tf.cast(tf.concat([start, window], 0), tf.int32)


def _draws(seed: tf.Tensor) -> tf.Tensor:
    """All random numbers of a view: 10 areas, 10 aspects, 2 positions, 1 flip. Philox gives the same on any device."""
    return tf.random.stateless_uniform([23], seed, alg="philox")


def _flipped(view: tf.Tensor, flip: bool, seed: tf.Tensor) -> tf.Tensor:
    if not flip:
        return view
    return tf.cond(_draws(seed)[22] < 0.5, lambda: tf.reverse(view, [1]), lambda: view)


def _crop(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The window (top, left, height, width) of an image `(h, w, 3)`."""
    window = tf.cast(window, tf.int64)
    return tf.slice(image, tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0))


def _fitted(image: tf.Tensor, size: Size) -> tf.Tensor:
    """The image resized to `size`, float32; unchanged if it has that size."""
    source = tf.shape(image)[:2]
    ratio = tf.constant(size, tf.float64) / tf.cast(source, tf.float64)
    view = tf.cond(
        tf.reduce_all(source == tf.constant(size)),
        lambda: tf.cast(image, tf.float32),
        lambda: _resampled(image, size, ratio, tf.zeros([2], tf.float64)),
    )
    return tf.ensure_shape(view, [*size, 3])


def _resampled(image: tf.Tensor, size: Size, ratio: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """The window of `size` in the image enlarged by `ratio` and moved by `offset`, both float64 `(2,)` (y, x).

    This is the operation behind `tf.image.resize(antialias=True)`, which cannot give a part of the image. Its
    weights are positive and sum to 1: the result stays in the image's range, up to rounding.
    """
    return tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=tf.constant(size, tf.int32),
        scale=tf.cast(ratio, tf.float32),
        translation=tf.cast(offset, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]


def _oriented(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn an image upright: orientations 5..8 exchange the axes, then either axis may run backwards."""

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        down = (orientation == 3) | (orientation == 4) | (orientation == 7) | (orientation == 8)
        across = (orientation == 2) | (orientation == 3) | (orientation == 6) | (orientation == 7)
        turned = tf.cond(down, lambda: tf.reverse(turned, [0]), lambda: turned)
        return tf.cond(across, lambda: tf.reverse(turned, [1]), lambda: turned)

    return tf.ensure_shape(tf.cond(orientation > 1, turn, lambda: image), [None, None, 3])
