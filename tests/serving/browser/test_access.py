"""The page for everyone: keyboard, touch, small screens, and axe-core's rules."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.browser.search_page import (
    COUNT,
    failed,
    names_of,
    search,
    upload,
)


def test_the_keyboard_is_enough(page, images):
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("two dogs")
    page.keyboard.press("Enter")
    page.get_by_text("for “two dogs”").wait_for()
    first = names_of(page)
    focused = "document.activeElement.querySelector('.name')?.textContent"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == first[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == first[1]
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('results')).gridTemplateColumns.split(' ').length"
    )
    assert page.evaluate(focused) == first[1 + columns]
    page.keyboard.press("Enter")
    assert page.locator("#large").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#large").is_hidden()
    assert page.evaluate(focused) == first[1 + columns]
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "without"
    page.keyboard.type("and/or")
    assert page.locator("#without").input_value() == "and/or"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "image"


def test_each_device_has_its_own_hint(page, browser, address):
    assert page.get_by_text("drop, paste or choose an image").is_visible()
    assert page.locator("#hint kbd").first.is_visible()
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    touched = phone.new_page()
    touched.goto(address)
    touched.get_by_text("Tap a result").wait_for()
    assert touched.get_by_text("drop, paste").is_hidden()
    assert touched.locator("#hint kbd").first.is_hidden()
    phone.close()


def axe():
    """axe-core as npm installs it: a script to run in a page. None where there is none."""
    named = os.environ.get("VSE_TF_AXE")
    if named:
        return Path(named).read_text()
    folders = [folder / "node_modules" for folder in (Path.cwd(), *Path.cwd().parents)]
    if npm := shutil.which("npm"):
        folders.append(Path(subprocess.check_output([npm, "root", "--global"], text=True).strip()))
    found = (folder / "axe-core" / "axe.min.js" for folder in folders)
    return next((path.read_text() for path in found if path.is_file()), None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_fault(browser, address, images, width, scheme):
    script = axe()
    if script is None:
        pytest.skip("needs axe-core: npm install axe-core, or VSE_TF_AXE with the path of axe.min.js")
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.get_by_text(f"{COUNT} images").wait_for()
    page.evaluate(script)

    def check():
        faults = page.evaluate("axe.run(document)")["violations"]
        assert not [(each["id"], each["help"], each["nodes"][0]["html"]) for each in faults]

    check()
    search(page, "two dogs")
    check()
    page.locator("#results button").nth(1).click()
    check()
    page.click("#similar")
    page.get_by_text("images like").wait_for()
    check()
    page.fill("#text", "at night")
    page.fill("#without", "people")
    page.keyboard.press("Enter")
    page.get_by_text("for “at night” and like").wait_for()
    check()
    upload(page, b"broken")
    failed(page, "cannot be read")
    check()
    context.close()


def test_it_fits_a_phone(page, tmp_path):
    folder = os.environ.get("VSE_TF_SCREENSHOTS", str(tmp_path))
    search(page, "two dogs")
    page.wait_for_timeout(300)
    page.screenshot(path=f"{folder}/desktop.png")
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(300)
    page.screenshot(path=f"{folder}/phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [
        button.bounding_box() for button in page.locator("header button:visible, header .button, li button").all()[:6]
    ]
    assert all(box["height"] >= 40 for box in boxes)
    assert page.evaluate("getComputedStyle(document.getElementById('text')).fontSize") == "16px"
    page.locator("#results button").first.click()
    buttons = page.locator("#large button, #large input").all()
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in (each.bounding_box() for each in buttons))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=f"{folder}/phone-large.png")
    page.click("#similar")
    page.fill("#text", "at night")
    page.fill("#without", "people")
    page.keyboard.press("Enter")
    page.get_by_text("for “at night” and like").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=f"{folder}/phone-mixed.png")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.screenshot(path=f"{folder}/desktop-mixed.png")
