"""Nano is a promise: how many lines a person reads to follow what one command does.

`python -m pytest tests/test_size.py -s` prints them. The limits are what is there, rounded up; the
aim is less than half of it.
"""

import pytest
from conftest import ROOT, TINY, make_flowers, python

# Runs scripts as a person would, each in a process that has loaded nothing of ours before, and
# counts the lines of those modules of ours that it then has. What all of them need of others is
# loaded once; without Triton's wheel an export is not loaded into a server.
COUNT = """
import importlib, os, runpy, sys
from pathlib import Path

root, foreign, heavy, scripts = Path(sys.argv[1]), *map(str.split, sys.argv[2:5])
settings = sys.argv[5:]
sys.modules["pytriton"] = None
for name in foreign:
    importlib.import_module(name)
for script in scripts:
    if child := os.fork():
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(1)
        continue
    sys.argv = [script, *settings]
    runpy.run_path(str(root / script), run_name="__main__")
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    ours = {Path(file) for file in files if file and Path(file).is_relative_to(root / "nano_cv")}
    lines = sum(len(file.read_text().splitlines()) for file in ours)
    print("loaded", lines, len(ours), *sorted(set(heavy) & set(sys.modules)))
    sys.stdout.flush()
    os._exit(0)
"""
# What trains, tracks, exports and serves takes seconds to load, and predicts nothing.
HEAVY = "pytorch_lightning torchmetrics torchvision timm mlflow onnx onnxruntime tritonclient"


def loaded(folder, foreign: str, *scripts: str, settings: tuple[str, ...] = ()) -> list[list[str]]:
    """For each script the lines of ours that it loads, the number of files, and what is heavy."""
    given = (str(ROOT), foreign, HEAVY, " ".join(scripts), "+data=flowers", "+model=lenet")
    done = python("-c", COUNT, *given, *TINY, *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded ")]
    for script, (lines, files, *_) in zip(scripts, found, strict=True):
        print(f"\n{script}: {int(lines):,} lines in {files} files")
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("size")
    make_flowers(folder / "data" / "flowers")
    return folder, loaded(folder, "pytorch_lightning onnx", "train.py", "export_model.py")


def test_lines_of_a_training_and_of_an_export(trained):
    training, export = (int(found[0]) for found in trained[1])
    assert training <= 7_400 and export <= 7_795


def test_lines_of_a_prediction_that_loads_torch_and_little_else(trained):
    picture = next((trained[0] / "data/flowers/aster").glob("*.jpg"))
    ((lines, _, *heavy),) = loaded(trained[0], "", "infer.py", settings=(f"input={picture}",))
    assert int(lines) <= 5_620 and heavy == []


def test_lines_of_the_package():
    package = ROOT / "nano_cv"
    rooms = {path.name: path.rglob("*.py") for path in sorted(package.iterdir()) if path.is_dir()}
    rooms["itself"] = package.glob("*.py")
    lines = {
        name: sum(len(file.read_text().splitlines()) for file in files)
        for name, files in rooms.items()
    }
    print("\n" + "\n".join(f"{count:6,}  nano_cv/{name}" for name, count in lines.items() if count))
    assert sum(lines.values()) <= 18_925
