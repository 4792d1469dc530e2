"""From files to batches: the cache, the checks of a set, the order, and augmentation."""

import os
import pickle
import subprocess
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TWICE, picture, python
from PIL import Image
from torch.nn.functional import avg_pool2d

from nano_cv.data import images
from nano_cv.data.augment import Augment
from nano_cv.data.cache import Cached
from nano_cv.data.datamodule import DataModule
from nano_cv.data.formats.flowers import read_flowers
from nano_cv.data.formats.folder import read_folder
from nano_cv.data.order import Draw
from nano_cv.data.pictures import Pictures, Resized, size_in_shape
from nano_cv.errors import UserError


def module(root: Path, **options: object) -> DataModule:
    """Set up."""
    settings = {"image_size": 16, "batch_size": 8, "cache": root.parents[1] / "cache"} | options
    tasks = ["classification"]
    data = DataModule("flowers", tasks, "classification", root, read_flowers, **settings)
    data.setup()
    return data


def sides(data: DataModule) -> dict[str, int]:
    return {split: resized.fetch([0]).shape[-1] for split, resized in data.splits.items()}


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.jpg"))


def cached(root: Path) -> Cached:
    """The pictures of a set in 16 x 16, decoded and kept."""
    made = Resized(Pictures(root, files(root)), 16, root.parents[1] / "cache").pixels
    assert made is not None
    return made


def everything(cached: Cached) -> np.ndarray:
    return cached.read(range(len(cached.files)))


def test_decoded_once(flowers, monkeypatch):
    first = cached(flowers)
    expected = np.stack([images.load(file, 16) for file in files(flowers)])
    assert np.array_equal(everything(first), expected) and everything(first).dtype == np.uint8
    monkeypatch.setattr(images, "load", lambda *_, **__: pytest.fail("decoded again"))
    second = cached(flowers)
    assert np.array_equal(everything(second), expected) and all(second.digests == first.digests)
    other_process = pickle.loads(pickle.dumps(second))  # as workers that are not forked get it
    assert np.array_equal(everything(other_process), expected)


def test_changed_picture_is_decoded_again(flowers, tmp_path):
    before = cached(flowers)
    changed = files(flowers)[0]
    changed.write_bytes(files(flowers)[-1].read_bytes())
    after = cached(flowers)
    assert np.array_equal(after.read([0]), before.read([47]))
    assert not np.array_equal(after.read([0]), before.read([0]))
    assert after.digests[0] == before.digests[-1] != before.digests[0]


def test_leftovers_of_killed_processes_are_cleared(flowers, tmp_path):
    path, dead = cached(flowers).path, subprocess.Popen(["true"])
    path.unlink()
    dead.wait()
    (path.parent / f".{path.name}.{dead.pid}.tmp").write_bytes(b"half an array")
    alive = path.parent / f".{path.name}.{os.getppid()}.tmp"
    alive.write_bytes(b"somebody else's")
    cached(flowers)
    left = {file.name for file in path.parent.iterdir()}
    assert left == {path.name, path.with_suffix(".sums").name, alive.name}


def zeros_inside(path: Path) -> None:
    """As a disk leaves them that failed, or was switched off: same size, other content."""
    with path.open("r+b") as file:
        file.seek(3000)
        file.write(bytes(2000))


@pytest.mark.parametrize("while_open", [False, True])
@pytest.mark.parametrize(
    "damage",
    [zeros_inside, lambda path: os.truncate(path, 5000), lambda path: os.truncate(path, 0)],
    ids=["zeros", "half", "empty"],
)
def test_damage_is_decoded_again(flowers, tmp_path, caplog, damage, while_open):
    """Never trained on black pictures; and no bus error where the file shrinks while it is read."""
    first = cached(flowers)
    expected = np.stack([images.load(file, 16) for file in files(flowers)])
    damage(first.path)
    again = first if while_open else cached(flowers)
    assert np.array_equal(everything(again), expected)
    assert str(first.path) in caplog.text and "damaged" in caplog.text
    assert np.array_equal(everything(cached(flowers)), expected)


