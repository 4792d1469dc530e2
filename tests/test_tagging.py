"""Several labels per picture: how tables say it, what is learnt, and what is answered."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CONTRACT, TINY, open_splits, picture, read_csv, refused
from sklearn.metrics import average_precision_score, f1_score
from test_calibration import plain

from nano_cv.data.formats.shards import read_shards, write_shards
from nano_cv.data.formats.table import read_table
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.evaluation.answers import describe
from nano_cv.evaluation.card import make_card
from nano_cv.evaluation.reports.tagging import TaggingReport
from nano_cv.export import precision
from nano_cv.tasks.score_metrics import count_tags, tagging_figures
from nano_cv.tasks.tagging import Tagging

pytestmark = pytest.mark.usefixtures("every_message")
COLOURS = {"red": 0, "green": 1, "blue": 2}
SETS = ["", "red", "green", "red green", "blue", "red blue"]  # labels of the tiny pictures, in turn


def make_tags(root, count: int = 12, header: str = "file,labels,split") -> None:
    """Pictures of noise, bright in the colours that are their labels."""
    rows = [header]
    random = np.random.default_rng(0)
    for split in SPLITS:
        for number in range(count):
            labels = SETS[number % len(SETS)].split()
            colour = [220 if name in labels else 40 for name in COLOURS]
            noisy = tuple(int(one + random.integers(-30, 31)) for one in colour)
            picture(root / f"{split}{number}.png", noisy)
            rows.append(f"{split}{number}.png,{' '.join(labels)},{split}")
    (root / "tags.csv").write_text("\n".join(rows))


def read(root, header: str, cells: list[str]):
    """The labels of each picture by name, as strings, or tuples of them where there are several."""
    for number in range(len(cells)):
        picture(root / f"{number}.png")
    rows = [f"{number}.png,{cell}" for number, cell in enumerate(cells)]
    (root / "labels.csv").write_text("\n".join([f"file,{header}", *rows]))
    found = {}
    for pictures in read_table(root, "classification").values():
        for name, target in zip(pictures.names, pictures.targets, strict=True):
            one = pictures.classes
            several = isinstance(target, tuple)
            found[int(name[:-4])] = tuple(one[n] for n in target) if several else one[target]
    return [found[number] for number in range(len(cells))]


@pytest.mark.parametrize(
    ("header", "cells", "said", "expected"),
    [
        ("labels", ["a", "b", "a b", ""], "separated by ' '", ["a", "b", "a,b", ""]),
        ("Tags", ["a|c c", "b", "a"], "separated by '|'", ["a,c c", "b", "a"]),
        ("labels", ["a; b;", "b", "a;b;a"], "separated by ';'", ["a,b", "b", "a,b"]),
        ("labels", ['"a b,c"', "c", '"c, a b"'], "by ',': a b, c", ["a b,c", "c", "a b,c"]),
        ("labels", ["\"['a', 'b']\"", "[]", '"[""b""]"'], "in lists", ["a,b", "", "b"]),
        ("label", ['"a,b"', "b", "a"], "separated by ','", ["a,b", "b", "a"]),
        ("label", ['"{""choices"": [""a"",""b""]}"', "b", "a"], "none: a, b", ["a,b", "b", "a"]),
        ("a,b", ["1,0.0", "True,1", "0,0"], "a column of 0 and 1 for each", ["a", "a,b", ""]),
        ("a,b", ["1,-1", "1,1", "-1,-1"], "-1 is taken as 0 in the columns a", ["a", "a,b", ""]),
        ("a,b,c", ["1,0,0", "1,1,0"], "no picture has the label 'c'", ["a", "a,b"]),
    ],
)
def test_tables_of_several_labels(tmp_path, caplog, header, cells, said, expected):
    found = read(tmp_path, header, cells)
    assert "labels.csv: several labels per picture, " in caplog.text and said in caplog.text
    assert [",".join(one) for one in found] == expected


@pytest.mark.parametrize(
    ("header", "cells", "said"),
    [
        ("label", ["rose hip", "rose", "daisy"], ""),
        ("label", ["fire truck", "fire", "truck"], "'fire truck' is one label; if it is several"),
        ("label", ['"tench, Tinca tinca"', '"goldfish, Carassius"'], ""),
        ("labels", ['"tench, Tinca tinca"', '"goldfish, Carassius"'], "separate them by '|'"),
        ("labels", ["stop sign", "traffic light"], "separate them by '|'"),
        ("labels", ["ace of clubs", "two of clubs", "ace of hearts", "two of hearts"], "by '|'"),
    ],
)
def test_tables_of_one_label(tmp_path, caplog, header, cells, said):
    assert read(tmp_path, header, cells) == [cell.strip('"') for cell in cells]
    assert said in caplog.text and "several labels per picture" not in caplog.text
    assert bool(said) == ("is one label; if it is several" in caplog.text)


def test_a_separator_of_ones_own(tmp_path):
    cells = ['"red,white"', "red", "white", '"red,white"', "red", "white"]
    assert read(tmp_path, "label", cells)[0] == ("red", "white")
    classes = read_table(tmp_path, "classification", "none")["train"].classes
    assert classes == ["red", "red,white", "white"]
    read(tmp_path, "tags", ["a+b", "a", "b"])
    assert read_table(tmp_path, "classification", "+")["train"].classes == ["a", "b"]


def test_columns_of_which_one_is_1_are_classes(tmp_path, caplog):
    found = read(tmp_path, "MEL,NV,age", ["1.0,0.0,70", "0.0,1.0,1", "0.0,1.0,0"])
    assert found == ["MEL", "NV", "NV"]
    assert "one label per picture, the column that is 1: MEL, NV" in caplog.text


@pytest.mark.parametrize(
    ("header", "cells", "said"),
    [
        ("a,b", ["1,0", "0,-1"], "line 3: column 'b' is '-1'; 0 or 1 is needed"),
        ("label", ['"a', "b", "a"], "unexpected end of data; a quote may stand alone"),
        ("labels", ["a,b", "a"], "line 2: 3 cells, and the first line names 2; put labels with"),
        ("label", ["a,b", "a"], "line 2: 3 cells, and the first line names 2; put a label with a"),
        ("label", ["a", "b", ""], "line 4: no label"),
        ("labels", ["a", ""], "at least two labels are needed; there is a"),
        ("labels", ['"[\'a]"', '"[b]"'], "not a list of labels"),
        ("label", ['"[{""x"": 1}]"', "b"], 'line 2: [{"x": 1}]: JSON is no label'),
        ("region_shape_attributes", ["{}"], "boxes of the VGG Image Annotator"),
        ("labels", ['"[0, 1]"', '"[1, 0]"'], "line 2: lists of 0 and 1: 0 and 1 do not"),
        ("a,b", [f"{n % 2},{1 - n % 2}" for n in range(9)] + ["x,0"], "line 11: column 'a' is 'x'"),
    ],
)
def test_refused_tables(tmp_path, header, cells, said):
    assert said in refused(lambda: read(tmp_path, header, cells))


def test_the_same_set_in_shards(tmp_path):
    make_tags(tmp_path)
    loose, expected = open_splits(read_table, tmp_path, "classification", 16, None, "stretch")
    shards = tmp_path / "shards"
    write_shards(loose, expected, str(shards), 10**6)
    packed, found = open_splits(read_shards, shards, "classification", 16, None, "stretch")
    assert found == expected
    assert packed["val"].targets([0, 3]).tolist() == [[0, 0, 0], [0, 1, 1]]
    assert packed["train"].count().tolist() == loose["train"].count().tolist() == [4, 4, 6]
    for read_set, root in ((read_table, tmp_path), (read_shards, shards)):
        assert "one label each" in refused(partial(read_set, root, "generation"))


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn(seed):
    """Equal probabilities too, and a label that no picture has."""
    random = np.random.default_rng(seed)
    shares = random.integers(0, 20, (60, 4)).astype(np.float32) / 20
    truth = random.random((60, 4)) < shares
    truth[:, 3] = False
    figures = tagging_figures(count_tags(truth, shares), [0.3, 0.5, 0.7, 0.5], list("abcd"))
    expected = [average_precision_score(truth[:, k], shares[:, k]) for k in range(3)]
    assert [figures[f"AP/{name}"] for name in "abc"] == pytest.approx(expected)
    assert figures["mAP"] == pytest.approx(np.mean(expected)) and "AP/d" not in figures
    found = shares >= np.float32([0.3, 0.5, 0.7, 0.5])
    macro = f1_score(truth[:, :3], found[:, :3], average="macro")
    assert figures["mF1"] == pytest.approx(macro)
    metadata = tagger(classes=list("abcd"), thresholds=[0.3, 0.5, 0.7, 0.5])
    targets = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    report = TaggingReport(metadata, {"CLASS_PROBS": shares}, Pictures("", [None] * 60, targets))
    micro = report.metrics()
    assert micro["F1"] == pytest.approx(f1_score(truth, found, average="micro"))
    assert micro["exact"] == pytest.approx((truth == found).all(axis=1).mean())


def tagger(**fields):
    return replace(CONTRACT, **({"task": "tagging", "thresholds": [0.3, 0.6, 0.5]} | fields))


SHARES = np.float32([[0.31, 0.9, 0.49], [0.1, 0.59, 0.2]])


@pytest.mark.parametrize(
    ("index", "labels", "remark"),
    [
        (0, ["basil", "aster"], []),
        (1, [], ["no label: the most probable is basil, 0.59, and it is given from 0.6 on"]),
    ],
)
def test_answers_about_one_picture(tmp_path, index, labels, remark):
    metadata, one = tagger(), {"CLASS_PROBS": SHARES[index]}
    told = describe(metadata, {**one, "FOREIGN": np.float32([1])}, (0, 0), 2)
    assert list(told) == ["labels", "foreign", "probabilities"] and told["labels"] == labels
    assert next(iter(told["probabilities"])) == "basil" and len(told["probabilities"]) == 2
    predictions = {"CLASS_PROBS": SHARES[index : index + 1]}
    report = TaggingReport(metadata, predictions, Pictures(tmp_path, [tmp_path / "a.png"]))
    assert report.remarks() == remark and report.rows()[0]["labels"] == "; ".join(labels)
    assert "any number of them, or none" in make_card(metadata, {})


def test_the_task():
    torch.manual_seed(0)
    mixing = {"label_smoothing": 0.1, "mixup": 0.4, "cutmix": 0.4}
    task = Tagging(metadata=tagger(), network=plain, **mixing).eval()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 2, (6, 3), dtype=torch.uint8)
    task.class_weights = torch.tensor([0.5, 1, 2])
    assert task.training_losses(images.float(), labels)["loss"].isfinite()
    logits = torch.tensor([[2.0, -1, 0]])
    given = torch.tensor([[1, 0, 0]], dtype=torch.uint8)
    by_hand = -(logits[0].sigmoid()[0].log() + (-logits[0, 1:]).sigmoid().log().sum()) / 3
    assert task.loss(logits, given) == pytest.approx(float(by_hand))
    weights = torch.tensor([2.0, 5, 5])  # of pictures that have the label: only the first counts
    by_hand -= logits[0].sigmoid()[0].log() / 3
    assert task.loss(logits, given, weights) == pytest.approx(float(by_hand))


def test_from_training_to_onnx(run, succeeds, drawn, tmp_path, monkeypatch):
    make_tags(tmp_path / "set")
    tiny = [*TINY, "+data=csv", "data.root=set", "data.name=tags"]
    done = succeeds("train", *tiny, "trainer.max_epochs=2", "data.balance=sqrt")
    said = done.out + done.err
    for part in (
        *("several labels per picture, separated by ' ': blue, green, red", "val/mAP"),
        *("labels are shown from blue", "foreign pictures are not recognised", "test/exact"),
        *("weights in the loss: ", "test/F1 ", "test/AP/red"),
    ):
        assert part in said
    assert "never predicted" not in said
    # All are measured, and the first is published: others are quicker, or not, by chance.
    monkeypatch.setattr(precision, "compare_speeds", lambda all, _: [1.0, *(0.5 for _ in all[1:])])
    succeeds("export_model", *tiny, "precision=auto")
    tables = {}
    for asked in (["engine=torch"], ["engine=onnx"], ["tta=true", "gradcam=true"]):
        folder = tmp_path / asked[0][-4:]
        succeeds("infer", *tiny, *asked, f"hydra.run.dir={folder}")
        for name in ("worst_mistakes.png", "metrics.json"):
            assert (folder / name).exists()
        assert (folder / "gradcam.png").exists() == (len(asked) > 1)
        for name in ("predictions.csv", "classes.csv"):
            tables[asked[0], name] = read_csv(folder / name)
    rows = tables["engine=torch", "predictions.csv"]
    for row, other in zip(rows, tables["engine=onnx", "predictions.csv"], strict=True):
        assert row["labels"] == other["labels"] and row["target"] == other["target"]
    assert list(rows[0]) == ["file", "labels", "target", "blue", "green", "red"]
    columns = ["class", "pictures", "precision", "recall", "F1", "AP", "threshold"]
    assert list(tables["engine=torch", "classes.csv"][0]) == columns
    # Another table with the same classes, but one label per picture; and a mirror image.
    rows = [f"{split}{n}.png,{name},{split}" for split in SPLITS for name, n in COLOURS.items()]
    (tmp_path / "set/tags.csv").write_text("\n".join(["file,label,split", *rows]))
    for script in ("infer", "export_model"):
        done = run(script, *tiny)
        wanted = "the weights know several labels per picture, and data=tags has one label"
        assert done.status == 1 and wanted in done.err
    done = succeeds("infer", *tiny, "input=set/test0.png")
    assert "labels" in done.out
    done = run("infer", *tiny, "input=set/test1.png", "confidence=0")
    (answer,) = [line for line in done.out.splitlines() if line.startswith("test1.png")]
    assert done.status == 0 and all(name in answer for name in COLOURS)
