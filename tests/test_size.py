"""Nano is a promise: how many lines a person reads to follow what one command does.

`python -m pytest tests/test_size.py -s` prints them. The limits are what is there, rounded up; the
aim is less than half of it.
"""

import pytest
from conftest import ROOT, TINY, make_flowers, python

# Runs a script as a person would, then counts the lines of those modules of ours that it loaded.
COUNT = """
import runpy, sys
from pathlib import Path

root, script = Path(sys.argv[1]), sys.argv[2]
sys.argv = [script, *sys.argv[3:]]
try:
    runpy.run_path(str(root / script), run_name="__main__")
finally:
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    ours = {Path(file) for file in files if file and Path(file).is_relative_to(root / "nano_cv")}
    print("loaded", sum(len(file.read_text().splitlines()) for file in ours), len(ours))
"""


def loaded(folder, script: str, *settings: str) -> int:
    done = python("-c", COUNT, str(ROOT), script, *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines, files = map(int, done.stdout.rpartition("loaded ")[2].split())
    print(f"\n{script} {' '.join(settings[:2])}: {lines:,} lines in {files} files")
    return lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("size")
    make_flowers(folder / "data" / "flowers")
    return folder, loaded(folder, "train.py", "+data=flowers", "+model=lenet", *TINY)


def test_lines_of_a_training(trained):
    assert trained[1] <= 8_650


def test_lines_of_an_export(trained):
    assert loaded(trained[0], "export_model.py", "+data=flowers", "+model=lenet", *TINY) <= 8_700


def test_lines_of_a_prediction(trained):
    picture = next((trained[0] / "data/flowers/aster").glob("*.jpg"))
    settings = ("+data=flowers", "+model=lenet", f"input={picture}", *TINY)
    assert loaded(trained[0], "infer.py", *settings) <= 6_700


def test_lines_of_the_package():
    package = ROOT / "nano_cv"
    rooms = {path.name: path.rglob("*.py") for path in sorted(package.iterdir()) if path.is_dir()}
    rooms["itself"] = package.glob("*.py")
    lines = {
        name: sum(len(file.read_text().splitlines()) for file in files)
        for name, files in rooms.items()
    }
    print("\n" + "\n".join(f"{count:6,}  nano_cv/{name}" for name, count in lines.items() if count))
    assert sum(lines.values()) <= 18_830
