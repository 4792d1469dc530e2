"""Draw the pictures in docs/ anew, with the shipped weights: `python -m tools.draw_docs`.

`python -m tools.draw_docs page terminal` draws only these kinds: `answers`, `page`, `sheets` or
`terminal`. `page` needs Chromium. Figures of `docs/benchmark.png` are measured by `benchmark.py`.
"""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

from benchmarks.serving.trial import Trial
from tests.chromium import Chromium

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
QUALITY = 85  # of JPEG
WIDTH = 800  # pixels of a screenshot
SIDE = 640  # pixels; the longest side of an answer
PHOTO, PLANT = DOCS / "dandelion.jpg", ROOT / "data/flowers/tobacco/plant077_rgb.jpg"
MODELS = {  # name, and how a command line chooses the model: a picture each, for answers and page
    "efficientnet_lite1_flower_photos": ("flower_photos", "efficientnet_lite1", PHOTO),
    "centernet_flowers": ("flowers", "centernet", PLANT),
    "unet_flowers": ("flowers", "unet", PLANT),
    "flow_flowers": ("flowers", "flow", None),
}
ANSWERS = ("answer_class", "answer_boxes", "answer_mask")  # file names, of the first three models
SCREENSHOTS = ("classification", "detection", "segmentation", "generation")
# Model: its report, how many pictures a sheet shows, and which drawings become which files.
SHEETS = {
    "lenet": ("classification", 8, {"confusion_matrix": ".png", "worst_mistakes": ".jpg"}),
    "centernet": ("detection", 6, {"predictions": "detection.jpg"}),
    "unet": ("segmentation", 6, {"predictions": "segmentation.jpg"}),
    "flow": ("generation", 24, {"samples": "generation.jpg"}),
}
INFER = """
import runpy
from nano_cv.evaluation import reports

reports.find("{report}").most = {most}
runpy.run_path("infer.py", run_name="__main__")
"""
TYPED = "python train.py +data=flowers +model=lenet64 trainer.max_epochs=8"
# Rich's drawing of a terminal, without fonts that a browser would fetch from elsewhere.
SVG = re.sub(r"@font-face.*?}}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
SVG = SVG.replace("Fira Code, monospace", "monospace")
SVG = SVG.replace("<svg ", '<svg width="{width}" height="{height}" ')


def run(script: str, *arguments: str) -> None:
    """Run a script of this repository, untracked."""
    line = [sys.executable, *(("-c", script) if "\n" in script else (script,)), *arguments]
    subprocess.run([*line, "logger=none"], cwd=ROOT, check=True)


def draw_sheets() -> None:
    """The drawings of `python infer.py +data=flowers +model=...`, with fewer pictures on each."""
    for model, (report, most, files) in SHEETS.items():
        with TemporaryDirectory() as folder:
            script = INFER.format(report=report, most=most)
            run(script, "+data=flowers", f"+model={model}", f"hydra.run.dir={folder}")
            for name, file in files.items():
                target = DOCS / (f"{name}{file}" if file.startswith(".") else file)
                with Image.open(Path(folder) / f"{name}.png") as drawing:
                    drawing.save(target, quality=QUALITY, optimize=True)


def draw_answers() -> None:
    """The drawing of `python infer.py input=...` for one picture per task."""
    for name, (data, model, picture) in zip(ANSWERS, MODELS.values(), strict=False):
        with TemporaryDirectory() as folder:
            chosen = (f"+data={data}", f"+model={model}", f"input={picture}")
            run("infer.py", *chosen, f"hydra.run.dir={folder}")
            with Image.open(Path(folder) / "predictions.png") as drawing:
                drawing.thumbnail((SIDE, SIDE))
                drawing.save(DOCS / f"{name}.jpg", quality=QUALITY, optimize=True)


def draw_terminal() -> None:
    """What a short training prints, in a terminal of 80 columns."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(ROOT / "data")
        script, *arguments = TYPED.split()[1:]
        line = [sys.executable, str(ROOT / script), *arguments]
        # Where SLURM is installed, Lightning would warn that it is not used.
        quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            line, cwd=folder, check=True, text=True, capture_output=True, env=quiet
        )
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(Text(f"$ {TYPED}", style="bold"))
    console.print(Text(done.stderr + done.stdout.rstrip()))
    svg = console.export_svg(title="nano-cv", code_format=SVG, unique_id="terminal")
    (DOCS / "terminal.svg").write_text(svg)


def draw_page() -> None:
    """The page of `serve.py` with an answer of each task, in a browser without a window."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True)))
        for data, model, _ in MODELS.values():
            chosen = (f"+data={data}", f"+model={model}")
            run("export_model.py", *chosen, f"paths.models={folder}/models")
        # Without Triton, which makes no difference to the page.
        trial = stack.enter_context(Trial(folder / "models", folder, without=True))
        trial.wait(lambda: trial.health()[0] == 200, 600)
        browser = stack.enter_context(Chromium(folder / "profile", "--hide-scrollbars"))
        for name, (model, (_, _, picture)) in zip(SCREENSHOTS, MODELS.items(), strict=True):
            show_answer(browser, f"{trial.address}/?model={model}", picture)
            # A reader's server has the usual address.
            port = trial.ports["port"]
            browser.run(f"curl.textContent = curl.textContent.replace('{port}', '8000')")
            bottom = browser.run("document.getElementById('how').getBoundingClientRect().bottom")
            browser.screenshot(folder / "page.png")
            with Image.open(folder / "page.png") as shot:
                part = shot.convert("RGB").crop((0, 0, shot.width, int(bottom) + 16))
                part.thumbnail((WIDTH, 2 * WIDTH))
                part.save(DOCS / f"page_{name}.jpg", quality=QUALITY, optimize=True)


def show_answer(browser: Chromium, address: str, picture: Path | None) -> None:
    """Open the page, and ask the model about a picture, or for eight new ones."""
    browser.open(address)
    browser.wait("document.getElementById('facts')?.children.length > 0")
    if picture:
        browser.give("#file", picture)
    else:
        browser.run("count.value = 8; generate.requestSubmit()")
    browser.wait("document.getElementById('status').innerText.startsWith('Answered in ')", 120)


KINDS: dict[str, Callable[[], None]] = {
    "answers": draw_answers,
    "page": draw_page,
    "sheets": draw_sheets,
    "terminal": draw_terminal,
}

if __name__ == "__main__":
    for kind in sys.argv[1:] or KINDS:
        KINDS[kind]()
