"""Sets in shards, in a folder and in a store that speaks S3: what is written, read, and refused."""

import hashlib
import logging
import os
import re
import shlex
import shutil
import sys
import tarfile
from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import boto3
import numpy as np
import pytest
from botocore.exceptions import IncompleteReadError
from conftest import TINY, TINY_OF, open_splits, update_json
from moto.server import ThreadedMotoServer
from test_formats import change, make_coco

from nano_cv.data import images, s3, store
from nano_cv.data.formats.coco import read_coco
from nano_cv.data.formats.flowers import read_flowers
from nano_cv.data.formats.shards import read_shards, write_shards
from nano_cv.data.pictures import open_pictures
from nano_cv.data.shard_order import WINDOW, ShardOrder
from nano_cv.data.targets import CROWD, Boxes
from nano_cv.errors import UserError
from nano_cv.files import inside

TASKS = ("classification", "detection", "segmentation")


@pytest.fixture(scope="module")
def server():
    """A store for the tests of this file, in a thread."""
    for name in ("werkzeug", "botocore"):  # they would write into the streams of earlier tests
        logging.getLogger(name).setLevel(logging.CRITICAL)
    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """`s3://birds`, empty."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    s3._client.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="birds")
    yield "s3://birds"
    for one in client.list_objects_v2(Bucket="birds").get("Contents", ()):
        client.delete_object(Bucket="birds", Key=one["Key"])
    client.delete_bucket(Bucket="birds")
    s3._client.cache_clear()


@pytest.fixture(autouse=True)
def fresh():
    """No shards in memory from the test before."""
    store.ASKED.clear()
    store.whole_shard.cache_clear()


def opened(root: Path | str, task: str = "classification", read=read_shards, cache=None):
    return open_splits(read, root, task, 32, cache, "stretch")


def in_shards(
    root: Path, output: str, task: str = "classification", most: int = 20_000, read=read_flowers
) -> str:
    """Writes a set; its hash."""
    splits, data_hash = opened(root, task, read)
    write_shards(splits, data_hash, output, most)
    return data_hash


def sign(root: Path, split: str) -> None:
    """Write the sums of its tables into an index, as somebody would who knows the format."""
    tables = [*root.glob(f"{split}*.npy")]
    sums = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in tables}
    update_json(root / f"{split}.json", tables=sums)


def edit(
    root: Path, split: str, column: str, value: object, at: object = -1, table: str = "npy"
) -> None:
    """Change a value in a table, and the table's sum in the index."""
    place = root / f"{split}.{table}"
    rows = np.load(place)
    rows[column][at] = value
    np.save(place, rows)
    sign(root, split)


@pytest.fixture
def shards(flowers, tmp_path):
    """The tiny set in shards of five or six pictures."""
    in_shards(flowers, str(tmp_path / "shards"))
    return tmp_path / "shards"


@pytest.mark.parametrize("place", ["folder", "store"])
@pytest.mark.parametrize("task", TASKS)
def test_the_same_set_as_loose_files(flowers, tmp_path, bucket, task, place):
    output = str(tmp_path / "shards") if place == "folder" else f"{bucket}/set"
    in_shards(flowers, output, task)
    loose, hash_of_loose = opened(flowers, task, read_flowers)
    packed, hash_of_packed = opened(output, task)
    assert hash_of_packed == hash_of_loose
    for split, expected in loose.items():
        actual = packed[split]
        assert len(set(actual.pictures.shards)) > 1
        assert actual.pictures.classes == expected.pictures.classes
        order = [actual.pictures.names.index(name) for name in expected.pictures.names]
        everything = range(len(expected))
        assert np.array_equal(actual.fetch(order), expected.fetch(everything))
        targets, wanted = actual.targets(order), expected.targets(everything)
        if not isinstance(wanted, Boxes):
            targets, wanted = [targets], [wanted]
        assert all(map(np.array_equal, targets, wanted))
        assert np.array_equal(actual.count() > 0, expected.count() > 0)


def test_other_tools_can_read_them(shards):
    """As WebDataset names things: a picture and its class side by side."""
    table = np.load(shards / "train.npy")
    found = []
    for archive in sorted(shards.glob("train-*.tar")):
        with tarfile.open(archive) as content:
            members = {member.name: content.extractfile(member).read() for member in content}
        keys = [name.removesuffix(".jpg") for name in members if name.endswith(".jpg")]
        assert members.keys() == {f"{key}{end}" for key in keys for end in (".jpg", ".cls")}
        assert archive.stat().st_size <= 20_000 + 2 * 10_240, "label, and an end of tar"
        found += [(key, int(members[f"{key}.cls"])) for key in keys]
    assert found == [(f"{i:08d}", label) for i, label in enumerate(table["label"])]
    assert len({label for _, label in found[:6]}) > 1, "shuffled, for they came by class"


