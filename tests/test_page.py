"""The page in a real browser, before the real Triton: a test for each task."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from chromium import PROGRAM, Chromium
from conftest import has_triton
from PIL import Image
from tiny_models import CLASSES

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def served(request):
    """With Triton where there is one: to the page it makes no difference."""
    return request.getfixturevalue("tiny_triton" if has_triton() else "tiny_alone")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Half red, half black."""
    image = Image.new("RGB", (320, 200), "black")
    image.paste("red", (0, 0, 160, 200))
    file = tmp_path_factory.mktemp("photo") / "my photo's.png"
    image.save(file)
    return file


@pytest.fixture
def page(served, browser):
    """Opens the page, asks about a photo; afterwards, what did the browser complain of?"""
    browser.events.clear()

    def open_page(model: str, photo: Path | None = None) -> Chromium:
        browser.open(f"{served.address}/?model={model}")
        browser.wait(f"document.getElementById('model')?.value === '{model}'")
        browser.wait("document.getElementById('facts').children.length > 0")
        if photo:
            browser.give("#file", photo)
            answered(browser)
        return browser

    yield open_page
    assert browser.problems() == []
    assert all(url.startswith((served.address, "data:")) for url in browser.requested())


def text(page: Chromium, name: str) -> str:
    return page.run(f"document.getElementById('{name}').innerText")


def answered(page: Chromium) -> None:
    page.wait("!document.getElementById('answer').hidden")
    page.wait("document.getElementById('status').innerText.startsWith('Answered in ')")


def terminal(page: Chromium, folder) -> dict:
    """What the line says that the page shows for a terminal."""
    line = [*shlex.split(text(page, "curl")), "--silent"]
    return json.loads(subprocess.run(line, cwd=folder, capture_output=True, check=True).stdout)


def rows(page: Chromium) -> list[list[str]]:
    script = "[...document.querySelectorAll('#rows li')].map((row) => row.innerText.split('\\n'))"
    return page.run(script)


def pixel(page: Chromium, x: int, y: int) -> list[int]:
    return page.run(f"[...canvas.getContext('2d').getImageData({x}, {y}, 1, 1).data].slice(0, 3)")


def slide(page: Chromium, name: str, value: float) -> None:
    page.run(f"{name}.value = {value}; {name}.dispatchEvent(new Event('input'))")


def test_classification(page, photo):
    shown = page("colours_tiny", photo)
    assert "Trained on\ntiny" in text(shown, "facts")
    assert text(shown, "headline") == "red"
    assert rows(shown)[0][0] == "red" and len(rows(shown)) == 3
    assert terminal(shown, photo.parent)["label"] == "red"


@pytest.mark.parametrize(
    ("more", "headline"),
    [
        ("label_set: ['red'], foreign: false", "red"),
        ("label_set: ['red', 'blue'], foreign: false", "red (coverage 90 %: red or blue)"),
        ("label_set: ['red'], foreign: true", "none of these (nearest: red)"),
        ("label_set: [...'7123456']", "red (coverage 90 %: 7 or 1 or 2 or 3 or 4 or 2 more)"),
    ],
)
def test_label_set_and_none_of_these(page, photo, more, headline):
    """As a calibrated model answers; the tiny one is not."""
    shown = page("colours_tiny")
    change_answers(shown, f"coverage: 0.9, {more}")
    shown.give("#file", photo)
    answered(shown)
    assert text(shown, "headline") == headline


def change_answers(page: Chromium, more: str, seconds: float = 0) -> None:
    """Let the page see the server's answers with other fields, and so many seconds later."""
    page.run(
        "const ask = fetch; window.fetch = async (path, options) => { "
        "const answer = await ask(path, options), content = await answer.json();"
        f"const more = {{{more}}};"
        f"if (options?.body) await new Promise((go) => setTimeout(go, {1000 * seconds}));"
        "return new Response(JSON.stringify(Array.isArray(content) ? content "
        ": {...content, ...more}), {status: answer.status}); }"
    )


