"""Draw the pictures in docs/ anew, with the shipped weights: `python -m tools.draw_docs`.

They are the drawings of `python infer.py +data=flowers +model=...`, with fewer pictures on a sheet.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

ROOT = Path(__file__).parent.parent
QUALITY = 92  # of JPEG
# Model: its report, how many pictures a sheet shows, and which drawings become which files.
DRAWN = {
    "lenet": ("classification", 8, {"confusion_matrix": ".png", "worst_mistakes": ".jpg"}),
    "centernet": ("detection", 6, {"predictions": "detection.jpg"}),
    "unet": ("segmentation", 6, {"predictions": "segmentation.jpg"}),
    "flow": ("generation", 24, {"samples": "generation.jpg"}),
}
INFER = """
import runpy
from nano_cv.evaluation.reports import {report}

{report}.MOST = {most}
runpy.run_path("infer.py", run_name="__main__")
"""


def draw(model: str) -> None:
    """Predict the test split with one model, and keep its drawings in docs/."""
    report, most, files = DRAWN[model]
    with TemporaryDirectory() as folder:
        script = INFER.format(report=report, most=most)
        options = ("+data=flowers", f"+model={model}", "logger=none", f"hydra.run.dir={folder}")
        subprocess.run([sys.executable, "-c", script, *options], cwd=ROOT, check=True)
        for name, file in files.items():
            target = ROOT / "docs" / (f"{name}{file}" if file.startswith(".") else file)
            with Image.open(Path(folder) / f"{name}.png") as drawing:
                drawing.save(target, quality=QUALITY, optimize=True)


if __name__ == "__main__":
    for model in DRAWN:
        draw(model)