def test_cache_on_the_local_disk(shards, tmp_path):
    streamed, _ = opened(shards)
    kept, _ = opened(shards, cache=tmp_path / "cache")
    shutil.move(shards / "train-00000.tar", tmp_path)
    assert kept["train"].fetch(range(24)).shape == (24, 3, 32, 32), "needs the shards no more"
    assert streamed["train"].in_shards and not kept["train"].in_shards
    with pytest.raises(UserError, match=r"train-00000\.tar: cannot be read: No such file"):
        streamed["train"].fetch(range(24))


def test_train_from_a_store(succeeds, flowers, bucket, tmp_path):
    settings = TINY_OF["centernet"]
    written = succeeds("shard", "model=centernet", f"output={bucket}/a/", "shard_mb=0.02")
    assert (
        f"data=shards +model=centernet data.root={bucket}/a data.name=flowers_shards" in written.out
    )
    shutil.rmtree(flowers)
    settings = [*settings, "data=shards", f"data.root={bucket}/a", "data.name=flowers"]
    trained = succeeds("train", *settings)
    assert "all pictures" in (tmp_path / "runs/train").glob("*/*/train.log").__next__().read_text()
    inferred = succeeds("infer", *settings)
    every = [row.split() for row in trained.out.splitlines()]
    figures = [line.split() for line in inferred.out.splitlines() if line.startswith("test/")]
    assert figures and all(line in every for line in figures)
    assert not (tmp_path / ".cache").exists() or not list((tmp_path / ".cache").glob("*.npy"))


def test_resumed_equals_unbroken(run, succeeds, shards, tmp_path, interrupted):
    """With workers that have fetched before they know where the training goes on."""
    settings = [*TINY, "data=shards", f"data.root={shards}", "test=false", "logger=none"]
    succeeds("train", *settings, "trainer.max_epochs=2")
    weights = tmp_path / "weights/lenet_shards.safetensors"
    unbroken = weights.read_bytes()
    assert list(tmp_path.glob("runs/train/*/*/checkpoints/last.ckpt"))
    shutil.rmtree(tmp_path / "runs")

    with interrupted(0, 1):
        assert run("train", *settings, "trainer.max_epochs=2").status == 130
    succeeds("train", *settings, "trainer.max_epochs=2", "resume=true")
    assert weights.read_bytes() == unbroken


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_worker_reads_its_shards_once(workers):
    """Each picture once an epoch; and no worker more than it holds, but for the last batches."""
    numbers = np.repeat(np.arange(40), 16).tolist()
    order = ShardOrder(numbers, 8, workers)
    for epoch in range(2):
        order.set_epoch(epoch)
        pictures = list(order)
        assert sorted(pictures) == list(range(len(numbers)))
        batches = [pictures[start : start + 8] for start in range(0, len(pictures), 8)]
        times: Counter[int] = Counter()
        for worker in range(max(1, workers)):
            held: list[int] = []
            for picture in chain.from_iterable(batches[worker :: max(1, workers)]):
                shard = numbers[picture]
                if shard not in held:
                    times[shard] += 1
                    held = [*held, shard][1 - store.MAX_SHARDS :]
        assert max(times.values()) == 1 or sum(times.values()) <= 40 + 3 * WINDOW
        assert len({numbers[picture] for picture in batches[0]}) > 1, "mixed"


def test_one_picture_or_a_whole_shard(shards, monkeypatch):
    """A single picture costs its own bytes, an epoch costs each shard once."""
    asked: list[tuple[str, int | None]] = []
    read = store.read

    def counted(place: str, start: int = 0, size: int | None = None) -> bytes:
        asked.append((Path(place).name, size))
        return read(place, start, size)

    splits, _ = opened(shards)
    monkeypatch.setattr(store, "read", counted)
    first = splits["train"].pictures.files[0]
    splits["train"].fetch([0])
    assert asked == [("train-00000.tar", first.size)]
    asked.clear()
    splits["train"].fetch(range(24))
    whole = [place for place, size in asked if size == (shards / place).stat().st_size]
    assert sorted(whole) == sorted(path.name for path in shards.glob("train-*.tar"))
    assert len(asked) <= 2 * len(whole)


