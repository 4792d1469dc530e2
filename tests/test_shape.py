"""Inputs that are wider than high: chosen by hand or after the pictures, in training and in use."""

import pytest
import torch
from conftest import TINY_OF, make_flowers
from PIL import Image

from nano_cv.data.augment import Augment
from nano_cv.data.pictures import Boxes, Pictures, size_in_shape
from nano_cv.metadata import read_metadata


def test_wide_pictures_are_generated_judged_and_exported(run, flowers, tmp_path):
    """What the models of pictures do is tested with `shop`, up to the server."""
    settings = [*TINY_OF["flow"], "model.image_size=[32,64]"]
    assert run("train", *TINY_OF["lenet"], "model=lenet64", "test=false").status == 0
    done = run("train", *settings)
    assert done.status == 0 and "test/accuracy " in done.out, done.err
    assert read_metadata(tmp_path / "weights/flow_flowers.safetensors").image_size == [32, 64]
    done = run("export_model", *settings)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("sides", "size", "expected"),
    [
        ((480, 360), 256, [224, 288]),
        ((360, 480), 256, [288, 224]),
        ((412, 410), 250, 250),  # about square: as it was asked for
        ((4000, 200), 128, [64, 256]),  # no longer than four times the shorter side
    ],
)
def test_size_in_the_shape_of_the_pictures(tmp_path, sides, size, expected):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", sides).save(file)
    Image.new("RGB", (50, 900)).save(files[0])  # one of another shape
    (tmp_path / "4.png").write_bytes(b"damaged")
    assert size_in_shape(Pictures(tmp_path, [*files, tmp_path / "4.png"]), size) == expected


def test_the_shape_is_taken_and_found_again(run, fails, tmp_path):
    """In the folders of the training pictures, which are 48 x 40; and typed it rules."""
    make_flowers(tmp_path / "data" / "flowers")
    settings = [one for one in TINY_OF["unet"] if "image_size" not in one]
    settings += ["test=false", "model.image_size=96"]
    assert run("train", *settings).status == 0
    (weights,) = tmp_path.glob("weights/unet_*.safetensors")
    assert read_metadata(weights).image_size == 96
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    for file in (tmp_path / "data/flowers").rglob("*.[jp][pn]g"):
        with Image.open(file) as image:
            image.resize((80, 40), Image.Resampling.NEAREST).save(file)
    assert run("train", *settings).status == 0
    assert read_metadata(weights).image_size == [64, 128]
    assert run("infer", *settings[:-2], "model.image_size=96", "input=wide.png").status == 0
    said = fails("infer", *settings[:-2], "model.image_size=[96,96]", "input=wide.png")
    assert "add: 'model.image_size=[64, 128]'" in said


@pytest.mark.parametrize("crop", [None, (24, 40)])
@pytest.mark.parametrize("degrees", [0, 180])
def test_boxes_and_masks_move_with_wide_pictures(crop, degrees):
    """A white block in a black picture: where it is afterwards, its box and its mask are."""
    torch.manual_seed(0)
    pixels = torch.zeros(8, 3, 32, 64, dtype=torch.uint8)
    pixels[:, :, 8:20, 20:44] = 255
    boxes = Boxes(
        torch.tensor([[[20.0, 8, 44, 20]]]).repeat(8, 1, 1),
        torch.zeros(8, 1, dtype=torch.int64),
        torch.zeros(8, 1, dtype=torch.uint8),
    )
    augment = Augment(degrees=degrees, scale=(0.8, 1.2), translate=0.1)
    torch.manual_seed(1)
    moved, targets = augment(pixels, boxes, crop=crop)
    assert moved.shape[2:] == (crop or (32, 64))
    for picture, box, label in zip(moved, targets.boxes[:, 0], targets.labels[:, 0], strict=True):
        rows, columns = torch.nonzero(picture[0] > 180, as_tuple=True)
        if label == 0:
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == pytest.approx([float(one) for one in found], abs=1.6)
    torch.manual_seed(1)
    masks = (pixels[:, 0] > 0).to(torch.uint8)
    upright = Augment(degrees=0, scale=(0.8, 1.2), translate=0.1)
    seen, after = upright(pixels, masks, crop=crop)
    assert ((seen[:, 0] > 127) == after.bool()).float().mean() > 0.97
