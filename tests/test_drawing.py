"""Names that people give, and very many classes: nothing that is drawn or written may fail."""

import csv
import json
import time
import tracemalloc

import numpy as np
import pytest
from conftest import CONTRACT, TINY, make_flowers
from PIL import Image, ImageDraw

from nano_cv.data.pictures import Pictures
from nano_cv.evaluation import drawing, summary
from nano_cv.evaluation.evaluate import write_table
from nano_cv.evaluation.reports.classification import ClassificationReport
from nano_cv.evaluation.reports.segmentation import SegmentationReport
from nano_cv.evaluation.tables import cell, distinct
from nano_cv.evaluation.tracking import Logger

ODD = ["$\\frac$", "a_b^c", "%", "日本 猫", "a\nb", "\x1b[2J", "\udc80", "_hidden", "", "x" * 300]


def texts(monkeypatch) -> list[str]:
    """What matplotlib is given to draw from now on, in cells and titles."""
    said: list[str] = []
    for name, place in (("text", 2), ("set_title", 0)):
        original = getattr(drawing.make_figure(1, 1, dpi=100).add_subplot().__class__, name)

        def spy(*given, _original=original, _place=place, **options):
            said.append(given[1 + _place])
            return _original(*given, **options)

        monkeypatch.setattr(f"matplotlib.axes.Axes.{name}", spy)
    return said


@pytest.mark.filterwarnings("error")
def test_any_name_is_drawn_as_it_stands(tmp_path):
    counts = np.eye(len(ODD), dtype=np.int64)
    assert drawing.confusion_matrix(counts, ODD).std() > 0
    lines = {f"{index} {name}": np.linspace(1, 0, 9) for index, name in enumerate(ODD)}
    assert drawing.curves(lines, "recall", "precision").std() > 0
    files = [tmp_path / "$a$.jpg", tmp_path / "b_日本\n.jpg"]
    for file in files:
        Image.new("RGB", (60, 40)).save(file)
    assert drawing.sheet(Pictures(tmp_path, files), [0, 1], ["$\\x$", "\udc80"]).std() > 0
    image = np.zeros((64, 64, 3), np.uint8)
    boxes = np.tile(np.float32([5, 20, 50, 60]), (len(ODD), 1))
    assert drawing.outline(image, boxes, ["#ffffff"] * len(ODD), ODD).any()


def test_what_no_font_has_is_shown_by_number():
    assert drawing.shown("a\nb\x1b\udc80$_^") == "a\\nb\\x1b\\udc80$_^"
    assert drawing.shown("\U000f0000") == "\\U000f0000"
    assert len(drawing.shown("x" * 300)) <= drawing.LONGEST


def test_pixels_are_shown_as_shares_of_the_true_class(monkeypatch):
    said = texts(monkeypatch)
    counts = np.array([[22_014_754, 0], [1, 2]])
    drawing.confusion_matrix(counts, ["a", "b"], "pixels")
    assert said[:4] == ["100", "0", "33.3", "66.7"] and "% of each true class" in said[4]
    said.clear()
    drawing.confusion_matrix(counts, ["a", "b"])
    assert said[:4] == ["22014754", "0", "1", "2"], "of pictures, how many"


def test_of_many_classes_the_most_confused_are_drawn(monkeypatch):
    said = texts(monkeypatch)
    counts = 9 * np.eye(200, dtype=np.int64)
    counts[150, 77] = 123
    counts[150, 3:40] = 1  # less often, with others
    drawn = drawing.confusion_matrix(counts, [str(index) for index in range(200)])
    assert drawn.nbytes < 30e6 and "123" in said
    assert "25 most confused of 200 classes" in said[-1]


def test_report_of_a_thousand_classes(tmp_path):
    """2,000 predictions: seconds and memory of all that is written."""
    random = np.random.default_rng(0)
    classes = [f"class{index:04d}" for index in range(1000)]
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    targets = random.integers(0, 1000, 2000).tolist()
    pictures = Pictures(tmp_path, [tmp_path / "a.png"] * 2000, targets, classes)
    metadata = CONTRACT.__class__(**{**vars(CONTRACT), "classes": classes})
    answers = {"CLASS_PROBS": random.random((2000, 1000), np.float32)}
    tracemalloc.start()
    start = time.process_time()
    report = ClassificationReport(metadata, answers, pictures)
    figures = report.metrics()
    write_table(tmp_path / "t.csv", report.rows())
    for name, draw in report.drawings().items():
        drawing.keep(name, draw, tmp_path)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    recalls = len(set(pictures.targets))  # of classes that occur
    assert figures.keys() >= {"accuracy", "f1", "ece"} and len(figures) == 3 + recalls
    assert seconds < 60 and peak < 1e9  # traced it is ten times slower
    with Image.open(tmp_path / "confusion_matrix.png") as drawn:
        assert max(drawn.size) < 3000
    with (tmp_path / "t.csv").open() as file:
        assert next(csv.reader(file)) == ["file", "label", "target", *classes]


