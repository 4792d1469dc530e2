"""Pictures of one's own for classification: a folder per class, or a table; and what is shown."""

import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from unicodedata import normalize

import pytest
from conftest import TINY, open_splits, picture, refused

from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.table import read_table
from nano_cv.data.pictures import SPLITS, Resized
from nano_cv.evaluation.survey import contact_sheet, survey

pytestmark = pytest.mark.usefixtures("every_message")
folders, tables = (partial(read, task="classification") for read in (read_folder, read_table))
COLOURS = {"cat": (200, 40, 40), "dog": (40, 200, 40)}


def make_folder(root: Path, splits: tuple[str, ...] = SPLITS, count: int = 4) -> None:
    for split in splits or ("",):
        for name, colour in COLOURS.items():
            for number in range(count):
                picture(root / split / name / f"{split}{number}.png", colour)


def make_csv(root: Path) -> None:
    for split in SPLITS:
        rows = {f"pictures/{split}_{name}{n}.png": name for name in COLOURS for n in range(4)}
        write_table(root, rows, "file,label", f"{split}.csv")


def write_table(
    root: Path, rows: Mapping[str, str], header: str = "file,label,split", file: str = "labels.csv"
) -> None:
    """With its pictures; each row is the cells after the name of the file."""
    for name in rows:
        picture(root / name)
    (root / file).write_text("\n".join([header, *(f"{name},{row}" for name, row in rows.items())]))


def resized(root: Path, size: int = 16) -> dict[str, Resized]:
    return open_splits(read_folder, root, "classification", size, None, "stretch")[0]


def test_links_that_are_read_and_links_that_are_not(tmp_path, caplog):
    """A pool inside the set is read through the links of the class folders; a class is not."""
    make_folder(tmp_path)
    (tmp_path / "pool").mkdir()
    for split in SPLITS:
        (tmp_path / split / "cat").rename(tmp_path / "pool" / split)
        (tmp_path / split / "cat").symlink_to(tmp_path / "pool" / split)
    (tmp_path / "train/more").symlink_to(tmp_path / "train/dog")
    assert resized(tmp_path)["train"].pictures.classes == ["cat", "dog"]
    (said,) = [text for text in caplog.messages if "not followed" in text]
    assert said.startswith(f"{tmp_path}/train/more: a link to a folder of the set")


def test_splits_by_a_word_in_their_names(tmp_path, caplog):
    make_folder(tmp_path)
    for split in SPLITS:
        (tmp_path / split).rename(tmp_path / f"seg_{split}")
    assert folders(tmp_path)["val"].names[0] == "seg_val/cat/val0.png"
    assert "taken as splits: " in caplog.text
    for split in ("seg_train", "seg_test"):  # as Kaggle unpacks it
        (tmp_path / split).rename(tmp_path / "inner")
        (tmp_path / split).mkdir()
        (tmp_path / "inner").rename(tmp_path / split / split)
    picture(tmp_path / "seg_pred/seg_pred/a.png")
    assert folders(tmp_path)["val"].names[0] == "seg_val/cat/val0.png"
    assert "passed over, for it is no split: seg_pred" in caplog.text


def test_a_set_in_a_folder_of_its_own(tmp_path, caplog):
    """As an unpacked archive leaves it, with splits and without."""
    make_folder(tmp_path / "archive/dataset")
    assert folders(tmp_path / "archive")["val"].names[0] == "val/cat/val0.png"
    assert f"{tmp_path}/archive: the set lies in dataset" in caplog.text
    make_folder(tmp_path / "more/pictures", splits=())
    assert folders(tmp_path / "more")["train"].classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "names",
    [("seg_train", "seg_test"), ("train", "test"), ("a_train", "test"), ("train", "test/images")],
)
def test_pictures_without_labels_beside_the_folder_of_the_training(tmp_path, caplog, names):
    """As Kaggle's sets: they are no classes of these names."""
    make_folder(tmp_path / names[0], splits=())
    for number in range(3):
        picture(tmp_path / names[1] / f"{number}.png")
    assert folders(tmp_path)["train"].classes == ["cat", "dog"]
    (said,) = [text for text in caplog.messages if "passed over" in text]
    folder = names[1].removesuffix("/images")
    assert said.endswith(f"/{folder}: passed over, for it holds no folders of classes")


