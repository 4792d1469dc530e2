"""Segmentation: masks that move with their pixels, what is not known, metrics, and the scripts."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONTRACT, TINY_OF, encoded, open_splits, turned
from PIL import Image
from scenes import SETTINGS, make_scenes

from nano_cv.data import images
from nano_cv.data.augment import Augment
from nano_cv.data.formats.folder_masks import read_folder_masks
from nano_cv.data.formats.shards import read_shards
from nano_cv.data.images import IGNORE
from nano_cv.data.masks import load_mask, resize_mask, restore_mask
from nano_cv.data.pictures import Pictures, Resized
from nano_cv.errors import UserError
from nano_cv.evaluation import painting, reports
from nano_cv.evaluation.reports.segmentation import thin_classes
from nano_cv.metadata import read_metadata
from nano_cv.networks.unet import UNet
from nano_cv.tasks.segmentation import Segmentation, dice_loss

SIDE = 32
CONTRACT = replace(
    CONTRACT, task="segmentation", model="unet", classes=["ground", "leaf", "blossom"]
)
REPORT = reports.find("segmentation")


def blocks(width: int, height: int, classes: int = 3, side: int = 8, seed: int = 0) -> np.ndarray:
    """A mask of random squares."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (-(-height // side), -(-width // side)))
    return coarse.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)


def photographs(folder: Path, masks: list[np.ndarray], targets: bool = True) -> Pictures:
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}.jpg" for number in range(len(masks))]
    for file, mask in zip(files, masks, strict=True):
        Image.fromarray(mask * 60).convert("RGB").save(file)
        Image.fromarray(mask).save(file.with_suffix(".png"))
    paths = [file.with_suffix(".png") for file in files] if targets else []
    return Pictures(folder, files, paths, CONTRACT.classes)


def test_classes_that_are_thin_in_the_input_are_named(tmp_path):
    mask = np.zeros((200, 300), np.uint8)
    mask[:100, :150], mask[150] = 2, 1
    for size, share in ((SIDE, "0.00"), ([200, 300], "")):
        remarks = thin_classes(Resized(photographs(tmp_path, [mask]), size, None))
        assert [one.partition(" of ")[2][:4] for one in remarks] == ([share] if share else [])
        assert all(one.startswith("leaf: thin or small objects") for one in remarks)


def test_thin_lines_and_edges_hide_the_picture_and_areas_do_not():
    mask, black = np.zeros((30, 40), np.uint8), np.zeros((30, 40, 3), np.uint8)
    mask[5], mask[10:25, 10:30] = 1, 1
    drawn, colour = painting.overlay(black, mask), painting.palette(2)[1]
    assert (drawn[5] == colour).all() and (drawn[10, 10:30] == colour).all()
    assert np.abs(drawn[17, 20] - colour / 2).max() <= 1 and not drawn[17, 5].any()