def test_two_processes_at_once(flowers, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from nano_cv.data.pictures import Pictures, Resized\n"
        "files = sorted(Path(sys.argv[1]).glob('*/*.jpg'))\n"
        "made = Resized(Pictures(files[0].parent, files), 64, Path('cache')).pixels\n"
        "sys.stdout.write(f'{made.read(range(48)).sum()} {len(made.digests)}\\n')"  # at once
    )
    done = python("-c", TWICE, code, str(flowers), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, other = done.stdout.splitlines()
    assert one == other and one.endswith(" 48")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_order_depends_on_seed_and_epoch_only(flowers):
    def order(seed: int, epoch: int) -> list[int]:
        sampler = module(flowers, seed=seed).train_dataloader().sampler
        sampler.set_epoch(epoch)
        torch.rand(seed + 3)  # random numbers drawn elsewhere
        return list(sampler)

    assert sorted(order(1, 0)) == list(range(24))
    assert order(1, 0) == order(1, 0)
    assert order(1, 1) == order(1, 1) != order(1, 0) != order(2, 0)


def test_smaller_pictures_to_train_on_and_larger_ones_to_zoom_into(flowers):
    plain, data = module(flowers), module(flowers, train_size=12)
    assert sides(data) == {"train": 12, "val": 16, "test": 16}
    assert sides(module(flowers, train_size=20)) == sides(plain), "as when image_size is made less"
    assert module(flowers, train_size=12, image_size=[8, 32]).whole_size == (6, 24), "their shape"
    wide = module(flowers, train_size=96, image_size=[96, 192])
    assert wide.whole_size == (64, 128), "multiples of 32, as those of the input are"
    larger = module(flowers, detail=2.0, augment=Augment(flip=0))
    assert sides(larger) == {"train": 32, "val": 16, "test": 16}
    assert larger.data_hash == data.data_hash == plain.data_hash
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=-1))
    larger.trainer = SimpleNamespace(training=True, world_size=1, global_rank=0, fit_loop=loop)
    seen, _ = larger.on_after_batch_transfer(next(iter(larger.train_dataloader())), 0)
    assert seen.shape[2:] == larger.first_batch()[0].shape[2:] == (16, 16)
    cropped = module(flowers, detail=2.0, crop=8, augment=Augment(flip=0))
    assert cropped.first_batch()[0].shape[2:] == (8, 8), "as the network sees them"


@pytest.mark.parametrize(("axis", "flip"), [(1, 0.0), (0, 0.5)], ids=["sides", "ends"])
def test_pictures_are_mirrored_unless_that_changes_their_class(tmp_path, axis, flip):
    random = np.random.default_rng(0)
    for split, number in product(("train", "val", "test"), range(20)):
        pixels = random.integers(0, 200, (20, 20, 3), np.uint8)
        pixels[(slice(None),) * axis + (slice(0, 10),)] += 40
        for name, shown in (("a", pixels), ("b", np.flip(pixels, axis))):
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown).save(tmp_path / split / name / f"{number}.png")
    settings = {"image_size": 16, "augment": Augment(flip=None)}
    data = DataModule("ab", ["classification"], "classification", tmp_path, read_folder, **settings)
    data.setup()
    assert data.augment.flip == flip


def test_hash_follows_content_targets_and_splits(flowers, tmp_path):
    hashes = [module(flowers).data_hash]
    moved = flowers.rename(tmp_path / "data" / "elsewhere")
    assert module(moved).data_hash == hashes[0], "the place on the disk does not matter"
    content = files(moved)[0].read_bytes()
    files(moved)[0].write_bytes(content + b"\n")
    hashes.append(module(moved).data_hash)
    files(moved)[0].write_bytes(content)
    assert module(moved).data_hash == hashes[0], "nor does the date of a file"
    val, test = (moved / "val.txt").read_text(), (moved / "test.txt").read_text()
    (moved / "val.txt").write_text(test)
    (moved / "test.txt").write_text(val)
    hashes.append(module(moved).data_hash)
    (moved / "aardvark").mkdir()  # a class in front, so that all targets move
    for split in ("train", "val", "test"):
        with (moved / f"{split}.txt").open("a") as names:
            names.write("aardvark/plant001\n")
    (moved / "aardvark/plant001_rgb.jpg").write_bytes(content)
    hashes.append(module(moved).data_hash)
    assert len(set(hashes)) == 4