def test_folders_that_may_not_be_the_classes(tmp_path, caplog):
    """Folds of a set; and a set beside drawings, which is refused."""
    for fold in ("fold1", "fold2"):
        make_folder(tmp_path / "folds" / fold, splits=())
    folders(tmp_path / "folds")
    assert "if the folders inside of them are, move these into it: cat, dog" in caplog.text
    make_folder(tmp_path / "more/data")
    picture(tmp_path / "more/figures/a.png")
    said = refused(lambda: folders(tmp_path / "more"))
    assert f"data/ holds splits; if it is the set, type data.root={tmp_path}/more/data" in said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("train/cat.0 train/dog.0 test1/1", "test1, train are named after splits, and hold no"),
        ("train_images/0 test_img/0", "test_img, train_images are named after splits"),
        ("cat/0 dog/0 whole/cat/0 whole/dog/0", "whole/ holds folders of all other classes"),
        (
            "images/cat/0 images/dog/0 meta/",
            "only images/ holds pictures; if the folders in it are",
        ),
        ("train/cat/0 train/dog/0 val/images/0", "val: none of its folders is a class of"),
    ],
)
def test_public_sets_whose_folders_are_not_the_classes(tmp_path, files, said):
    """As of dogs-vs-cats, malaria cells, Food-101 and Tiny ImageNet, once unpacked."""
    for file in files.split():
        if file.endswith("/"):
            (tmp_path / file).mkdir()
        else:
            picture(tmp_path / f"{file}.png")
    assert said in refused(lambda: folders(tmp_path))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("a_part_1/0 a_part_2/0", "if they are parts of one set, read its table by"),
        ("colon/aca/0 colon/n/0 lung/aca/0", "folders inside of them are, move these into it: aca"),
        ("ill/0 ill/0_mask well/0", "1 pictures have names of masks, and are learnt like the"),
        ("a/images/0 a/masks/0 b/images/0", "1 pictures have names of masks, and are learnt like"),
        ("mask/mask_0 with_mask/with_mask_0 n1/0_mask n2/0", ""),
        ("training_shoes/0 test_tube/0", ""),
        ("front/left/0 front/right/0 left/front/0 left/right/0 right/front/0 right/left/0", "are"),
    ],
)
def test_public_sets_whose_classes_may_be_others(tmp_path, caplog, files, said):
    for file in files.split():
        picture(tmp_path / f"{file}.png")
    folders(tmp_path)
    warnings = [text for text in caplog.messages if re.search("masks|taken as classes", text)]
    assert said in caplog.text and bool(said) == bool(warnings)


def test_classes_that_hold_folders(tmp_path):
    for name in ("toy train", "car"):
        for number in range(9):
            picture(tmp_path / name / f"{name[0]}{number % 2}" / f"{number}.png")
    assert folders(tmp_path)["train"].classes == ["car", "toy train"]


def test_accents_in_either_form(tmp_path):
    """As macOS writes the names of folders, and all others do."""
    for split, form in (("train", "NFC"), ("val", "NFD"), ("test", "NFD")):
        for name in ("café", "tea"):
            picture(tmp_path / split / normalize(form, name) / f"{split}.png")
    assert folders(tmp_path)["val"].classes == ["caf\u00e9", "tea"]
    assert folders(tmp_path)["val"].targets == [0, 1]
    picture(tmp_path / "train" / normalize("NFD", "café") / "b.png")
    assert "train: the same class twice: caf\u00e9" in refused(lambda: folders(tmp_path))
    text = "".join(f"{normalize('NFC', f'è{n}.png')},{n % 2}\n" for n in range(9))
    for number in range(9):
        picture(tmp_path / "table" / normalize("NFD", f"è{number}.png"))
    (tmp_path / "table/labels.csv").write_text(f"file,label\n{text}")
    assert sum(map(len, tables(tmp_path / "table").values())) == 9


