"""Names that people give, and very many classes: nothing that is drawn or written may fail."""

import csv
import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from conftest import CONTRACT, TINY, make_flowers, picture, read_csv
from PIL import Image, ImageDraw

from nano_cv.data.pictures import Pictures
from nano_cv.data.targets import Boxes
from nano_cv.evaluation import drawing, terminal
from nano_cv.evaluation.evaluate import write_table
from nano_cv.evaluation.reports.classification import ClassificationReport
from nano_cv.evaluation.reports.detection import DetectionReport
from nano_cv.evaluation.tables import cell, distinct
from nano_cv.evaluation.tracking import Logger

ODD = ["$\\frac$", "a_b^c", "%", "日本 猫", "a\nb", "\x1b[2J", "\udc80", "_hidden", "", "x" * 300]


def boxes_report(files, boxes, scores, classes, targets=()):
    """A report in which each picture has these boxes, in pixels of the input of the network."""
    answer = {
        "BOXES": np.float32([boxes] * len(files)),
        "LABELS": np.array([[n % len(classes) for n in range(len(boxes))]] * len(files)),
        "SCORES": np.float32([scores] * len(files)),
    }
    pictures = Pictures(files[0].parent, files, targets, classes)
    return DetectionReport(replace(CONTRACT, task="detection", classes=classes), answer, pictures)


@pytest.mark.filterwarnings("error")
def test_any_name_is_drawn_as_it_stands(tmp_path):
    counts = np.eye(len(ODD), dtype=np.int64)
    assert drawing.confusion_matrix(counts, ODD).std() > 0
    files = [tmp_path / "$a$.jpg", tmp_path / "b_日本\n.jpg"]
    for file in files:
        picture(file)
    assert (
        drawing.sheet(Pictures(tmp_path, files), [0, 1], ["$\\x$", "\udc80"].__getitem__).std() > 0
    )
    boxes = [[5, 20, 50, 60]] * len(ODD)
    targets = [Boxes(np.float32([[1, 2, 30, 30]]), np.zeros(1, int), np.zeros(1, np.uint8))] * 2
    for known in ((), targets):
        report = boxes_report(files, boxes, [0.9] * len(ODD), ODD, known)
        assert all(draw().std() > 0 for draw in report.drawings().values())


def test_classes_in_a_script_without_font_are_numbered(caplog, monkeypatch):
    """In the log is why, once, however many drawings there are."""
    monkeypatch.setattr(drawing, "fonts", lambda: {"Latin": frozenset(range(32, 0x250))})
    names = ("Rose", "गुलाब", "naïve-1", "猫", "a\nb")
    for _ in range(2):
        assert drawing.legible(names) == ["Rose", "class 1", "naïve-1", "class 3", "a\nb"]
    (said,) = caplog.messages
    assert "2 class names" in said and "Noto Sans CJK" in said