def test_hidden_folders_and_missing_data(flowers, tmp_path):
    (flowers / ".ipynb_checkpoints").mkdir()
    assert module(flowers).classes == ["aster", "basil", "clover"]
    (flowers / "basil/plant003_rgb.jpg").unlink()
    with pytest.raises(UserError, match=r"basil/plant003_rgb\.jpg; .*type: dvc pull"):
        module(flowers)
    with pytest.raises(UserError, match=r"train\.txt: not found; .*type: dvc pull"):
        module(tmp_path / "data" / "nowhere")


def noise(count: int = 4, side: int = 12) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    shape = (count, 3, side, side)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=made)


def test_mirror_turn_and_shift(monkeypatch):
    """Every random number at its upper end, so that the result is known."""

    def highest(draw: Draw, low: float, high: float, rows: int = 1) -> torch.Tensor:
        chance = (low, high) == (0, 1)  # of a mirror image, which is one below 1
        return torch.full((rows, draw.pictures), 0.5 if chance else high)

    monkeypatch.setattr(Draw, "uniform", highest)
    picture = noise().float()

    def same(changed: torch.Tensor, expected: torch.Tensor) -> bool:
        return torch.allclose(changed, expected, atol=0.01)

    assert same(Augment(flip=0)(noise())[0], picture)
    assert same(Augment(flip=1)(noise())[0], picture.flip(3))
    assert same(Augment(flip=0, degrees=180.0)(noise())[0], picture.flip(2, 3))
    assert same(Augment(flip=0, degrees=90.0)(noise())[0], picture.rot90(1, (2, 3)))
    assert same(Augment(flip=1, degrees=90.0)(noise())[0], picture.flip(3).rot90(-1, (2, 3)))
    shifted = Augment(flip=0, translate=0.25)(noise())[0]  # a quarter of 12 pixels
    assert same(shifted[..., :9, :9], picture[..., 3:, 3:])
    halved = Augment(flip=0)(noise(), size=6)[0]
    assert same(halved, avg_pool2d(picture, 2)), "twice as large: the mean of four pixels"
    assert same(Augment(flip=0, brightness=0.5)(noise())[0], (picture * 1.5).clamp(max=255))


def test_each_picture_its_own_change():
    batch, strong = noise(1).expand(4, -1, -1, -1), dict.fromkeys(("contrast", "saturation"), 0.3)
    strong |= {"degrees": 180, "scale": (0.8, 1.2), "translate": 0.1, "brightness": 0.3}
    for option in ({"flip": 0.5}, {"flip": 0, "brightness": 0.5}, strong):
        torch.manual_seed(0)
        changed = Augment(**option)(batch)[0]
        assert changed.shape == batch.shape and changed.dtype == torch.float32
        assert changed.min() >= 0 and changed.max() <= 255
        assert not all(torch.equal(changed[0], other) for other in changed[1:])
        torch.manual_seed(0)
        assert torch.equal(Augment(**option)(batch)[0], changed), "the same seed, the same change"


def test_contrast_and_saturation_leave_grey_as_it_is():
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    for option in ("contrast", "saturation"):
        assert torch.allclose(Augment(flip=0, **{option: 0.9})(grey)[0], grey.float(), atol=0.01)


def test_rare_classes_weigh_more(flowers):
    """12 pictures of one class, 3 of another, none of the third, which nothing is known of."""
    assert module(flowers, balance="none").class_weights() is None
    for balance, ratio in (("sqrt", 2), ("full", 4)):
        data = module(flowers, balance=balance)
        data.splits["train"].pictures.counts = np.array([12, 3, 0])
        weights = data.class_weights()
        assert weights[1] / weights[0] == pytest.approx(ratio)
        assert (12 * weights[0] + 3 * weights[1]) / 15 == pytest.approx(1), "as large a loss"
        assert weights[2] == 1


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
    files = [picture(tmp_path / f"{number}.png", (0, 0, 0), *sides) for number in range(3)]
    picture(files[0], (0, 0, 0), 50, 900)  # one of another shape
    (tmp_path / "4.png").write_bytes(b"damaged")
    assert size_in_shape(Pictures(tmp_path, [*files, tmp_path / "4.png"]), size) == expected