def test_classes_with_numbers_for_names(page, photo):
    """JavaScript would put them in the order of the numbers."""
    shown = page("colours_tiny")
    change_answers(
        shown, "probabilities: Object.fromEntries([...'012345678'].map((n) => [n, n/99]))"
    )
    shown.give("#file", photo)
    answered(shown)
    assert [name for name, _ in rows(shown)] == ["8", "7", "6", "5", "4"]
    assert text(shown, "all") == "Show all 9 classes"
    shown.run("document.getElementById('all').click()")
    assert len(rows(shown)) == 9 and text(shown, "all") == "Show fewer"


def test_a_late_answer_is_dropped(page, photo):
    shown = page("colours_tiny")
    change_answers(shown, "", seconds=1)
    shown.give("#file", photo)
    shown.wait("document.getElementById('status').innerText.startsWith('Asking')")
    shown.run("model.value = 'noise_tiny'; model.dispatchEvent(new Event('change'))")
    shown.run("new Promise((go) => setTimeout(go, 1500))")
    assert shown.run("document.getElementById('answer').hidden") and text(shown, "problem") == ""
    assert "Makes pictures of" in text(shown, "facts")


def test_trouble_is_told_and_forgotten(page, served):
    """The page never turns to another model on its own."""
    shown = page("colours_tiny")
    shown.run("window.kept = fetch; window.fetch = async () => { throw Error(); }")
    shown.wait("trouble.innerText.startsWith('The server does not answer')")
    shown.run("window.fetch = kept")
    shown.wait("trouble.innerText === ''")
    shown.open(f"{served.address}/?model=rose")
    told = "rose is not served. Choose another model."
    shown.wait(f"document.getElementById('trouble')?.innerText === '{told}'")
    assert shown.run("document.getElementById('model').value") == "rose"


def test_several_labels(page, photo):
    shown = page("tags_tiny", photo)
    assert text(shown, "headline") == "red" and len(rows(shown)) == 3
    assert rows(shown)[0] == ["red", "50 %, needs 50 %"]
    assert terminal(shown, photo.parent)["labels"] == ["red"]


def test_detection(page, photo):
    shown = page("boxes_tiny", photo)
    assert text(shown, "headline") == "1 found" and rows(shown) == [["blue", "90 %"]]
    assert len(terminal(shown, photo.parent)["boxes"]) == 1
    own = shown.run("confidence.value")
    slide(shown, "confidence", 0.05)
    assert text(shown, "headline") == "2 found"
    assert len(terminal(shown, photo.parent)["boxes"]) == 2
    slide(shown, "confidence", 0.95)
    assert text(shown, "headline") == "0 found; the highest score is 90 %, blue" and not rows(shown)
    assert not shown.run("own.hidden")
    shown.run("own.click()")
    assert shown.run("own.hidden") and shown.run("confidence.value") == own
    assert text(shown, "headline") == "1 found" and "?" not in text(shown, "curl")
    slide(shown, "confidence", 0.05)
    # Blue has the third colour of Okabe and Ito; the box is (80, 50) to (160, 150), twice as large.
    assert pixel(shown, 240, 300) == [0, 158, 115]


def test_segmentation(page, photo):
    shown = page("masks_tiny", photo)
    assert sorted(rows(shown)) == [["green", "50 %"], ["red", "50 %"]]
    half = pixel(shown, 100, 100)
    slide(shown, "opacity", 1)
    assert pixel(shown, 100, 100) == [86, 180, 233] != half
    assert pixel(shown, 500, 100) == [0, 0, 0]
    assert terminal(shown, photo.parent)["classes"][1]["share"] == pytest.approx(0.5, abs=0.02)


