"""The estimates of what a request costs, and the memory that requests share."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from tests.serving.pictures import bomb, encoded, picture
from tests.serving.servers import until
from vse_tf.serving import cost
from vse_tf.serving.cost import Budget, check_count, joined, json_cost, work_cost
from vse_tf.serving.request_error import RequestError


def strings(*values):
    return np.array(values, object)


def test_json_is_weighed_by_its_values():
    photos = json.dumps({"instances": [{"b64": "A" * 3_000_000}] * 10}).encode()
    pixels = b'{"signature_name":"pixels","inputs":[' + b"[255,255,255]," * (32 * 224 * 224) + b"]}"
    captions = json.dumps(["a dog, a cat, and: [a] {bird}"] * 8192).encode()
    for honest in (photos, pixels, captions):
        assert json_cost(honest) <= cost.MEMORY
    for part in (b"[],", b"{},", b'{"a":0},', b'"ab",', b"[[[0]]],", b'"":"",'):
        with pytest.raises(RequestError, match=r"would take \d+ MB in memory, the limit is 700 MB") as caught:
            json_cost(part * (32 * 2**20 // len(part)))
        assert caught.value.status == 413


def test_characters_of_four_bytes_count_more():
    assert json_cost(b"a" * 100) < json_cost("é".encode() + b"a" * 98) == json_cost(b"\\u00e9" + b"a" * 94)


def test_too_many_inputs():
    check_count(8192)
    with pytest.raises(RequestError, match="has 8193 inputs, the limit is 8192"):
        check_count(8193)


def test_too_many_images():
    small = encoded(picture(3, 3), "PNG")
    assert work_cost({"image_bytes": strings(*[small] * 1024)})
    assert work_cost({"text": strings(*[b"a"] * 8192)})
    assert work_cost({"pixels": np.zeros([1024, 1, 1, 3], np.uint8)})
    for arrays in (
        {"image_bytes": strings(*[small] * 1025)},
        {"image_bytes": strings(b"none", *[small] * 1025)},
        {"pixels": np.zeros([1025, 1, 1, 3], np.uint8)},
    ):
        with pytest.raises(RequestError, match="has 1025 images, the limit is 1024") as caught:
            work_cost(arrays)
        assert caught.value.status == 413


def test_the_pixels_of_all_images_together():
    five = strings(*[bomb(7000)] * 5)
    assert work_cost({"image_bytes": five}) > 7000**2 * 7
    with pytest.raises(RequestError, match="6 images announce 294000000 pixels together, the limit is 250000000"):
        work_cost({"image_bytes": strings(*five, bomb(7000))})
    # An image that alone is too large is the model's business, which names it: it has its own --max-pixels.
    for files in ([bomb(20_000)], [bomb(20_000), bomb(1), bomb(60_000)], [bomb(7000)] * 5 + [bomb(20_000)]):
        assert work_cost({"image_bytes": strings(*files)})
    # So is what is no image.
    assert work_cost({"image_bytes": strings(b"BM", b"\xff\xd8\xff", b"")})


def test_work_costs_what_is_in_it():
    assert work_cost({"x": np.float32(3)}) == work_cost({"x": np.zeros([1], np.float32)})
    one = work_cost({"text": strings(b"a dog")})
    assert one < work_cost({"text": strings(b"a dog", b"a cat")}) < work_cost({"text": strings(*[b"a dog"] * 8192)})
    assert work_cost({"text": strings(*[b""] * 8192)}) < cost.MEMORY


def test_an_answer_is_cut_off_at_its_limit(monkeypatch):
    monkeypatch.setattr(cost, "MAX_ANSWER_BYTES", 10)
    assert joined([b"12345", b"", b"67890"]) == b"1234567890"
    with pytest.raises(RequestError, match="more than the limit of 10 bytes") as caught:
        joined(b"1" for _ in range(11))
    assert caught.value.status == 413


def test_who_asks_for_more_than_is_free_waits_for_their_turn():
    budget, order = Budget(10), []
    free = threading.Event()

    def first():
        with budget.hold(6):
            order.append("first")
            free.wait(60)

    def later(name, size):
        with budget.hold(size):
            order.append(name)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    until(lambda: order == ["first"])
    # The large one is next, though the small one behind it would fit: otherwise small ones could keep it out for ever.
    for number, (name, size) in enumerate([("large", 100), ("small", 1)], start=1):
        threads.append(threading.Thread(target=later, args=(name, size)))
        threads[-1].start()
        until(lambda number=number: len(budget._waiting) == number)
    assert order == ["first"]
    free.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first", "large", "small"]
    assert budget._free == 10


def test_what_fails_gives_its_memory_back():
    budget = Budget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), budget.hold(10):
            raise ValueError("broken")
    with budget.hold(10):
        pass
    assert budget.large == 0
    large = Budget(cost.LARGE)
    with large.hold(cost.LARGE):
        pass
    assert large.large == 1