def test_report_of_a_thousand_classes(drawn, tmp_path):
    random = np.random.default_rng(0)
    classes = [f"class{index:04d}" for index in range(1000)]
    picture(tmp_path / "a.png")
    targets = random.integers(0, 1000, 400).tolist()
    pictures = Pictures(tmp_path, [tmp_path / "a.png"] * 400, targets, classes)
    metadata = replace(CONTRACT, classes=classes)
    answers = {"CLASS_PROBS": random.random((400, 1000), np.float32)}
    tracemalloc.start()
    report = ClassificationReport(metadata, answers, pictures)
    figures = report.metrics()
    write_table(tmp_path / "t.csv", report.rows())
    for name, draw in report.drawings().items():
        drawing.write_drawing(name, draw, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    recalls = len(set(pictures.targets))  # of classes that occur
    assert figures.keys() >= {"accuracy", "f1", "ece"} and len(figures) == 3 + recalls
    assert peak < 3e8
    with Image.open(tmp_path / "confusion_matrix.png") as drawn:
        assert max(drawn.size) < 2000
    with (tmp_path / "t.csv").open() as file:
        assert next(csv.reader(file)) == ["file", "label", "target", *classes]


def test_worst_are_printed(tmp_path, capsys):
    recalls = {f"test/recall/{name}": name / 100 for name in range(100)}
    terminal.summarise({"test/accuracy": 0.5, **recalls}, {"run": tmp_path}, Logger())
    said = capsys.readouterr().out.splitlines()
    assert " ".join(said[1:3]).split() == ["test/recall/0", "0.0000", "test/recall/1", "0.0100"]
    assert "and 95 more, in metrics.json" in said[6] and len(said) < 10


def test_a_drawing_that_fails_is_a_warning(succeeds, drawn, flowers, tmp_path, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    for name in ("drawing.confusion_matrix", "survey.contact_sheet"):
        monkeypatch.setattr(f"nano_cv.evaluation.{name}", fails)
    done = succeeds("train", *TINY)
    (folder,) = tmp_path.glob("runs/train/*/*")
    log = (folder / "train.log").read_text()
    for name in ("data", "confusion_matrix"):
        assert f"{name}.png could not be drawn, and is left out: MemoryError" in log
        assert not (folder / f"{name}.png").exists()
    assert (folder / "worst_mistakes.png").exists() and (folder / "predictions.csv").exists()
    figures = json.loads((folder / "metrics.json").read_text())
    assert f" {figures['test/accuracy']:.4f}\n" in done.out
    assert figures.keys() >= {"test/f1", "test/recall/aster"}


def test_classes_called_as_columns_or_formulas(succeeds, tmp_path):
    """A training to its end: each class keeps a column, and no cell is a formula."""
    kinds = {"file": (220, 60, 60), "label": (60, 200, 60), "=1+1": (60, 60, 220), "$x_": (9, 9, 9)}
    make_flowers(tmp_path / "data" / "flowers", kinds)
    succeeds("train", *TINY)
    (table,) = tmp_path.glob("runs/train/*/*/predictions.csv")
    rows = read_csv(table)
    columns = ["$x_", "'=1+1", "file (class)", "label (class)"]
    assert list(rows[0]) == ["file", "label", "target", "label_set", "foreign", *columns]
    assert sum(float(rows[0][name]) for name in columns) == pytest.approx(1, abs=1e-4)
    assert {row["target"] for row in rows} == {"file", "label", "'=1+1", "$x_"}
    assert any(row["file"].startswith("'=1+1/") for row in rows)
    classes = read_csv(table.parent / "classes.csv")
    assert [row["class"] for row in classes] == ["$x_", "'=1+1", "file", "label"]


def test_cells_and_columns():
    for text in ("=1", "+1", "-1", "@x", "\tx", "\rx", "  =1", "'=1", "\ufeff=1", "\uff1d1"):
        assert cell(text) == f"'{text}"
    for text in ("a=1", "1-2", "", "'quoted'", "ä"):
        assert cell(text) == text
    expected = ["file (class) (class)", "a", "file (class)"]
    assert distinct(["file", "a", "file (class)"], ["file"]) == expected


def test_boxes_of_no_width_are_no_boxes(tmp_path):
    """As those are that lie in the margin of a letterboxed picture; here there is no other."""
    report = boxes_report([picture(tmp_path / "a.png")], [[4, 4, 4, 9]], [0.9], ["cat"])
    assert "no box is sure enough in a.png; the highest score there is 0, of" in report.remarks()[0]


def test_boxes_have_scores_inside_the_picture(monkeypatch, tmp_path):
    said: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda _, at, text, *__, **___: said.append(text)
    )
    file = picture(tmp_path / "a.png", width=320, height=320)
    side = CONTRACT.image_size
    corners = [[0, 0, 9, 9], [side - 9, 0, side, 9], [0, side - 9, 9, side], [0, 0, side, side]]
    report = boxes_report([file], corners, [0.91, 0.82, 0.73, 0.64], ["cat", "a long name"])
    report.drawings()["predictions"]()
    assert {"cat 0.91", "a long name 0.82", "cat 0.73", "4 found"} <= set(said)
    assert {"cat", "a long name"} <= set(said), "the legend"