def test_a_picture_twice_with_two_labels(tmp_path, caplog):
    make_folder(tmp_path)
    for copy in ("cat/b.png", "dog/c.png"):
        shutil.copy(tmp_path / "train/cat/train0.png", tmp_path / "train" / copy)
    resized(tmp_path)
    (said,) = [text for text in caplog.messages if "same picture" in text]
    assert said.endswith("with two labels: train/dog/c.png (train) = train/cat/b.png (train)")


def test_splits_by_other_names(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "Training")
    (tmp_path / "val").rename(tmp_path / "validate")
    assert folders(tmp_path)["val"].names[0] == "validate/cat/val0.png"
    (tmp_path / "validate").rename(tmp_path / "validation")
    assert len(folders(tmp_path)["train"]) == 8 and len(folders(tmp_path)["test"]) == 8
    picture(tmp_path / "valid/cat/a.png")
    said = refused(lambda: folders(tmp_path))
    assert f"{tmp_path}/valid, {tmp_path}/validation: each could be the split 'val'" in said


def test_a_class_called_train(tmp_path, caplog):
    for name in ("train", "test"):
        picture(tmp_path / name / "b.png")
    said = refused(lambda: folders(tmp_path))
    assert "train: holds pictures and no folders of classes" in said, "splits without labels"
    picture(tmp_path / "car/b.png")
    assert folders(tmp_path)["train"].classes == ["car", "test", "train"]
    assert "test, train are classes, for they hold no folders" in caplog.text


def test_numbers_are_sorted_as_numbers(tmp_path, caplog):
    for name in ("10", "9", "1"):
        picture(tmp_path / "train" / name / "a.png")
        picture(tmp_path / "val" / name / "b.png")
    assert folders(tmp_path)["val"].classes == ["1", "9", "10"]
    assert caplog.text.count("sorted as such: 1, 9, 10") == 1


LATIN = b"train/cat/caf\xe9.png".decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: root.rmdir(), "no such folder"),
        (lambda root: None, "there is none"),
        (lambda root: picture(root / "cat/a.png"), "there is only cat"),
        (lambda root: (make_folder(root, ()), picture(root / "loose.png")), "loose.png"),
        (lambda root: make_folder(root, ("val", "test")), "no 'train'"),
        (lambda root: (make_folder(root), picture(root / "val/dgo/a.png")), "val/dgo: not one of"),
        (lambda root: (make_folder(root), (root / LATIN).touch()), "a name that is not UTF-8"),
        (
            lambda root: [picture(root / one / own / "a.png") for one in "ab" for own in SPLITS],
            "if it is a class, put the splits first: train/a/",
        ),
    ],
)
def test_refused_folders(tmp_path, make, said):
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    message = refused(lambda: folders(root))
    assert said in message and str(root) in message
    if "dgo" in message:
        assert "did you mean 'dog'?" in message


def test_pictures_elsewhere_are_called_by_their_whole_path(tmp_path):
    """What is drawn of a picture is written under its name: that must not lead out of a folder."""
    outside = picture(tmp_path / "camera/a.png")
    picture(tmp_path / "camera/c.png")
    picture(tmp_path / "set/b.png")
    text = f"file,label\n{outside},x\n../camera/c.png,x\nb.png,y"
    for split in SPLITS:
        (tmp_path / f"set/{split}.csv").write_text(text)
    camera = str(outside.parent).lstrip("/")
    expected = [f"{camera}/a.png", f"{camera}/c.png", "b.png"]
    assert tables(tmp_path / "set")["train"].names == expected


NOT_LEARNT = "file,label,split\na.png,cat,train\nb.png,dog,train\nc.png,dgo,test"