def test_generation(page, photo):
    shown = page("noise_tiny")
    options = "[...document.querySelectorAll('#class option')].map((one) => one.value)"
    assert shown.run(options) == CLASSES
    shown.run("document.getElementById('class').value = 'blue'; seed.value = 5; count.value = 3")
    shown.run("generate.requestSubmit()")
    answered(shown)
    made = "[...document.querySelectorAll('#made img')]"
    shown.wait(f"{made}.every((one) => one.naturalWidth === 32)")
    assert shown.run(f"{made}.length") == 3
    again = terminal(shown, photo.parent)
    assert again["class"] == "blue" and again["seed"] == 5 and len(again["pictures_png"]) == 3


def test_dropped_pasted_and_photographed(page):
    shown = page("colours_tiny")
    file = """(async () => {
        const canvas = new OffscreenCanvas(64, 64), pen = canvas.getContext("2d");
        pen.fillStyle = "%s";
        pen.fillRect(0, 0, 64, 64);
        const data = new DataTransfer();
        data.items.add(new File([await canvas.convertToBlob()], "x.png", { type: "image/png" }));
        document.dispatchEvent(new %s);
    })()"""
    for colour, event in (
        ("blue", "DragEvent('drop', { dataTransfer: data })"),
        ("lime", "ClipboardEvent('paste', { clipboardData: data })"),
    ):
        shown.run(file % (colour, event))
        wanted = {"lime": "green"}.get(colour, colour)
        shown.wait(f"headline.innerText === '{wanted}'")
    shown.run("photograph.click()")  # the browser has a camera that sees a test picture
    shown.wait("video.videoWidth > 0")
    shown.run("headline.innerText = ''; shoot.click()")
    shown.wait("headline.innerText !== ''")
    assert shown.run("document.getElementById('camera').hidden && video.srcObject.active") is False


def test_what_is_no_picture_is_told(page, photo, tmp_path):
    file = tmp_path / "broken.jpg"
    file.write_bytes(b"no picture")
    shown = page("colours_tiny", photo)
    shown.give("#file", file)
    shown.wait("problem.innerText.includes('not a picture in a known format')")
    assert shown.run("document.getElementById('answer').hidden"), "the answer to another picture"
    assert shown.run("problem.getAttribute('role')") == "alert"
    # The browser reports the status of the answer, which is as it should be.
    shown.events[:] = [one for one in shown.events if one.get("method") != "Log.entryAdded"]


def test_names_are_no_programs(served, page, tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (32, 32), "red").save(tmp_path / name)
    shown = page("colours_tiny", tmp_path / name)
    assert name in text(shown, "curl")
    assert shown.run("document.querySelectorAll('img').length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_read_and_reached(page, photo, tmp_path, dark):
    """Contrast of WCAG AA, names for all that can be operated, no scrolling sideways on a phone."""
    shown = page("boxes_tiny", photo)
    shown.screenshot(tmp_path / "page.png", dark)
    contrast = """[...document.querySelectorAll("main *, header *")].filter((one) =>
        one.checkVisibility() && [...one.childNodes].some((node) => node.nodeType === 3
        && node.data.trim())).map((one) => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((level) => level / 255)
          .map((level) => level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      let ground = one;
      while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)")
        ground = ground.parentElement;
      const pair = [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor];
      const [low, high] = pair.map(light).sort((a, b) => a - b);
      return [(high + 0.05) / (low + 0.05), one.textContent];
    })"""
    measured = shown.run(contrast)
    assert len(measured) > 15 and min(measured)[0] >= 4.5, min(measured)
    tree = shown.call("Accessibility.getFullAXTree")["nodes"]
    operated = ("button", "combobox", "slider", "link", "spinbutton", "image")
    for node in tree:
        if not node["ignored"] and node["role"]["value"] in operated:
            assert node["name"]["value"], node
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    shown.call("Emulation.setDeviceMetricsOverride", **size)
    assert shown.run("document.documentElement.scrollWidth") <= 360
    shown.call("Emulation.clearDeviceMetricsOverride")