@pytest.mark.parametrize("fit", ("stretch", "letterbox"))
@pytest.mark.parametrize("shape", [(48, 64), (97, 31), (33, 33), (500, 20), (SIDE, SIDE)])
@pytest.mark.parametrize("size", [(256, 256), (256, 512)])
def test_mask_goes_into_the_network_and_back(fit, shape, size):
    height, width = shape
    mask = blocks(width, height, side=max(4, max(shape) // 4))
    inside = resize_mask(mask, list(size), fit)
    left, top, wide, high = images.place(width, height, list(size), fit)
    outside = np.ones(size, bool)
    outside[top : top + high, left : left + wide] = False
    assert (inside[outside] == IGNORE).all() and (inside[~outside] != IGNORE).all()
    if fit == "letterbox" and min(wide, high) >= 32:
        assert wide / high == pytest.approx(width / height, rel=0.05)
    back = restore_mask(inside, width, height, fit)
    assert back.shape == shape and back.dtype == np.uint8
    assert (back == mask).mean() > 0.97
    if max(shape) <= 256:  # enlarged and made small again: nothing is lost
        assert np.array_equal(back, mask)


def test_mask_by_hand():
    """2 x 4 pixels in 8: twice as large, two columns or rows that are not known beside them."""
    mask = np.array([[0, 1, 2, 255]], np.uint8).repeat(2, axis=0)
    row = [0, 0, 1, 1, 2, 2, 255, 255]
    unknown = [[255] * 8] * 2
    assert resize_mask(mask, 8, "letterbox").tolist() == unknown + [row] * 4 + unknown
    assert resize_mask(mask, 8, "stretch").tolist() == [row] * 8


INDEX = blocks(16, 16, 3)


def palette() -> Image.Image:
    image = Image.fromarray(INDEX, "P")
    image.putpalette([*(9, 9, 9), *(1, 2, 3), *(200, 0, 0)])
    return image


GREY_OF = Image.fromarray(INDEX)
SEEN = Image.fromarray((INDEX > 0).astype(np.uint8) * 255)
TAKEN = {
    "grey": encoded(GREY_OF),
    "grey of 16 bits": encoded(Image.fromarray(INDEX.astype(np.uint16))),
    "grey of 32 bits": encoded(Image.fromarray(INDEX.astype(np.int32)), "TIFF"),
    "grey with alpha": encoded(Image.merge("LA", [GREY_OF, Image.new("L", (16, 16), 255)])),
    "background is transparent": encoded(Image.merge("LA", [GREY_OF, SEEN])),
    "grey as RGB": encoded(GREY_OF.convert("RGB")),
    "grey as RGBA": encoded(GREY_OF.convert("RGBA")),
    "palette": encoded(palette()),
    "palette, GIF": encoded(palette(), "GIF"),
    "BMP": encoded(GREY_OF, "BMP"),
    "turned by EXIF": encoded(Image.fromarray(np.rot90(INDEX).copy()), exif=turned()),
    "one bit": encoded(Image.fromarray(INDEX > 0)),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_masks_of_every_kind(kind):
    mask = load_mask(TAKEN[kind])
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, INDEX > 0 if kind == "one bit" else INDEX)


HIDDEN = Image.merge("LA", [GREY_OF, Image.new("L", (16, 16), 0)])
REFUSED = {
    "a mask in JPEG": (GREY_OF, "JPEG"),
    "other numbers than were drawn": (GREY_OF.convert("RGB"), "TIFF"),  # with JPEG inside
    "numbers behind transparent pixels": (HIDDEN, "PNG"),
    "'data.colours={CLASS: [R,G,B]": (palette().convert("RGB"), "PNG"),
    "mask has 300": (Image.fromarray(np.full((9, 9), 300, np.uint16)), "PNG"),
    "at most 134,217,728": (Image.new("1", (12_000, 12_000)), "PNG"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_masks_that_are_refused(reason):
    image, form = REFUSED[reason]
    packed = {"compression": "jpeg"} if form == "TIFF" else {}
    with pytest.raises(images.ImageError, match="^m.png: .*" + re.escape(reason)):
        load_mask(encoded(image, form, **packed), "m.png")


ROAD = {"sky": [70, 130, 180], "road": [128, 64, 128], "void": [0, 0, 0]}


def painted(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array(list(ROAD.values()), np.uint8)[mask])


TABLES = {
    "class_dict.csv": "name,r,g,b\nsky,70,130,180\nroad,128,64,128\nvoid,0,0,0\n",
    "label_colors.txt": "70 130 180\tsky\n128 64 128\t\troad\n0 0 0 void\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nsky:70,130,180::\nroad:128,64,128::\n"
    "void:0,0,0::\n",
}


def masked(root: Path, masks: list[Image.Image], name: str = "{}.png") -> Path:
    """A set of these masks, all of them in every split."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, mask in enumerate(masks):
        Image.new("RGB", mask.size).save(root / f"images/p{number}.png")
        mask.save(root / "masks" / name.format(f"p{number}"))
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").write_text("\n".join(f"p{n}" for n in range(len(masks))))
    return root


def train_split(root: Path, **settings: Any) -> Pictures:
    return read_folder_masks(root, "segmentation", **settings)["train"]


@pytest.mark.parametrize("table", [None, *TABLES])
def test_masks_in_colours(tmp_path, table, caplog):
    """Classes and colours from the settings, or from the files of CamVid and of CVAT."""
    as_palette = painted(INDEX).quantize(3)
    root = masked(tmp_path, [painted(INDEX), painted(INDEX).convert("RGBA"), as_palette])
    if table:
        (root / table).write_text(TABLES[table])
    pictures = train_split(root, colours=None if table else ROAD)
    assert pictures.classes == ["sky", "road", "void"]
    for index in range(3):
        assert np.array_equal(pictures.mask(index), INDEX)
        assert np.array_equal(pictures.first(3).mask(index), INDEX), "what reports are given"
    assert "learnt as a class: void" in caplog.text and "add data.ignore=2" in caplog.text
    caplog.clear()
    caplog.set_level("INFO")
    without = train_split(root, colours=None if table else ROAD, ignore=2)
    assert caplog.text.count("void") == 1 and "unknown are pixels of void" in caplog.text
    assert without.classes == ["sky", "road"]
    assert np.array_equal(without.mask(0), np.where(INDEX == 2, IGNORE, INDEX))


def test_colour_that_no_class_has(tmp_path):
    image = painted(INDEX)
    image.putpixel((3, 3), (128, 64, 129))
    pictures = train_split(masked(tmp_path, [image]), colours=ROAD)
    text = r"1 pixel of the colour \[128, 64, 129\].* nearest is \[128, 64, 128\] of 'road'; 1 such"
    with pytest.raises(images.ImageError, match=rf"p0\.png: {text} colour$"):
        pictures.mask(0)
    image.putalpha(0)
    pictures = train_split(masked(tmp_path / "hidden", [image]), colours=ROAD)
    with pytest.raises(images.ImageError, match=r"p0\.png: a mask with colours behind transparent"):
        pictures.mask(0)


BINARY = [Image.fromarray((INDEX > 0).astype(np.uint8) * value) for value in (0, 255, 1)]
OTHER_PALETTE = palette()
OTHER_PALETTE.putpalette([*(9, 9, 9), *(1, 2, 4), *(200, 0, 0)])


INSTANCES = Image.fromarray(np.arange(9, dtype=np.uint8)[None].repeat(9, 0))


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ([palette(), palette(), GREY_OF], ""),
        ([palette(), OTHER_PALETTE], "have different colours at index 1: (1, 2, 3) and (1, 2, 4)"),
        ([BINARY[0], BINARY[2], GREY_OF], ""),
        (BINARY, "p1.png: drawn in 0 and 255, and "),
        (
            [INSTANCES.point([0, *(min(n, top) for n in range(1, 256))]) for top in (1, 2, 3, 4)],
            "from 1",
        ),
    ],
)
def test_masks_that_may_mean_different_things(tmp_path, caplog, masks, said):
    train_split(masked(tmp_path, masks))
    assert said in caplog.text and bool(said) == bool(caplog.text)


def test_masks_with_smooth_edges(tmp_path):
    smooth = Image.fromarray(np.arange(254, dtype=np.uint8)[None].repeat(9, 0))
    with pytest.raises(UserError, match=r"hardly class indices, but perhaps smooth edges"):
        train_split(masked(tmp_path, [smooth]))


def test_masks_of_one_class_teach_nothing(tmp_path):
    root = masked(tmp_path, [Image.fromarray(INDEX * 0)])
    (root / "classes.txt").write_text("ground\nleaf")
    with pytest.raises(UserError, match=r"only 'ground' in 'train' at .*; nothing is learnt"):
        open_splits(read_folder_masks, root, "segmentation", 32, None, "stretch")


def test_indices_that_are_not_to_be_learnt(tmp_path):
    pictures = train_split(masked(tmp_path, [GREY_OF]), ignore=[0])
    assert pictures.classes == ["class 1", "class 2"]
    assert np.array_equal(pictures.mask(0), np.array([IGNORE, 0, 1])[INDEX])


@pytest.mark.parametrize("white", [np.uint8(255), np.uint16(65535)])
@pytest.mark.parametrize("names", [None, "ground\nleaf", "ground\nleaf\nstone"])
def test_masks_in_black_and_white(tmp_path, white, names):
    """255 is the object where there are two classes."""
    drawn = INDEX > 0
    root = masked(tmp_path, [Image.fromarray(drawn * white), Image.fromarray(drawn & False)])
    if names:
        (root / "classes.txt").write_text(names)
    if names and "stone" in names:
        with pytest.raises(UserError, match="drawn in 0 and 255, and there are 3 classes"):
            train_split(root)
        return
    pictures = train_split(root)
    assert pictures.classes == (names.split() if names else ["class 0", "class 1"])
    assert np.array_equal(pictures.mask(0), drawn) and not pictures.mask(1).any()


@pytest.mark.parametrize("name", ["{}_mask.png", "{}_L.png", "{}.tif", "{}_segmentation.gif"])
def test_names_of_masks(tmp_path, name):
    root = masked(tmp_path, [GREY_OF, GREY_OF], name)
    names = [name.format("p0"), name.format("p1")]
    assert [file.name for file in train_split(root).targets] == names
    (root / "masks" / names[1]).unlink()
    GREY_OF.save((root / "masks" / names[1]).with_suffix(".bmp"))  # another format beside it
    assert [file.suffix for file in train_split(root).targets] == [name[-4:], ".bmp"]


@pytest.mark.parametrize(
    ("options", "share", "height", "given"),
    [
        ({"degrees": 180.0, "strength": 0.0}, 1.0, 64, {}),
        ({"degrees": 180.0, "scale": (0.8, 1.4), "translate": 0.1}, 0.98, 64, {}),
        ({"degrees": 180.0, "scale": (0.8, 1.4), "translate": 0.1}, 0.96, 64, {"size": 32}),
        ({"scale": (0.8, 1.2), "translate": 0.1}, 0.97, 32, {"crop": (24, 40)}),
    ],
)
def test_masks_move_with_their_pixels(options, share, height, given):
    """White where the mask is 1: by whole quarters exactly, else but for the edges."""
    masks = torch.from_numpy(np.stack([blocks(64, height, 2, 8, seed) for seed in range(8)]))
    pictures = (masks * 255)[:, None].expand(-1, 3, -1, -1)
    torch.manual_seed(0)
    changed, moved = Augment(**options)(pictures, masks, **given)
    side = given.get("size")
    shape = given.get("crop", (side, side) if side else (height, 64))
    assert moved.dtype == torch.uint8 and moved.shape[1:] == changed.shape[2:] == shape
    assert ((changed[:, 0] > 127) == (moved == 1)).float().mean() >= share
    assert given or not torch.equal(moved, masks)
    unknown = torch.full_like(masks, IGNORE)
    assert (Augment(**options)(pictures, unknown, **given)[1] == IGNORE).all()


def segmenter() -> Segmentation:
    torch.manual_seed(0)
    return Segmentation(metadata=CONTRACT, network=partial(UNet, channels=(4, 8))).eval()


def test_dice_by_hand():
    """One row of 4 pixels, two classes, one pixel wrong, one not known."""
    sure = torch.tensor([[0.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])  # all but the first class 0
    logits = (sure * 100).view(1, 2, 1, 4)
    masks = torch.tensor([[[1, 1, 0, 255]]])
    # Class 0: overlap 1, areas 2 + 1. Class 1: overlap 1, areas 1 + 2.
    assert float(dice_loss(logits, masks)) == pytest.approx(1 - 2 / 3)
    masks = torch.tensor([[[1, 0, 0, 0]]])
    assert float(dice_loss(logits, masks)) == pytest.approx(0, abs=1e-6)
    three = torch.cat([logits, torch.full((1, 1, 1, 4), -100.0)], dim=1)
    assert float(dice_loss(three, masks)) == pytest.approx(0, abs=1e-6), "not in the masks"


def test_unknown_pixels_change_nothing():
    task = segmenter()
    logits = torch.randn(2, 3, 8, 8)
    masks = torch.randint(0, 3, (2, 8, 8)).byte()
    masks[:, :3] = IGNORE
    changed = logits.clone()
    changed[:, :, :3] = torch.randn(2, 3, 3, 8) * 50
    gradients = []
    for one in (logits, changed):
        one.requires_grad_()
        losses = task._losses(one, masks)
        losses["loss"].backward()
        gradients.append(one.grad)
        assert losses["loss"] == losses["loss_entropy"] + losses["loss_dice"]
    assert torch.allclose(gradients[0], gradients[1])
    assert gradients[0][:, :, :3].abs().max() == 0 < gradients[0][:, :, 3:].abs().max()


def test_nothing_known_at_all():
    task = segmenter().train()
    masks = torch.full((2, SIDE, SIDE), IGNORE, dtype=torch.uint8)
    losses = task._losses(task(torch.randint(0, 256, (2, 3, SIDE, SIDE))), masks)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)
    losses["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters())


def test_metrics_by_hand(tmp_path):
    """Measured in the pixels of the pictures: the large one counts four times as much."""
    small, large = np.zeros((8, 8), np.uint8), np.zeros((16, 16), np.uint8)
    small[:, 4:], large[:, 8:] = 1, 1
    large[:4] = IGNORE
    pictures = photographs(tmp_path, [small, large])
    answer = np.zeros((2, SIDE, SIDE), np.uint8)
    answer[0, :, 16:] = 1  # right; in the large one all of class 0
    # Known: 64 and 192 pixels. Class 0: 32 + 96 right of 32 + 192; class 1: 32 right of 128.
    expected = {"mIoU": (128 / 224 + 32 / 128) / 2, "accuracy": 160 / 256}
    expected |= {"IoU/ground": 128 / 224, "IoU/leaf": 32 / 128}  # no blossom
    assert REPORT(CONTRACT, {"MASK": answer}, pictures).metrics() == pytest.approx(expected)
    rows = REPORT(CONTRACT, {"MASK": answer}, pictures).rows()
    assert [row["mIoU"] for row in rows] == ["1.0000", "0.2500"]
    assert list(rows[0]) == ["file", "mIoU", "ground", "leaf", "blossom"]
    assert list(rows[0].values()) == ["0.jpg", "1.0000", "0.5000", "0.5000", "0.0000"]


def test_files_for_other_programs(tmp_path):
    masks = [blocks(64, 48), blocks(31, 97)]
    pictures = photographs(tmp_path / "pictures", masks, targets=False)
    metadata = replace(CONTRACT, image_size=128, fit="letterbox")
    answer = {"MASK": np.stack([resize_mask(mask, 128, "letterbox") for mask in masks])}
    REPORT(metadata, answer, pictures).write_files(tmp_path)
    for number, mask in enumerate(masks):
        with Image.open(tmp_path / f"masks/{number}.png") as written:
            assert written.mode == "P" and len(written.getpalette()) == 3 * 256
            assert np.array_equal(np.asarray(written), mask)
            shown = np.asarray(written.convert("RGB"))
        colours = [np.unique(shown[mask == index], axis=0) for index in range(3)]
        assert [len(one) for one in colours] == [1, 1, 1] and colours[0].tolist() == [[0, 0, 0]]
        assert len(np.unique(np.concatenate(colours), axis=0)) == 3, "a colour a class"
        with Image.open(tmp_path / f"overlays/{number}.jpg") as overlay:
            assert overlay.size == mask.shape[::-1]
    for row, mask in zip(REPORT(metadata, answer, pictures).rows(), masks, strict=True):
        shares = [float(row[name]) for name in CONTRACT.classes]  # of the picture, not the square
        counts = np.bincount(mask.ravel(), minlength=3) / mask.size
        assert shares == pytest.approx(counts, abs=1e-4)
    assert REPORT(metadata, answer, pictures).drawings().keys() == {"predictions"}


def test_compare():
    one = {"MASK": np.zeros((2, 10, 10), np.uint8)}
    other = {"MASK": one["MASK"].copy()}
    other["MASK"][1, 3, :7] = 1
    assert REPORT.compare(one, other)["wrong_pixels"].tolist() == [0, 0.07]
    assert REPORT.limits.keys() == {"wrong_pixels"}


TRAIN = ("train", *SETTINGS["unet"], "trainer.max_epochs=1")


@pytest.mark.parametrize(
    ("shape", "value", "said"),
    [
        ((20, 30), 1, "masks/train_1.png: 30x20 pixels, and its picture"),
        # Of a class that `classes.txt` does not name.
        ((64, 48), 7, "masks/train_1.png: pixels of 7, and there are 0 to 2 (ground, blue, red)"),
    ],
)
def test_a_mask_that_does_not_fit(fails, tmp_path, shape, value, said):
    make_scenes(tmp_path / "data", {"train": 4, "val": 2, "test": 2})
    Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / "data/masks/train_1.png")
    told = fails(*TRAIN)
    assert said in told
    assert ("train_1.png has 48x64" in told) == (value == 1)


def test_trains_on_masks_in_colours(succeeds, tmp_path):
    make_scenes(tmp_path / "data", {"train": 4, "val": 2, "test": 2})
    colours = np.array([(0, 0, 0), (9, 9, 200), (200, 9, 9)], np.uint8)
    for file in (tmp_path / "data/masks").iterdir():
        Image.fromarray(colours[np.asarray(Image.open(file))]).save(file)
    given = "data.colours={ground: [0,0,0], blue: [9,9,200], red: [200,9,9]}"
    done = succeeds(*TRAIN, given)
    assert "test/IoU/red" in done.out
    sharded = [one for one in SETTINGS["unet"] if one.startswith(("data", "model="))]
    succeeds("shard", *sharded, given, "output=shards")
    pictures = read_shards(tmp_path / "shards", "segmentation")["test"]
    assert pictures.classes == ["ground", "blue", "red"]
    assert set(np.unique(pictures.mask(0))) <= {0, 1, 2}


def test_the_shape_is_taken_and_found_again(succeeds, fails, flowers, tmp_path):
    """In the folders of the training pictures, which are 48 x 40; and typed it rules."""
    settings = [one for one in TINY_OF["unet"] if "image_size" not in one]
    settings += ["test=false", "model.image_size=96"]
    succeeds("train", *settings)
    (weights,) = tmp_path.glob("weights/unet_*.safetensors")
    assert read_metadata(weights).image_size == 96
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    for file in flowers.rglob("*.[jp][pn]g"):
        with Image.open(file) as image:
            image.resize((80, 40), Image.Resampling.NEAREST).save(file)
    succeeds("train", *settings)
    assert read_metadata(weights).image_size == [64, 128]
    succeeds("infer", *settings[:-2], "model.image_size=96", "input=wide.png")
    said = fails("infer", *settings[:-2], "model.image_size=[96,96]", "input=wide.png")
    assert "add: 'model.image_size=[64, 128]'" in said