TWO_SPLITS = "file,label,phase,set 2\na.png,x,train,train\nb.png,y,train,test\nc.png,x,val,val"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "labels.csv: cannot be read"),
        ("", "it is empty"),
        ("fiel,label\na,x", "no column 'file'; did you mean 'fiel'?"),
        ("image,path,label\na.png,a.png,x", "each could be the file: image, path; call one"),
        ("file,label,split\na.png,x,val\ngone.png,x,train", "line 3: gone.png"),
        ("file,label\na.png,x\n./a.png,y", "line 3: ./a.png stands in"),
        ("file,label\na.png,x\na.png,y", "already; give all labels of a picture in one line"),
        ('file,label\na.png,"x' + "y" * 200_000, "a quote may stand alone"),
        (TWO_SPLITS, "labels.csv: each could be the split: phase, set 2; call one 'split'"),
        ("file,label,split\na.png,x,trian", "split 'trian'; did you mean 'train'?"),
        (NOT_LEARNT, "line 4: 'dgo' is not one of the classes (cat, dog); did you mean 'dog'?"),
    ],
)
def test_refused_tables(tmp_path, text, said):
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    assert said in refused(lambda: tables(tmp_path))


def test_a_split_column_of_another_name(tmp_path, caplog):
    rows = {f"{n}.png": f"{'cd'[n % 2]},{'test' if n < 8 else 'train'}" for n in range(60)}
    write_table(tmp_path, rows, header="file,label,data set")
    assert sorted(tables(tmp_path)["test"].names) == sorted(f"{n}.png" for n in range(8))
    assert "'data set' is the split" in caplog.text


def test_columns_of_others(tmp_path, caplog):
    """fastai's `is_valid`, an `image_id` without ending; and columns that are not used."""
    rows = ["image_id,label,is_valid,age"]
    for number in range(12):
        picture(tmp_path / f"{number}.png")
        rows.append(f"{number},{'cat' if number % 2 else 'dog'},{number > 7},{number}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    splits = tables(tmp_path)
    assert {file.stem for file in splits["val"].files} == {"8", "9", "10", "11"}
    assert "'image_id' is the file, 'is_valid' is the split" in caplog.text
    assert "columns that are not used: age" in caplog.text
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "3,cat,False,3"]))
    assert "; remove one of them; boxes are read from" in refused(lambda: tables(tmp_path))