def test_worst_are_printed(tmp_path, capsys):
    recalls = {f"test/recall/{name}": name / 100 for name in range(100)}
    summary.summarise({"test/accuracy": 0.5, **recalls}, {"run": tmp_path}, Logger())
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said[1:3]] == [
        ["test/recall/0", "0.0000"],
        ["test/recall/1", "0.0100"],
    ]
    assert "and 95 more, in metrics.json" in said[6] and len(said) < 10


def test_a_drawing_that_fails_is_a_warning(run, flowers, tmp_path, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    for name in (
        "nano_cv.evaluation.drawing.confusion_matrix",
        "nano_cv.evaluation.survey.contact_sheet",
    ):
        monkeypatch.setattr(name, fails)
    done = run("train", *TINY)
    assert done.status == 0, done.err
    (folder,) = tmp_path.glob("runs/train/*/*")
    log = (folder / "train.log").read_text()
    for name in ("data", "confusion_matrix"):
        assert f"{name}.png could not be drawn, and is left out: MemoryError" in log
        assert not (folder / f"{name}.png").exists()
    assert (folder / "worst_mistakes.png").exists() and (folder / "predictions.csv").exists()
    figures = json.loads((folder / "metrics.json").read_text())
    assert f" {figures['test/accuracy']:.4f}\n" in done.out
    assert figures.keys() >= {"test/f1", "test/recall/aster"}


def test_classes_called_as_columns_or_formulas(run, tmp_path):
    """A training to its end: each class keeps a column, and no cell is a formula."""
    kinds = {"file": (220, 60, 60), "label": (60, 200, 60), "=1+1": (60, 60, 220), "$x_": (9, 9, 9)}
    make_flowers(tmp_path / "data" / "flowers", kinds)
    done = run("train", *TINY)
    assert done.status == 0, done.err
    (table,) = tmp_path.glob("runs/train/*/*/predictions.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    columns = ["$x_", "'=1+1", "file (class)", "label (class)"]
    assert list(rows[0]) == ["file", "label", "target", "label_set", "foreign", *columns]
    assert sum(float(rows[0][name]) for name in columns) == pytest.approx(1, abs=1e-4)
    assert {row["target"] for row in rows} == {"file", "label", "'=1+1", "$x_"}
    assert any(row["file"].startswith("'=1+1/") for row in rows)
    with (table.parent / "classes.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["$x_", "'=1+1", "file", "label"]


def test_cells_and_columns():
    for text in ("=1", "+1", "-1", "@x", "\tx", "\rx", "  =1", "'=1", "\ufeff=1", "\uff1d1"):
        assert cell(text) == f"'{text}"
    for text in ("a=1", "1-2", "", "'quoted'", "ä"):
        assert cell(text) == text
    assert distinct(["file", "a", "file (class)"], ["file"]) == [
        "file (class) (class)",
        "a",
        "file (class)",
    ]


def test_segmentation_with_a_class_called_as_a_column(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "=a.png")
    classes = ["mIoU", "file"]
    pictures = Pictures(tmp_path, [tmp_path / "=a.png"], [], classes)
    metadata = CONTRACT.__class__(**{**vars(CONTRACT), "task": "segmentation", "classes": classes})
    answer = {"MASK": np.zeros((1, 32, 32), np.uint8)}
    report = SegmentationReport(metadata, answer, pictures)
    (row,) = report.rows()
    assert row == {"file": "=a.png", "mIoU (class)": "1.0000", "file (class)": "0.0000"}
    assert all(draw().ndim == 3 for draw in report.drawings().values())


def test_pen_of_pillow_writes_anything():
    canvas = Image.new("RGB", (300, 300), "white")
    for row, text in enumerate(ODD):
        drawing.write(ImageDraw.Draw(canvas), 2, 20 * row, text)
    assert np.asarray(canvas).min() < 100
