"""Known data sets that fetch themselves, from a server on this machine that misbehaves."""

import gzip
import hashlib
import io
import os
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from conftest import TINY, TWICE, picture, python, refused
from PIL import Image
from test_formats import add_voc_masks, every_split, make_voc, write

from nano_cv.data.formats.cvppp import read_cvppp
from nano_cv.data.formats.splitting import stable_split
from nano_cv.data.known import SETS, arranging, fetching, open_known
from nano_cv.data.known.fetching import Archive, fetch, obtain, unpack
from nano_cv.data.masks import load_mask
from nano_cv.data.pictures import Pictures
from nano_cv.files import locked, make_once
from nano_cv.serving import triton

CONTENT = np.random.default_rng(0).bytes(300_000)
HALF = 150_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What the server has, how it misbehaves next, and what it was asked for."""
    site = SimpleNamespace(files={}, faults=[], ranges=[], over=threading.Event())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, given = site.files.get(self.path), self.headers["Range"]
            site.ranges.append(given)
            fault = site.faults.pop(0) if site.faults else ""
            if content is None:
                return self.send_error(404)
            if fault == "moved to a file":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                return self.end_headers()
            start = int(given.removeprefix("bytes=").removesuffix("-")) if given else 0
            if "no ranges" in fault:
                start = 0
            if start >= len(content):
                return self.send_error(416)
            stated = start + 7 if fault == "another range" else start
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {stated}-{len(content) - 1}/*")
            self.end_headers()
            broken = "break" in fault or fault == "stall"
            self.wfile.write(content[start : start + HALF] if broken else content[start:])
            if fault == "stall":
                site.over.wait(10)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    monkeypatch.setattr(fetching, "TIMEOUT", 0.3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    site.files["/a.bin"] = CONTENT
    yield site
    site.over.set()
    server.shutdown()
    server.server_close()


def get(
    site: SimpleNamespace, folder: Path, digest: str = sha256(CONTENT), size: int | None = None
) -> bytes:
    return obtain(Archive(f"{site.url}/a.bin", digest, size), folder).read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("digest", [sha256(CONTENT), md5(CONTENT)])
def test_whole_and_only_once(site, tmp_path, digest):
    assert get(site, tmp_path / "new" / "folder", digest) == CONTENT
    assert get(site, tmp_path / "new" / "folder", digest) == CONTENT
    assert left(tmp_path / "new" / "folder") == ["a.bin"] and site.ranges == [None]


@pytest.mark.parametrize("fault", ["break", "stall"])
def test_broken_connection_goes_on_where_it_was(site, tmp_path, fault):
    site.faults = [fault]
    assert get(site, tmp_path) == CONTENT
    assert site.ranges[0] is None and len(site.ranges) == 2
    start = int(site.ranges[1].strip("bytes=-"))
    assert HALF - fetching.CHUNK < start <= HALF
    assert left(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    ("part", "fault", "ranges"),
    [
        (CONTENT[:1000], "no ranges", ["bytes=1000-"]),
        (CONTENT[:1000], "another range", ["bytes=1000-", None]),
        (b"an older version" * 100, "", ["bytes=1600-", None]),
        (CONTENT, "", ["bytes=300000-"]),
        (CONTENT + b"too long", "", ["bytes=300008-", None]),
    ],
)
def test_a_part_that_was_kept(site, tmp_path, part, fault, ranges):
    """A part of another file is found out by its digest, and the next start fetches all."""
    (tmp_path / ".a.bin.part").write_bytes(part)
    site.faults = [fault]
    if None in ranges:
        assert "start again; else the server" in refused(lambda: get(site, tmp_path))
    assert get(site, tmp_path) == CONTENT and site.ranges == ranges


def test_patience_is_with_what_brings_something(site, tmp_path, monkeypatch):
    site.faults = ["break, no ranges"] * 9
    assert "the connection breaks" in refused(lambda: get(site, tmp_path))
    assert len(site.ranges) == fetching.TRIES
    monkeypatch.setattr(fetching, "TRIES", 2)
    site.ranges, site.faults, site.files["/a.bin"] = [], ["break"] * 9, CONTENT * 2
    assert get(site, tmp_path / "more", sha256(CONTENT * 2)) == CONTENT * 2
    assert len(site.ranges) >= 4, "each time a bit further"


@pytest.mark.parametrize("content", [b"something else", None])
def test_wrong_content_is_removed_and_an_error_of_the_server_is_said(site, tmp_path, content):
    site.files["/a.bin"] = content
    said = refused(lambda: get(site, tmp_path))
    if content:
        assert sha256(CONTENT) in said and sha256(content) in said
    else:
        assert f"{site.url}/a.bin: 404 Client Error: Not Found" in said
    assert left(tmp_path) == [] and len(site.ranges) == 1


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    url = f"http://127.0.0.1:{triton.free_ports(1)[0]}/a.bin"
    archive = Archive(url, sha256(CONTENT), len(CONTENT))
    said = refused(lambda: obtain(archive, tmp_path))
    for part in (url, "cannot be reached", str(tmp_path / "a.bin"), "300,000 bytes"):
        assert part in said
    assert f"sha256 {sha256(CONTENT)}" in said and "data.source=FOLDER" in said


def test_http_and_https_only(site, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for url in (f"file://{tmp_path}/secret", f"{tmp_path}/secret", "ftp://127.0.0.1/secret"):
        archive = Archive(url, sha256(b"secret"))
        assert refused(lambda one=archive: fetch(one, tmp_path / "a")).startswith(f"{url}: ")
    site.faults = ["moved to a file"]
    assert "file:///etc/hostname" in refused(lambda: get(site, tmp_path))
    assert left(tmp_path) == ["secret"]


def test_full_disk_keeps_the_part(site, tmp_path):
    """A real one, as far as a process can have its own: files may not grow beyond 100 kB."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from nano_cv.config import cli; from nano_cv.data.known.fetching import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: obtain(Archive(*sys.argv[1:]), Path())\n"
        "except OSError as error: cli.stop(error)"
    )
    done = python("-c", code, f"{site.url}/a.bin", sha256(CONTENT), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = ".a.bin.part (kept, and the next start goes on there): File too large; free some"
    assert message in done.stderr
    assert left(tmp_path) == [".a.bin.part"]
    assert get(site, tmp_path) == CONTENT and site.ranges[-1].startswith("bytes=")


def test_brought_by_hand(tmp_path):
    """Into its place, or in a folder that `source` names: no server is asked."""
    archive = Archive("http://127.0.0.1:9/b/a.bin", md5(CONTENT))
    for folder, source in ((tmp_path, None), (tmp_path / "elsewhere", tmp_path)):
        (tmp_path / "a.bin").write_bytes(CONTENT)
        assert obtain(archive, folder, source).read_bytes() == CONTENT
        (tmp_path / "a.bin").write_bytes(b"cut")
        said = refused(partial(obtain, archive, folder, source))
        assert md5(CONTENT) in said and md5(b"cut") in said and str(tmp_path / "a.bin") in said
        assert (tmp_path / "a.bin").exists(), "it is not ours to remove"
    (tmp_path / "a.bin").unlink()
    assert "not there; data.source" in refused(partial(obtain, archive, folder, source))


@pytest.mark.parametrize("kind", ["outside", "link", "cut short", "page"])
def test_archives_that_are_refused(tmp_path, kind):
    archive, last = tmp_path / "a.tgz", tarfile.TarInfo("../evil" if kind == "outside" else "last")
    if kind == "link":
        last.type, last.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(archive, "w:gz") as content:
        for member in (*(tarfile.TarInfo(f"{number}") for number in range(99)), last):
            member.size = 4 if member.isreg() else 0
            content.addfile(member, io.BytesIO(b"evil"))
    if kind == "cut short":
        archive.write_bytes(archive.read_bytes()[:-100])
    if kind == "page":
        archive.write_bytes(b"<html>not an archive</html>" * 100)
    said = refused(lambda: make_once(tmp_path / "out", partial(unpack, archive)))
    assert said.startswith(f"{archive}: cannot be unpacked")
    assert left(tmp_path) == ["a.tgz"]


def test_two_processes_make_it_once(tmp_path):
    code = (
        "import time; from pathlib import Path; from nano_cv.files import locked, make_once\n"
        "def make(folder): time.sleep(0.3); (folder / 'a').touch(); print('made')\n"
        "make_once(Path('out'), make)"
    )
    done = python("-c", TWICE, code, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == "made\n", done.stderr


def test_a_lock_that_is_taken_away_still_locks(tmp_path):
    """Those who wait for a file that its holder removes do not go on beside each other."""
    count, children = tmp_path / "count", []
    count.write_text("0")
    for _ in range(3):
        if child := os.fork():
            children.append(child)
            continue
        with suppress(Exception):
            for _ in range(20):
                with locked(tmp_path / "made"):
                    number = int(count.read_text())
                    time.sleep(0.0005)
                    count.write_text(str(number + 1))
            os._exit(0)
        os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert count.read_text() == "60" and left(tmp_path) == ["count"]


def packed(folder: Path, mode: str = "w:gz") -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode=mode) as content:
        content.add(folder, folder.name)
    return archive.getvalue()


def splits(name: str, root: Path, task: str, **options: object) -> dict[str, Pictures]:
    return open_known(root, task, name=name, **options)


def replace_archives(
    monkeypatch: pytest.MonkeyPatch, name: str, site: SimpleNamespace, contents: dict[str, bytes]
) -> None:
    """The set, of small archives from the local server."""
    assert [Path(one.url).name for one in SETS[name].archives] == list(contents), "official names"
    site.files |= {f"/{file}": content for file, content in contents.items()}
    archives = tuple(
        Archive(f"{site.url}/{file}", md5(content), old.size)
        for (file, content), old in zip(contents.items(), SETS[name].archives, strict=True)
    )
    monkeypatch.setitem(SETS, name, SETS[name]._replace(archives=archives))


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, neither network nor unpacking nor torchvision."""
    monkeypatch.setattr("requests.get", lambda *_, **__: pytest.fail("the network"))
    monkeypatch.setattr("tarfile.open", lambda *_, **__: pytest.fail("unpacking"))
    monkeypatch.setattr("sys.modules", {**__import__("sys").modules, "torchvision": None})


@pytest.fixture
def photos(site: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where FlowerPhotos fetches a small archive from: the folder that was packed."""
    folder = tmp_path / "made" / "flower_photos"
    for name in ("daisy", "tulips"):
        for number in range(20):
            picture(folder / name / f"{name}_{number}.jpg")
    write(folder / "LICENSE.txt", "CC-BY")
    contents = {"flower_photos.tgz": packed(folder)}
    replace_archives(monkeypatch, "flower_photos", site, contents)
    return folder


def test_flower_photos(site, photos, tmp_path, monkeypatch):
    fetched = splits("flower_photos", tmp_path / "data", "classification")
    assert sum(map(len, fetched.values())) == 40 and all(map(len, fetched.values()))
    for split, pictures in fetched.items():
        assert pictures.classes == ["daisy", "tulips"]
        for file, target in zip(pictures.files, pictures.targets, strict=True):
            assert file.parent.name == pictures.classes[target] == file.stem.partition("_")[0]
            assert stable_split(file.name) == split, "as the shipped weights were trained"
    offline(monkeypatch)
    again = splits("flower_photos", tmp_path / "data", "generation")
    assert all(again[split].names == some.names for split, some in fetched.items())
    assert len(site.ranges) == 1
    assert (tmp_path / "data/splits/LICENSE.txt").exists()


def test_archives_are_the_official_ones():
    voc = torchvision.datasets.voc.DATASET_YEAR_DICT["2012"]
    official = {
        "flowers102": torchvision.datasets.Flowers102._file_dict.values(),
        "pets": torchvision.datasets.OxfordIIITPet._RESOURCES,
        "fashion_mnist": torchvision.datasets.FashionMNIST.resources,
        "voc2012": [(voc["url"], voc["md5"])],
    }
    for name, archives in official.items():
        ours = [(Path(one.url).name, one.digest) for one in SETS[name].archives]
        assert ours == [(Path(url).name, digest) for url, digest in archives]


def test_unreachable_set_from_a_command(fails, site, photos, tmp_path):
    site.files.clear()
    said = fails("train", "+data=flower_photos", "+model=lenet", *TINY)
    assert said.count("\n") == 1 and "404" in said
    assert "data/flower_photos/flower_photos.tgz (228,813,984 bytes, md5" in said
    assert not (tmp_path / "data/flower_photos/splits").exists()


def test_fashion_mnist_from_source(site, tmp_path, monkeypatch):
    """Of 60 and 20 pictures, in a folder with archives as the real ones."""
    random, source, kept, contents = np.random.default_rng(0), tmp_path / "archives", {}, {}
    source.mkdir()
    for part, count in (("train", 60), ("t10k", 20)):
        kept[part] = random.integers(0, 256, (count, 28, 28))
        for name, values in (("images-idx3", kept[part]), ("labels-idx1", np.arange(count) % 10)):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            content = gzip.compress(head + values.astype(np.uint8).tobytes())
            contents[f"{part}-{name}-ubyte.gz"] = content
            (source / f"{part}-{name}-ubyte.gz").write_bytes(content)
    replace_archives(monkeypatch, "fashion_mnist", site, contents)
    monkeypatch.setattr(arranging, "VALIDATION", 20)
    pictures = splits("fashion_mnist", tmp_path / "set", "classification", source=source)
    names = [one.replace("/", " or ") for one in torchvision.datasets.FashionMNIST.classes]
    assert pictures["train"].classes == sorted(names)
    numbers = {split: {int(file.stem) for file in one.files} for split, one in pictures.items()}
    assert [len(one) for one in numbers.values()] == [40, 20, 20]
    assert numbers["val"] == set(range(40, 60)), "the last ones"
    for some in (pictures["train"], pictures["val"]):
        for file, target in zip(some.files, some.targets, strict=True):
            number = int(file.stem)
            assert some.classes[target] == names[number % 10]
            assert np.array_equal(np.array(Image.open(file)), kept["train"][number])
    offline(monkeypatch)
    for split, again in splits("fashion_mnist", tmp_path / "set", "generation").items():
        assert again.names == pictures[split].names and again.classes == sorted(names)
        assert list(again.targets) == list(pictures[split].targets)
    assert left(tmp_path / "set" / "pictures") == ["test", "train", "val"] and not site.ranges


def test_flowers102(site, tmp_path, monkeypatch):
    """Twelve pictures of three classes."""
    made = tmp_path / "made"
    for number in range(1, 13):
        picture(made / "jpg" / f"image_{number:05d}.jpg")
    contents = {"102flowers.tgz": packed(made / "jpg")}
    order = {"trnid": [1, 5, 9, 2], "valid": [3, 6, 10, 4], "tstid": [7, 8, 11, 12]}
    for name, values in (
        ("imagelabels.mat", {"labels": [1, 1, 1, 1, 21, 21, 21, 21, 60, 60, 60, 60]}),
        ("setid.mat", order),
    ):
        scipy.io.savemat(made / name, values)
        contents[name] = (made / name).read_bytes()
    replace_archives(monkeypatch, "flowers102", site, contents)
    fetched = splits("flowers102", tmp_path / "set", "classification")
    assert fetched["train"].classes == ["fire lily", "pink primrose", "pink-yellow dahlia?"]
    found = [sorted(int(file.stem[-5:]) for file in some.files) for some in fetched.values()]
    assert found == [[1, 2, 5, 9], [3, 4, 6, 10], [7, 8, 11, 12]]
    expected = ["pink primrose"] * 4 + ["fire lily"] * 4 + ["pink-yellow dahlia?"] * 4
    for pictures in fetched.values():
        for file, target in zip(pictures.files, pictures.targets, strict=True):
            assert pictures.classes[target] == expected[int(file.stem[-5:]) - 1]
    assert len(site.ranges) == 3
    if hasattr(torchvision.datasets.Flowers102, "classes"):  # not in the Intel Mac's version
        assert torchvision.datasets.Flowers102.classes == arranging.NAMES["flowers102"]
    offline(monkeypatch)
    again = splits("flowers102", tmp_path / "set", "generation")
    assert all(again[split].names == some.names for split, some in fetched.items())


def test_pets(site, tmp_path, monkeypatch):
    """Two breeds, twenty pictures each."""
    made = tmp_path / "made"
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    trimap = np.full((20, 24), 2, np.uint8)
    trimap[4:16, 4:16], trimap[6:14, 6:14] = 3, 1
    write(made / "annotations/trimaps/._junk.png", "of a Mac")
    for label, breed in enumerate(("Bengal", "great_pyrenees"), start=1):
        for number in range(20):
            name = f"{breed}_{number}"
            picture(made / "images" / f"{name}.jpg")
            Image.fromarray(trimap).save(made / "annotations" / "trimaps" / f"{name}.png")
            lists["test" if number < 5 else "trainval"].append(f"{name} {label} {label} 1")
    picture(made / "images" / "in_no_list.jpg")
    for name, lines in lists.items():
        write(made / "annotations" / f"{name}.txt", "\n".join(lines))
    contents = {f"{name}.tar.gz": packed(made / name) for name in ("images", "annotations")}
    replace_archives(monkeypatch, "pets", site, contents)
    fetched = splits("pets", tmp_path / "set", "classification")
    assert fetched["test"].classes == ["Bengal", "Great Pyrenees"] and len(site.ranges) == 2
    for split, pictures in fetched.items():
        for file, target in zip(pictures.files, pictures.targets, strict=True):
            assert target == file.name.startswith("great")
            number = int(file.stem.rpartition("_")[2])
            chosen = "val" if stable_split(file.name) == "val" else "train"
            assert split == ("test" if number < 5 else chosen)
    assert sum(map(len, fetched.values())) == 40 and len(fetched["test"]) == 10
    assert all(len(pictures) for pictures in fetched.values())
    offline(monkeypatch)
    for split, pictures in splits("pets", tmp_path / "set", "segmentation").items():
        assert pictures.names == fetched[split].names
        assert pictures.classes == ["background", "pet"]
        for file, target in zip(pictures.files, pictures.targets, strict=True):
            seen = Counter(load_mask(target).ravel().tolist())
            assert target.stem == file.stem and seen == {0: 336, 255: 80, 1: 64}
    assert "task is detection" in refused(lambda: splits("pets", tmp_path / "set", "detection"))


def test_voc2012(site, tmp_path, monkeypatch):
    made = tmp_path / "made" / "VOCdevkit" / "VOC2012"
    make_voc(made)
    for file in (made / "Annotations").glob("*.xml"):
        write(file, file.read_text().replace("<name>", "<name> "))
    names = {split: list(some) for split, some in every_split().items()}
    official = {"train": [*names["train"], *names["test"]], "val": names["val"]}
    add_voc_masks(made, [0, 8, 12, 255])
    for kind in ("Main", "Segmentation"):
        (made / "ImageSets" / kind / "test.txt").unlink()
        for split, some in official.items():
            write(made / "ImageSets" / kind / f"{split}.txt", "\n".join(some))
    contents = {"VOCtrainval_11-May-2012.tar": packed(tmp_path / "made" / "VOCdevkit", "w")}
    replace_archives(monkeypatch, "voc2012", site, contents)
    voc = {name: split for split, some in official.items() for name in some}
    fetched = splits("voc2012", tmp_path / "set", "detection")
    offline(monkeypatch)
    for pictures in (fetched, splits("voc2012", tmp_path / "set", "segmentation")):
        found = {file.stem: split for split, some in pictures.items() for file in some.files}
        assert set(found) == set(voc) and len(found) == 9
        assert all((split == "test") == (voc[name] == "val") for name, split in found.items())
        assert set(found.values()) == {"train", "val", "test"}, "a picture of train is val"
    assert len(fetched["train"].classes) == 20 and "cat" in fetched["train"].classes
    assert len(site.ranges) == 1


def make_cvppp(root: Path, count: int = 12) -> None:
    """As the challenge lays it out: folders that count from 1, two leaves a plant."""
    for folder in ("A2", "A4"):
        for number in range(1, count + 1):
            plant = root / folder / f"plant{number:03d}"
            picture(Path(f"{plant}_rgb.png"))
            leaves = np.zeros((20, 24), np.uint8)
            leaves[2:6, 3:9], leaves[10, 10] = 1, 2
            Image.fromarray(leaves).save(f"{plant}_label.png")
            Image.fromarray(leaves * 0).save(f"{plant}_centers.png")


def test_cvppp(tmp_path):
    make_cvppp(tmp_path)
    found = read_cvppp(tmp_path, "classification")
    assert sum(map(len, found.values())) == 24 and all(map(len, found.values()))
    for split, pictures in found.items():
        assert pictures.classes == ["A2", "A4"]
        for file, target in zip(pictures.files, pictures.targets, strict=True):
            assert file.name.endswith("_rgb.png") and target == (file.parent.name == "A4")
            assert stable_split(f"{file.parent.name}/{file.name[:8]}") == split
    boxes, labels = read_cvppp(tmp_path, "detection")["train"].targets[0][:2]
    assert boxes.tolist() == [[3, 2, 9, 6], [10, 10, 11, 11]] and labels.tolist() == [0, 0]
    masks = read_cvppp(tmp_path, "segmentation")["val"]
    assert masks.classes == ["background", "plant"] and masks.names == found["val"].names
    assert Counter(masks.mask(0).ravel().tolist()) == {0: 455, 1: 25}


def test_cvppp_without_set_or_labels(fails, tmp_path):
    said = fails("train", "+data=cvppp", "+model=centernet", "data.root=plants")
    assert said.count("\n") == 1
    for part in ("plants: no A1/plant001_rgb.png", "register at https://", "data.root=FOLDER"):
        assert part in said
    make_cvppp(tmp_path)
    (tmp_path / "A2/plant003_label.png").unlink()
    for task in ("detection", "segmentation"):
        said = refused(partial(read_cvppp, tmp_path, task))
        assert said.startswith("1 labels are missing") and "A2/plant003_label.png" in said
    assert len(read_cvppp(tmp_path, "generation")["train"])