@pytest.mark.parametrize("of", ["a full disk", "a broken picture"])
def test_a_failure_leaves_nothing(fails, flowers, tmp_path, monkeypatch, of):
    def full(place, content):
        raise OSError(28, "No space left on device")

    said, bad = "No space left on device", flowers / "basil/plant003_rgb.jpg"
    if of == "a full disk":
        monkeypatch.setattr(store, "write", full)
    else:
        bad.write_bytes(bad.read_bytes()[:900])
        said = f"1 of 24 pictures cannot be used; mend or remove them:\n  {bad}: "
    assert said.replace(f"{tmp_path}/", "") in fails("shard", *TINY[:1], "output=shards")
    assert not (tmp_path / "shards").exists() and not list(tmp_path.glob(".shards.tmp"))


def test_a_set_is_not_overwritten(run, fails, shards, bucket, flowers):
    in_shards(flowers, f"{bucket}/set")
    for place in (shards, f"{bucket}/set"):
        said = fails("shard", *TINY[:1], f"output={place}")
        assert said.startswith(f"error: output={place}: there is one already; remove it")
    assert "output: needed" in run("shard", *TINY[:1]).err


@pytest.fixture
def refused(fails):
    """What is said of a set of shards that cannot be trained on."""
    train = ("train", *TINY, "data=shards")
    return lambda root, *settings: fails(*train, f"data.root={root}", *settings)


def test_the_command_that_is_printed_works(succeeds, flowers, tmp_path):
    said = succeeds("shard", *TINY[:1], f"output='{tmp_path}/sh (a), b'").out
    command = shlex.split(said.partition("type: ")[2].splitlines()[0])
    assert command[:2] == ["python", "train.py"]
    assert "(a), b" in succeeds("train", "--cfg", "job", *command[2:]).out