def test_words_in_the_names_of_tables_and_columns_that_mean_no_split(tmp_path, caplog):
    """One table with a column `split`; then `is_valid` as "checked", which most pictures are."""
    label_of = {n: "cat" if n % 2 else "dog" for n in range(12)}
    write_table(tmp_path, {f"{n}.png": f"{label_of[n]},{'test' * (n > 7)}" for n in label_of})
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").rename(tmp_path / "train_labels.csv")
    assert len(tables(tmp_path)["test"]) == 4
    for name in ("test", "more"):
        (tmp_path / f"{name}_labels.csv").write_text("\n".join(rows[:5]))
    assert len(tables(tmp_path)["test"]) == 4
    assert f"passed over: {tmp_path}/more_labels.csv" in caplog.text
    checked = [re.sub(",[^,]*$", ",1", row) for row in rows[1:]]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,is_valid", *checked]))
    tables(tmp_path)
    assert "labels.csv: columns that are not used: is_valid" in caplog.text
    both = [f"{row[:-1]}{int(n > 9)},{int(n in (8, 9))}" for n, row in enumerate(checked)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,is_valid,is_test", *both]))
    assert [len(part) for part in tables(tmp_path).values()] == [8, 2, 2]


def test_tables_of_a_competition(tmp_path, caplog):
    """Pictures of one name in both folders, a column of any name, a test without labels."""
    for split in ("train", "test"):
        for number in range(12):
            picture(tmp_path / f"{split}/{number}.png")
    rows = [f"{n}.png,{'cat' if n % 2 else 'dog'},{n > 4}" for n in range(12)]
    (tmp_path / "train.csv").write_text("\n".join(["photo_of_it,label,is_valid", *rows]))
    (tmp_path / "TEST.CSV").write_text("\n".join(["photo_of_it", *(row[:5] for row in rows)]))
    (tmp_path / "sample_submission.csv").write_text("photo_of_it,label")
    splits = tables(tmp_path)
    assert {name.split("/")[0] for part in splits.values() for name in part.names} == {"train"}
    assert len(splits["val"]) == 7, "is_valid is 1 for more than half"
    assert "TEST.CSV: passed over, for it has no labels" in caplog.text
    assert "passed over: " in caplog.text and "sample_submission.csv" in caplog.text
    assert "lie elsewhere than it says" not in caplog.text
    (tmp_path / "TEST.CSV").write_text("id_code\n3")
    assert len(tables(tmp_path)["val"]) == 7
    (tmp_path / "train.csv").rename(tmp_path / "notes.csv")
    said = refused(lambda: tables(tmp_path))
    assert "which is the table? " in said and f"{tmp_path}/notes.csv" in said
    (tmp_path / "notes.csv").rename(tmp_path / "labels.csv")
    shutil.rmtree(tmp_path / "test")
    tables(tmp_path)
    assert f"{tmp_path}: passed over: {tmp_path}/TEST.CSV" in caplog.text


def test_numbers_of_pictures_are_no_names_beside_a_column_of_files(tmp_path):
    rows = [f"{n},{7 - n}.png,{'cat' if n < 4 else 'dog'}" for n in range(8)]
    for number in range(8):
        picture(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text("\n".join(["image_id,photo,label", *rows]))
    for part in tables(tmp_path).values():
        for name, target in zip(part.names, part.targets, strict=True):
            assert (part.classes[target] == "cat") == (int(name[0]) > 3)


def test_a_table_further_down(tmp_path):
    write_table(tmp_path / "birds", {"a.png": "cat"}, "file,label")
    said = refused(lambda: tables(tmp_path))
    assert said.endswith(
        f"no table here, but {tmp_path}/birds/labels.csv; type data.root={tmp_path}/birds"
    )


def test_splits_of_a_table_in_the_folders_of_the_pictures(tmp_path, caplog):
    places = [f"train/{n}" for n in range(6)] + [f"test/{n}" for n in range(2)]
    rows = {f"{place}{name}.png": name for place in places for name in COLOURS}
    write_table(tmp_path, rows, "file,label")
    splits = tables(tmp_path)
    assert [name.split("/")[0] for name in splits["test"].names] == ["test"] * 4
    assert len(splits["train"]) + len(splits["val"]) == 12
    assert "the folders of the pictures are taken as splits: test, train" in caplog.text


@pytest.mark.parametrize("table", ["{split}_labels.csv", "{split}/_classes.csv"])
def test_tables_of_splits_by_other_names(tmp_path, table):
    """The second as Roboflow writes it, beside the pictures, which may have several labels."""
    for split in SPLITS:
        rows = ["filename, cat, dog"]
        for number in range(4):
            picture(tmp_path / f"{split}/{split}{number}.png")
            rows.append(f"{split}{number}.png, {number % 2}, {int(number > 1)}")
        (tmp_path / table.format(split=split)).write_text("\n".join(rows))
    splits = tables(tmp_path)
    assert {split: part.names[0] for split, part in splits.items()} == {
        split: f"{split}/{split}0.png" for split in SPLITS
    }
    assert splits["test"].targets == [(), (0,), (1,), (0, 1)]


def test_rows_without_a_split_go_where_no_row_says_otherwise(tmp_path, caplog):
    rows = {f"{n}.png": f"{'cd'[n % 2]},{'test' if n < 8 else ''}" for n in range(60)}
    write_table(tmp_path, rows)
    found = tables(tmp_path)
    assert sorted(found["test"].names) == sorted(f"{n}.png" for n in range(8))
    assert len(found["val"].names) > 3 and "52 rows without a split count as 'train'" in caplog.text


def test_a_picture_in_another_folder_than_the_table_says(tmp_path, caplog):
    write_table(tmp_path, {f"dogs/{n}.png": "dog," for n in range(4)} | {"b.png": "cat,"})
    text = (tmp_path / "labels.csv").read_text().replace("dogs/3", "cats/3")
    (tmp_path / "labels.csv").write_text(text)
    picture(tmp_path / "more.png")
    tables(tmp_path)
    assert "1 pictures lie elsewhere than it says" in caplog.text, "a warning"
    assert (
        f"1 pictures are in no list and have no label, so they are not used: {tmp_path}/more.png"
        in (caplog.text)
    )
    (tmp_path / "cats").mkdir()
    assert "1 pictures are missing: " in refused(lambda: tables(tmp_path))


def test_a_table_of_excel(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    text = 'sep=;\r\n"Image";"Class Name";"one, two";;\r\na.png;x;;;\r\nb.PNG;y;;;\r\n;;;;;;\r\n'
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8-sig", newline="")
    assert tables(tmp_path)["train"].classes == ["x", "y"]


def test_survey_is_shown_once(tmp_path, caplog):
    make_folder(tmp_path / "set")
    cache = tmp_path / "cache"
    for _ in range(2):
        given = (read_folder, tmp_path / "set", "classification", 16, cache, "stretch")
        splits, data_hash = open_splits(*given)
        survey(splits, data_hash, cache)
    (said,) = [text for text in caplog.messages if "first time" in text]
    assert [line.split() for line in said.splitlines()[1:5]] == [
        ["pictures", *SPLITS],
        ["cat", "4", "4", "4"],
        ["dog", "4", "4", "4"],
        ["all", "pictures", "8", "8", "8"],
    ]
    assert "24x20 to 24x20 pixels" in said
    survey(resized(tmp_path / "set", 24), data_hash, cache)  # at another size, as it says more
    assert len([text for text in caplog.messages if "first time at 24x24 pixels" in text]) == 1
    sheet = contact_sheet(splits["train"])
    red, green = sheet[100, 150], sheet[100, -150]
    assert red[0] > 150 > red[1] and green[1] > 150 > green[0], "sorted by class"


def test_classes_that_a_split_lacks_are_named(tmp_path, caplog):
    make_folder(tmp_path)
    shutil.rmtree(tmp_path / "val/dog")
    for split in SPLITS:
        (tmp_path / split / "owl").mkdir()
    assert resized(tmp_path)["val"].pictures.classes == ["cat", "dog", "owl"]
    assert "no pictures in 'val' for dog" in caplog.text
    assert "classes without pictures, kept all the same: owl" in caplog.text
    picture(tmp_path / "val/owl/a.png")
    said = refused(lambda: resized(tmp_path))
    assert "no pictures in 'train' for owl; every class needs some" in said


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_table_as_pandas_and_others_write_it(tmp_path, ending, caplog):
    for number in range(12):
        picture(tmp_path / f"images/{number:02}.jpg")
    files = [f"{tmp_path}/images/00.jpg", *(f"{n:02}" for n in range(1, 11)), "C:\\photos\\11.jpg"]
    rows = [f"\t{file}\t{('rare', 'usual')[number % 2]}" for number, file in enumerate(files)]
    text = "\n".join(["id\tImage\tclass", *rows])
    (tmp_path / f"birds.{ending}").write_text(text, encoding="utf-16")
    found = tables(tmp_path)
    names = sorted(name for some in found.values() for name in some.names)
    assert names == [f"images/{number:02}.jpg" for number in range(12)]
    assert all(len(some) for some in found.values())
    assert {tuple(some.classes) for some in found.values()} == {("rare", "usual")}
    for said in (
        *("the table is birds.", "'Image' is the file, 'class' is the label"),
        *("pictures lie elsewhere than it says", "split by the hash of the file names: "),
    ):
        assert said in caplog.text
    assert tables(tmp_path / f"birds.{ending}")["val"].names == found["val"].names


def test_no_picture_to_test_with(succeeds, fails, tmp_path):
    make_folder(tmp_path / "set", (), count=2)
    done = succeeds("train", "+data=folder", *TINY, "data.root=set", "data.name=pets")
    assert "test/accuracy" not in done.out
    assert (tmp_path / "weights/lenet_pets.safetensors").exists()
    said = fails("infer", "+data=folder", *TINY, "data.root=set", "data.name=pets")
    assert "no pictures in 'test'; use input=FOLDER" in said
