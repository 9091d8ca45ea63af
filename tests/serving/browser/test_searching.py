"""Searching on the page in headless Chromium: what is shown, and what is not shown any more."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.serving.browser.search_page import (
    COUNT,
    DIM,
    EVIL,
    SHOWN,
    failed,
    names_of,
    ranked,
    search,
    serving,
    upload,
    vector_of,
)
from tests.serving.servers import until
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.preprocessing import photo_formats
from vse_tf.preprocessing.photo_formats import as_decodable


def test_a_text_shows_images_with_scores_best_first(page, images):
    search(page, "two dogs")
    assert names_of(page) == ranked(images, vector_of(b"two dogs"))
    scores = [float(text.split("·")[1]) for text in page.locator("#results .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    loaded = "Array.from(document.querySelectorAll('#results img')).filter(image => image.naturalWidth > 0).length"
    # Not `wait_for_function`, which the page's policy refuses where it has to wait.
    until(lambda: page.evaluate(loaded) >= 6)


def test_more_results_follow_those_shown(page, images):
    search(page, "two dogs")
    page.click("#more")
    page.get_by_text(f"{COUNT} of {COUNT} images for “two dogs”").wait_for()
    assert names_of(page) == ranked(images, vector_of(b"two dogs"), COUNT)
    assert page.locator("#results .score").last.inner_text().startswith(f"{COUNT} ·")
    assert page.locator("#more").is_hidden()
    focused = page.evaluate("[...document.querySelectorAll('#results button')].indexOf(document.activeElement)")
    assert focused == SHOWN
    page.locator("#results button", has_text=images[1][7]).scroll_into_view_if_needed()
    page.get_by_text("no picture").wait_for()


def test_foreign_text_is_shown_but_not_interpreted(page, images):
    search(page, "<b>bold</b><script>document.title='owned'</script>")
    page.click("#more")
    page.locator("#results button", has_text=EVIL).click()
    assert page.locator("#path").input_value() == str(images[0] / EVIL)
    assert "owned" not in page.title().replace("document.title='owned'", "")
    assert page.locator("#results b, #status b, #large b, #results img[src=x]").count() == 0


def test_a_result_opens_large(page, images):
    folder, names = images
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    search(page, "two dogs")
    first = [name for name in names_of(page) if name != names[7]]
    page.locator("#results button", has_text=first[1]).click()
    page.wait_for_selector(f"#large-picture[src$='/images/{names.index(first[1])}']")
    size = page.evaluate("document.getElementById('large-picture').naturalHeight")
    assert size == Image.open(folder / first[1]).height
    page.click("#copy")
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == str(folder / first[1])
    page.keyboard.press("ArrowRight")
    place = names_of(page).index(first[1]) + 1
    assert page.locator("#path").input_value() == str(folder / names_of(page)[place])
    page.keyboard.press("Escape")
    assert page.locator("#large").is_hidden()
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == names_of(page)[place]


def test_a_caption_opens_large_too(browser, tmp_path):
    texts = [f"a dog and {count} cats" for count in range(5)]
    vectors = np.stack([vector_of(text.encode()) for text in texts])
    writer = IndexWriter(tmp_path / "index", "captions", DIM)
    items = [Item(str(row + 1), caption=text) for row, text in enumerate(texts)]
    with serving(writer.commit([writer.write(vectors)], items, {"id": "a"})) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("5 captions").wait_for()
        page.fill("#text", texts[3])
        page.keyboard.press("Enter")
        page.locator("#results button", has_text=texts[3]).first.click()
        assert page.locator("#large-name").inner_text() == texts[3]
        assert page.locator("#path").input_value() == texts[3]
        assert page.locator("#stage").is_hidden()
        page.click("#similar")
        page.get_by_text("5 of 5 captions like this one").wait_for()
        assert page.locator("#query-caption").inner_text() == names_of(page)[0] == texts[3]
        page.close()


def test_a_picture_that_is_gone_says_so(page, images):
    search(page, "two dogs")
    page.click("#more")
    page.locator("#results button", has_text=images[1][7]).click()
    page.get_by_text("The image cannot be displayed.").wait_for()


def test_search_from_a_result_and_back(page, images):
    folder = images[0]
    search(page, "two dogs")
    first = names_of(page)
    page.locator("#results button").nth(3).click()
    page.click("#similar")
    page.get_by_text(f"images like {first[3]}").wait_for()
    similar = names_of(page)
    assert similar == ranked(images, vector_of((folder / first[3]).read_bytes()))
    page.reload()
    page.get_by_text(f"images like {first[3]}").wait_for()
    assert names_of(page) == similar
    page.go_back()
    page.get_by_text("for “two dogs”").wait_for()
    assert names_of(page) == first
    page.reload()
    page.get_by_text("for “two dogs”").wait_for()
    assert names_of(page) == first
    # Another gallery has other images in the same rows.
    page.goto(page.url.partition("#")[0] + "#row=3&item=gone.png")
    failed(page, "“gone.png” is no longer in its place")


def test_a_chosen_and_a_dropped_image_find_themselves(page, images):
    folder, names = images
    page.set_input_files("#image", folder / names[4])
    page.get_by_text(f"images like {names[4]}").wait_for()
    assert names_of(page)[0] == names[4]
    until(lambda: page.evaluate("document.getElementById('query-picture').naturalWidth") == 300)
    data = base64.b64encode((folder / names[11]).read_bytes()).decode()
    page.evaluate(
        """([data, name]) => {
          const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: "image/png" }));
          for (const kind of ["dragenter", "drop"])
            document.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, cancelable: true }));
        }""",
        [data, names[11]],
    )
    page.get_by_text(f"images like {names[11]}").wait_for()
    assert names_of(page)[0] == names[11]
    assert page.locator("#drop").is_hidden()
    page.go_back()
    page.get_by_text(f"images like {names[4]}").wait_for()
    page.go_forward()
    page.get_by_text(f"images like {names[11]}").wait_for()
    page.reload()
    page.get_by_text(f"images like {names[11]}").wait_for()
    assert names_of(page)[0] == names[11]


def test_words_are_added_to_an_image_and_left_out(page, images):
    folder, names = images
    page.set_input_files("#image", folder / names[4])
    page.get_by_text(f"images like {names[4]}").wait_for()
    page.fill("#text", "at night")
    page.fill("#without", "people")
    page.keyboard.press("Enter")
    title = f"for “at night” and like {names[4]}, without “people”"
    page.get_by_text(title).wait_for()
    photo, words = vector_of((folder / names[4]).read_bytes()), vector_of(b"at night")
    mixed = ranked(images, words + photo - vector_of(b"people"))
    assert names_of(page) == mixed
    page.reload()
    page.get_by_text(title).wait_for()
    assert names_of(page) == mixed
    assert page.locator("#without").input_value() == "people"
    page.click("#remove")
    page.get_by_text("images for “at night”, without “people”").wait_for()
    assert names_of(page) == ranked(images, words - vector_of(b"people"))
    assert page.locator("#query-picture").is_hidden()
    page.go_back()
    page.get_by_text(title).wait_for()
    # Words are added to a result, too.
    page.locator("#results button").nth(2).click()
    page.click("#similar")
    page.get_by_text(f"images like {mixed[2]}").wait_for()
    page.fill("#text", "at night")
    page.keyboard.press("Enter")
    page.get_by_text(f"for “at night” and like {mixed[2]}").wait_for()
    assert names_of(page) == ranked(images, words + vector_of((folder / mixed[2]).read_bytes()))
    page.fill("#text", "")
    page.click("#remove")
    page.get_by_text("Type what to look for.").wait_for()


def held_in(waiting):
    """Holds requests back. Playwright sets an attribute of what it is given, which `waiting.append` does not allow."""

    def hold(route):
        waiting.append(route)

    return hold


def test_words_that_are_typed_while_a_search_runs_stay(page, images):
    search(page, "two dogs")
    first = names_of(page)[0]
    waiting = []
    page.route("**/gallery/nearest", held_in(waiting), times=1)
    page.locator("#results button").first.click()
    page.click("#similar")
    page.fill("#text", "at night")
    page.fill("#without", "people")
    until(lambda: page.evaluate("1") and waiting)
    waiting[0].continue_()
    page.get_by_text(f"images like {first}").wait_for()
    page.keyboard.press("Enter")
    page.get_by_text(f"for “at night” and like {first}, without “people”").wait_for()


def test_words_that_are_typed_while_the_page_loads_stay(browser, address):
    page, waiting = browser.new_page(), []
    page.route("**/gallery", held_in(waiting))
    page.goto(address)
    page.fill("#text", "at night")
    until(lambda: page.evaluate("1") and waiting)
    waiting[0].continue_()
    page.get_by_text(f"{COUNT} images").wait_for()
    assert page.locator("#text").input_value() == "at night"
    page.close()


def test_a_query_can_be_sent_again_to_a_server_that_was_busy(page, images):
    folder, names = images
    page.set_input_files("#image", folder / names[4])
    page.get_by_text(f"images like {names[4]}").wait_for()
    page.route("**/gallery/nearest", lambda route: route.fulfill(status=503, json={"error": "busy"}))
    page.fill("#text", "at night")
    page.keyboard.press("Enter")
    failed(page, "The server is busy; try again in a moment.")
    page.unroute("**/gallery/nearest")
    page.keyboard.press("Enter")
    page.get_by_text(f"for “at night” and like {names[4]}").wait_for()


def test_an_image_too_large_to_keep_is_asked_for_again(page, images):
    upload(page, (images[0] / images[1][4]).read_bytes() + bytes(5_000_000))
    page.get_by_text("images like photo.png").wait_for()
    page.reload()
    failed(page, "choose it again")


def test_results_go_with_their_query(page):
    search(page, "two dogs")
    page.fill("#text", "nonsense")
    page.keyboard.press("Enter")
    failed(page, "The server could not answer this search.")
    for contents, sentence in ((b"broken", "truncated or broken image header."), (b"too large", "too many pixels.")):
        search(page, "two dogs")
        upload(page, contents)
        failed(page, sentence)
        assert page.locator("#query-picture").is_hidden()
    search(page, "two dogs")
    upload(page, b"text", "notes.txt", "text/plain")
    failed(page, "“notes.txt” is not an image.")
    search(page, "two dogs")
    page.fill("#text", " ")
    page.keyboard.press("Enter")
    page.get_by_text("Type what to look for.").wait_for()
    assert page.locator("#results li").count() == 0
    assert page.locator("#hint").is_visible()
    assert "#" not in page.url


def test_a_server_that_is_gone_is_reported(page):
    search(page, "two dogs")
    page.route("**/gallery/nearest", lambda route: route.abort())
    page.click("#more")
    page.get_by_text("The server does not answer.").wait_for()
    assert page.locator("#results li").count() == SHOWN  # they are still those of the query
    page.fill("#text", "three dogs")
    page.keyboard.press("Enter")
    # The message is the same as before: only that the results have gone tells that this search was made.
    page.locator("#results li").first.wait_for(state="detached")
    failed(page, "The server does not answer.")


def test_a_model_that_is_loading_is_waited_for(page, images):
    states = ["LOADING", "LOADING"]

    def status(route):
        state = states.pop() if states else "AVAILABLE"
        route.fulfill(json={"model_version_status": [{"version": "1", "state": state}]})

    def answer(route):
        if states:
            route.fulfill(status=404, json={"error": "Servable not found for request: Latest(image_tower)"})
        else:
            route.fallback()

    page.route("**/v1/models/image_tower", status)
    page.route("**/v1/models/image_tower:predict", answer)
    page.set_input_files("#image", images[0] / images[1][4])
    page.get_by_text("The model is being loaded").wait_for()
    page.get_by_text(f"images like {images[1][4]}").wait_for()


def tiff(color):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.extras
def test_a_photo_that_browsers_do_not_show_is_converted(page, images):
    pytest.importorskip("pillow_heif", reason="needs pip install 'vse_tf[photos]'")
    contents = tiff("green")
    # Browsers do not know the type of a HEIC file.
    upload(page, contents, "IMG_1.HEIC", "")
    page.get_by_text(f"{SHOWN} of {COUNT} images like IMG_1.HEIC").wait_for()
    assert names_of(page) == ranked(images, vector_of(as_decodable(contents, 10**6)))
    assert page.evaluate("document.getElementById('query-picture').naturalWidth") == 40


def test_without_the_extra_the_page_says_how_to_convert_it(page, monkeypatch):
    monkeypatch.setattr(photo_formats, "find_spec", lambda name: None)
    upload(page, tiff("green"), "scan.tif", "image/tiff")
    page.locator("#status.error").get_by_text("convert it with magick").wait_for()
    assert page.locator("#results li").count() == 0