def test_no_set_there(run, refused, tmp_path, bucket):
    said = refused(tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere/train.json: cannot be read: No such file or directory" in said
    assert "python shard.py" in said
    assert "birds/nowhere/train.json: " in refused(f"{bucket}/nowhere")
    assert "NoSuchBucket" in refused("s3://bards/nowhere")
    said = run("train", *TINY, f"data.root={bucket}/set").err
    assert said.startswith(f"error: data.root={bucket}/set: a store is read by data=shards")


def test_mistakes_about_the_store(run, refused, monkeypatch, bucket, flowers):
    for output in ("gs://birds/set", "s3:/birds/set"):
        said = run("shard", *TINY[:1], f"output={output}")
        assert said.err == f"error: {output}: neither a folder nor s3://BUCKET/FOLDER\n"
    for address, answer in {
        "127.0.0.1:5056": "Invalid endpoint: 127.0.0.1:5056",
        "http://127.0.0.1:9": "AWS_ENDPOINT_URL",  # nobody is there
    }.items():
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3._client.cache_clear()
        said = refused(f"{bucket}/set")
        assert answer in said and address.removeprefix("http://") in said
    monkeypatch.setitem(sys.modules, "boto3", None)
    s3._client.cache_clear()
    assert "poetry install --extras s3" in refused(f"{bucket}/set")
    assert "shard_mb=5000: at most 1000" in run("shard", *TINY[:1], "output=a", "shard_mb=5000").err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not an index of shards: Expecting property name"),
        ({"format": 1}, "it has format 1, and not 2; write the set again, as in: python shard.py"),
        ({"kind": "boxes"}, "has targets for detection, and the task is classification"),
        ({"classes": ["clover", "basil", "aster"]}, "the classes of 'val' are aster, basil"),
        ({"tables": {"train.npy": "0"}}, "train.npy: not the table that belongs to this index"),
        ({"data_hash": "0" * 64}, "train, val, test are of different sets"),
        ({"data_hash": "../../outside"}, "data_hash: a SHA-256 belongs there"),
        ({"shards": [["a.tar", 10**12]]}, "a.tar: 1,000,000,000,000 bytes; at most 2,147,483,648"),
    ],
)
def test_damaged_index(shards, content, message):
    if isinstance(content, dict):
        update_json(shards / "train.json", **content)
    else:
        (shards / "train.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        open_pictures(read_shards, shards, "classification")


def other_archive(root: Path, name: object) -> None:
    size = (root / "test-00000.tar").stat().st_size
    update_json(root / "test.json", shards=[[name, size]] * len([*root.glob("test-*.tar")]))


def other_table(root: Path, content: bytes | np.ndarray) -> None:
    if isinstance(content, bytes):
        (root / "test.npy").write_bytes(content)
    else:
        np.save(root / "test.npy", content)
    sign(root, "test")


@pytest.mark.parametrize(
    ("change", "given"),
    [
        *((other_archive, [name]) for name in ("../train-00000.tar", "/etc/passwd", "a/b.tar")),
        *((other_archive, [name]) for name in ("..", "x", 7)),
        *((other_table, [content]) for content in (b"", b"PK", b"\x93NUMPY\x01\x00\x76\x00{")),
        (other_table, [np.zeros(3)]),
        (other_table, [np.array([{}], object)]),  # reading this would run a stranger's code
        (edit, ["test", "name", b"\xff.jpg"]),
        *((edit, ["test", "shard", number]) for number in (-1, 99)),
        *((edit, ["test", "label", number]) for number in (-1, 3)),
        (edit, ["test", "width", 0]),
        (edit, ["test", "height", -1]),
    ],
)
def test_foreign_set_that_reaches_out(shards, change, given):
    """What stands in an index must not lead out of its folder, nor out of where we write."""
    change(shards, *given)
    with pytest.raises(UserError, match=r"test\.json: not an index of shards"):
        read_shards(shards, "classification")


@pytest.mark.parametrize("column", ["start", "size"])
@pytest.mark.parametrize("value", [-1, 10**8, 2**63 - 1])
def test_pictures_that_reach_out_of_their_shard(shards, column, value):
    """Of one picture, and of the whole shard."""
    edit(shards, "test", column, value, at=0)
    test = read_shards(shards, "classification")["test"]
    for _ in range(2):
        with pytest.raises(UserError, match=r"test-00000\.tar.*: "):
            images.decode(test.files[0])


def test_objects_of_unknown_classes(flowers, tmp_path):
    in_shards(flowers, str(tmp_path / "shards"), "detection")
    edit(tmp_path / "shards", "train", "label", 1, table="objects.npy")
    with pytest.raises(UserError, match=r"train\.json: .*number 1 of 1 classes"):
        read_shards(tmp_path / "shards", "detection")


def test_the_same_picture_in_two_splits(flowers, tmp_path, caplog):
    """Said of shards as of loose files, and of both kinds with the same hash."""
    names = {split: (flowers / f"{split}.txt").read_text().split() for split in ("train", "test")}
    for one, other in list(zip(names["train"], names["test"], strict=False))[:2]:
        shutil.copy(flowers / f"{one}_rgb.jpg", flowers / f"{other}_rgb.jpg")
    data_hash = in_shards(flowers, str(tmp_path / "set"), most=10**6)
    said = sorted(caplog.messages)
    caplog.clear()
    assert opened(tmp_path / "set")[1] == data_hash and sorted(caplog.messages) == said
    assert "2 pictures are in two splits" in said[0]
    first = f"{names['test'][0]}_rgb.jpg (test) = {names['train'][0]}_rgb.jpg (train)"
    assert f"The same picture in two splits: {first}" in said


def test_writers_stay_in_their_folder(tmp_path):
    assert inside(tmp_path, "a/b.png") == tmp_path / "a/b.png"
    assert inside(tmp_path, "a/../b.png")
    for name in ("../a.png", "/etc/a.png", "a/../../b.png", ".."):
        with pytest.raises(UserError, match="leads out of"):
            inside(tmp_path / "x", name)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [(700, 720, "damaged: these are not the bytes that shard.py wrote"), (4000, None, "cut short")],
)
def test_damaged_shard(refused, shards, start, end, said):
    """Met by a worker in the middle of a training."""
    file = shards / "train-00001.tar"
    content = file.read_bytes()
    file.write_bytes(content[:start] + (bytes(end - start) + content[end:] if end else b""))
    assert said in refused(shards)


def test_answers_that_break_off(shards, bucket, monkeypatch):
    """Twice is borne, three times is said."""
    client, fails = s3._client(os.getpid()), 2

    def read(*_):
        nonlocal fails
        fails -= 1
        if fails >= 0:
            raise IncompleteReadError(actual_bytes=2, expected_bytes=5)
        return b"whole"

    monkeypatch.setattr(client, "get_object", lambda **_: {"Body": SimpleNamespace(read=read)})
    assert store.read(f"{bucket}/a") == b"whole"
    fails = 3
    with pytest.raises(UserError, match="2 read, but total bytes expected is 5"):
        store.read(f"{bucket}/a")


def test_ignored_objects_survive(tmp_path):
    make_coco(tmp_path / "data")
    change(tmp_path / "data", "annotations", 0, iscrowd=1)
    data_hash = in_shards(tmp_path / "data", str(tmp_path / "set"), "detection", read=read_coco)
    packed, found = opened(tmp_path / "set", "detection")
    assert found == data_hash and packed["train"].count().sum() == 2, "of 3 objects"
    assert sum(int(one.ignored.sum()) for one in packed["train"].fitted.boxes) == CROWD
