"""Limits on untrusted image files, and the messages about refused ones. No TensorFlow is imported here.

The number of pixels alone does not bound the cost of a file: a progressive JPEG goes over all of its pixels in each
scan, and a PNG may hold compressed texts that unpack to gigabytes. Files of cameras and editors stay far below these
limits. `image_headers` applies them in Python and `graph_headers` in TensorFlow graphs.
"""

FORMATS = ("jpeg", "png", "gif", "bmp", "webp")
# 100 million pixels, the default limit of training, at 16 bits per channel and hardly compressed.
MAX_BYTES = 2**29
# The largest image that exported and served models decode, which takes up to 7 bytes per pixel: larger ones are rare,
# and a server decodes the images of any client.
SERVED_PIXELS = 50_000_000
# Segments of a JPEG, and blocks of other formats, that are read. Real files have a few dozen.
MAX_BLOCKS = 4096
# Chunks of a PNG; pixel data in equal chunks count as few.
MAX_CHUNKS = 2048
# Scans of a JPEG. libjpeg's progressive mode writes 10, 18 for CMYK; optimisers write fewer than 25.
MAX_SCANS = 64
# All scans together may go over `MAX_PASSES * max_pixels` pixels.
MAX_PASSES = 20
# Compressed texts and colour profiles of a PNG. They are removed before decoding; editors write a dozen.
MAX_TEXTS = 64
# The pixel data of a PNG are in chunks of mostly equal size, often of 8 KiB. Equal ones in a row are read at once: the
# largest number of chunks, and of bytes.
RUN_CHUNKS, RUN_BYTES = 1024, 2**18
# Bytes of compressed pixel data of a PNG: per pixel (16 bits in four channels, and headers), and in addition. libpng
# unpacks all of them, also those that no pixel needs.
MAX_PIXEL_BYTES, SPARE_BYTES = 9, 2**16
# Bytes of pixel data of a GIF's first frame; the rest is cut off.
MAX_GIF_BYTES = 2**25
# Counting scans ends here.
MAX_COUNT = 2**16

NOT_AN_IMAGE, BROKEN, ANIMATED_WEBP, UNREAD_BMP = 1, 2, 3, 4
BYTES, SCANS, TEXTS, CHUNKS, EXCESS = 5, 6, 7, 8, 9
PHOTO = 10
# The messages of these begin with the number that was found.
COUNTED = (BYTES, SCANS, TEXTS, EXCESS)
REASONS = (
    "",
    "not a JPEG, PNG, GIF, BMP or WebP image",
    "truncated or broken image header",
    "animated WebP: only still images are read; save one frame of it",
    "BMP of a kind that is not read: only uncompressed 8, 24 and 32 bit are; save it as PNG",
    f"bytes, at most {MAX_BYTES}",
    f"scans, at most {MAX_SCANS}",
    f"compressed texts and profiles, at most {MAX_TEXTS}",
    f"more than {MAX_CHUNKS} chunks of different sizes",
    f"bytes of pixel data, at most {MAX_PIXEL_BYTES} per pixel and {SPARE_BYTES}",
    "a HEIC, AVIF or TIFF image: convert it with magick photo.heic photo.jpg",
)
TOO_LARGE = "the header announces more pixels than data.max_pixels allows"


class RefusedImageError(ValueError):
    """An image file that is not decoded: not of a supported format, broken, or above a limit.

    Args:
        code: position in `REASONS`.
        count: the number in the message, for the codes in `COUNTED`.

    Example:
        >>> str(RefusedImageError(SCANS, 500))
        '500 scans, at most 64'
    """

    def __init__(self, code: int, count: int = 0) -> None:
        super().__init__(f"{count} {REASONS[code]}" if code in COUNTED else REASONS[code])
        self.code = code


def above_limit(width: int, height: int, scans: int, max_pixels: int) -> str:
    """Which limit on pixels an image exceeds; empty if none.

    Args:
        width: in pixels.
        height: in pixels.
        scans: number of times that decoding goes over all pixels.
        max_pixels: the largest number of pixels; the scans together may go over `MAX_PASSES` times as many.

    Example:
        >>> above_limit(10_000, 10_000, 30, 10**8)
        '30 scans of 10000 x 10000 pixels, at most 2000000000 pixels in all'
    """
    if width * height > max_pixels:
        return f"{TOO_LARGE}; header: {width} x {height}, at most {max_pixels} pixels"
    if scans * width * height > MAX_PASSES * max_pixels:
        return f"{scans} scans of {width} x {height} pixels, at most {MAX_PASSES * max_pixels} pixels in all"
    return ""
