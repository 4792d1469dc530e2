"""Nano is a promise: how many lines there are, and what a prediction loads.

`python -m pytest tests/test_size.py -s` prints them. The limits are what is there, rounded up; the
aim is less than half of it.
"""

from collections.abc import Iterable
from pathlib import Path

from conftest import ROOT, TINY, python

# Runs a script as a person would, in a process that has loaded nothing of ours before.
MODULES = """
import runpy, sys

script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
print("loaded")
for name, module in list(sys.modules.items()):
    print(name, getattr(module, "__file__", None))
"""
# What trains, tracks, exports and serves takes seconds to load, and predicts nothing.
HEAVY = "pytorch_lightning torchmetrics torchvision timm mlflow onnx onnxruntime tritonclient"


def count(files: Iterable[Path]) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def test_a_prediction_loads_torch_and_little_else(flowers, untrained, tmp_path):
    given = [*TINY, f"input={next(flowers.glob('aster/*.jpg'))}"]
    done = python("-c", MODULES, str(ROOT / "infer.py"), *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = done.stdout.partition("\nloaded\n")[2].splitlines()
    modules = dict(line.split(maxsplit=1) for line in found)
    assert "torch" in modules and not modules.keys() & set(HEAVY.split())
    ours = {file for name, file in modules.items() if name.startswith("nano_cv.")} - {"None"}
    lines = count(map(Path, ours))
    print(f"\ninfer.py: {lines:,} lines in {len(ours)} files")
    assert lines <= 6_400


def test_lines_of_the_package():
    package = ROOT / "nano_cv"
    rooms = {path.name: path.rglob("*.py") for path in sorted(package.iterdir()) if path.is_dir()}
    rooms["itself"] = package.glob("*.py")
    lines = {name: count(files) for name, files in rooms.items()}
    print("\n" + "\n".join(f"{count:6,}  nano_cv/{name}" for name, count in lines.items() if count))
    assert sum(lines.values()) <= 18_605
