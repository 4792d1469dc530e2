"""The renderer reproduces the shipped set."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.render_flowers.plant import render

ROOT = Path(__file__).parents[2]
SET = ROOT / "data/flowers"
NAMES = ["arabidopsis/plant001", "tobacco/plant210"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.render_flowers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_plants_are_reproduced(tmp_path, name):
    """Bit for bit in every pixel. Not in the bytes of PNGs: zlib may pack on another processor
    otherwise, which no one sees."""
    if not SET.exists():
        pytest.skip("no data/flowers here; type: dvc pull")
    done = run("--output", str(tmp_path / "new"), "--only", name)
    assert done.returncode == 0, done.stderr
    for part in ("rgb.jpg", "label.png", "centers.png", "mask.png"):
        new, shipped = (pixels(folder / f"{name}_{part}") for folder in (tmp_path / "new", SET))
        assert np.array_equal(new, shipped), part


def test_annotations_agree():
    plant = render("tobacco/plant005")
    leaves = set(np.unique(plant.label)) - {0}
    assert leaves == set(range(1, len(leaves) + 1)) and len(leaves) >= 3
    assert np.array_equal(plant.mask == 1, plant.label > 0)
    marked = plant.label[plant.centers > 0]
    assert sorted(marked) == sorted(leaves)
    assert plant.image.shape == (*plant.label.shape, 3)


def test_mistakes_are_one_message(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    for arguments, said in (
        (["--output", str(tmp_path / "full")], "not an empty folder"),
        (["--output", str(tmp_path / "new"), "--only", "dasy/plant003"], "daisy/plant003"),
    ):
        done = run(*arguments)
        assert done.returncode == 1 and done.stderr.startswith("error:") and said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
