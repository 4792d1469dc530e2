"""Pictures of every kind become the right pixels, and damaged ones a message with their name."""

import base64
import io
import os
import re
import struct
import zlib
from functools import reduce
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import process_time

import numpy as np
import pytest
from conftest import encoded, turned
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nano_cv.data import images
from nano_cv.data.images import ImageError
from nano_cv.data.masks import load_mask
from nano_cv.data.store import Member
from nano_cv.evaluation.inputs import find_pictures

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(source: bytes) -> np.ndarray:
    return np.asarray(images.decode(source))


def corners() -> np.ndarray:
    """24 x 16 pixels: red and green above, blue and white below."""
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :12], picture[:8, 12:], picture[8:, :12], picture[8:, 12:] = RED, GREEN, BLUE, WHITE
    return picture


def photo(side: int = 256) -> Image.Image:
    """Smooth and with detail, so that a JPEG of it is some kilobytes long."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(9 * x + 5 * y), np.cos(7 * y), np.sin(30 * x * y)]
    return Image.fromarray((np.stack(waves, axis=2) * 110 + 128).astype(np.uint8))


# What EXIF says has been done to the picture, by the standard's own numbers.
TURNED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_stand_upright(tmp_path, orientation, form):
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](corners())))
    exact = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True}
    file = tmp_path / "photo"
    file.write_bytes(encoded(stored, form, exif=turned(orientation), **exact))
    upright = np.asarray(images.decode(file))
    assert upright.shape == (16, 24, 3)
    assert np.abs(upright.astype(int) - corners()).max() <= 3
    assert images.dimensions(file) == (24, 16)


def test_colour_modes():
    def first(image: Image.Image, form: str = "PNG", **options: object) -> list[int]:
        decoded = pixels(encoded(image, form, **options))
        assert decoded.shape == (16, 16, 3) and decoded.dtype == np.uint8
        return decoded[0, 0].tolist()

    size = (16, 16)
    grey = np.full(size, 40_000, np.uint16)
    for form in ("PNG", "TIFF"):
        assert first(Image.fromarray(grey), form) == [156] * 3  # 40,000 / 256, not clipped to 255
    assert first(Image.fromarray(grey.astype(np.int32)), "TIFF") == [156] * 3
    assert first(Image.new("CMYK", size, (0, 255, 255, 0)), "JPEG") == list(RED)
    assert first(Image.new("1", size, 1)) == list(WHITE)
    assert first(Image.new("L", size, 77), "JPEG") == [77] * 3
    assert first(Image.new("RGBA", size, (0, 0, 255, 0))) == list(WHITE)
    assert first(Image.new("RGBA", size, (0, 0, 255, 51))) == [204, 204, 255]
    assert first(Image.new("LA", size, (0, 51))) == [204] * 3
    palette = Image.new("P", size, 1)
    palette.putpalette([*GREEN, *BLUE])
    assert first(palette) == first(palette, "GIF") == list(BLUE)
    assert first(palette, transparency=1) == list(WHITE)
    assert first(palette, transparency=0) == list(BLUE)


def test_phone_jpeg_with_a_preview():
    preview = {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    source = encoded(Image.new("RGB", (32, 32), RED), "MPO", **preview)
    assert Image.open(io.BytesIO(source)).format == "MPO"
    assert np.abs(pixels(source).astype(int) - RED).max() <= 3


def test_reduced_decoding_looks_the_same():
    source = encoded(photo(640), "JPEG", quality=95)
    small = images.decode(source, size=64)
    assert 128 <= small.width < 640, "a large JPEG is decoded at a reduced scale"
    whole = images.resize(images.decode(source), 64).astype(int)
    assert images.load(source, 64).shape == (64, 64, 3)
    assert np.abs(images.load(source, 64) - whole).mean() < 1
    assert np.abs(images.load(source, 64) - whole).max() <= 6


def test_unusable_files_are_named(tmp_path):
    jpeg, png = encoded(photo(), "JPEG"), encoded(photo(), "PNG")
    frames = {"save_all": True, "append_images": [photo(16)]}
    contents = {
        "empty.jpg": (b"", "empty (0 bytes)"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "cut short"),
        "cut.png": (png[: len(png) // 2], "cut short"),
        "head.jpg": (jpeg[:20], "not a picture in a known format"),
        "text.jpg": (b"Dear Sir or Madam,\n" * 50, "not a picture in a known format"),
        "script.eps": (encoded(photo(16), "EPS"), "not a picture in a known format"),
        "moving.gif": (encoded(photo(16).quantize(4), "GIF", **frames), "an animation"),
        "pages.tif": (encoded(photo(16), "TIFF", **frames), "a stack of pictures"),
        "float.tif": (encoded(Image.new("F", (16, 16)), "TIFF"), "8 or 16 bits"),
        "deep.tif": (encoded(Image.new("I", (16, 16), 70_000), "TIFF"), "8 or 16 bits"),
        "pixel.png": (encoded(Image.new("L", (1, 1)), "PNG"), "1x1 pixels; the shortest side"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError) as caught:
            images.load(tmp_path / name, 32)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / name}: ") and reason in message, message
    for path, reason in ((tmp_path / "gone.jpg", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ImageError, match=f"{path}: cannot be read: {reason}"):
            images.decode(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


def zeros(size: int) -> bytes:
    """So many, compressed a thousandfold: a megabyte is compressed once, and repeated."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    first, again = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    checksum = struct.pack(">I", size % 65_521 << 16 | 1)
    return first + again * (size // 2**20 - 1) + b"\3\0" + checksum


def with_chunk(kind: bytes, data: bytes, count: int = 1) -> bytes:
    """A good PNG with one more chunk behind its IHDR, or several of them."""
    png = encoded(photo(64), "PNG")
    return png[:33] + chunk(kind, data) * count + png[33:]


def exif_that_overlaps(entries: int = 400, size: int = 500_000) -> bytes:
    """Each entry points to the same data, nearly as long as the whole."""
    start = 8 + 2 + 12 * entries + 4
    rows = [struct.pack("<HHII", 300 + n, 7, size - start, start) for n in range(entries)]
    return b"II*\0" + struct.pack("<IH", 8, entries) + b"".join(rows) + bytes(4 + size - start)


GREY_TIFF = [(256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (277, 1), (278, 64), (279, 4096)]


def tiff(*more: tuple[int, ...], following: int = 0) -> bytes:
    """A directory of longs; an entry of three is tag, count, and where the values lie."""
    entries = sorted((tag, 1, *rest) if len(rest) == 1 else (tag, *rest) for tag, *rest in more)
    rows = b"".join(struct.pack("<HHII", tag, 4, count, at) for tag, count, at in entries)
    return struct.pack("<H", len(entries)) + rows + struct.pack("<I", following)


def stack(frames: int) -> bytes:
    """A TIFF of so many directories, all of the same pixels."""
    size = len(tiff(*GREY_TIFF, (273, 8)))
    starts = [8 + size * number for number in range(frames)]
    parts = [tiff(*GREY_TIFF, (273, 8), following=after) for after in [*starts[1:], 0]]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts) + bytes(4096)


def progressive(scans: int, side: int = 64) -> bytes:
    """A JPEG whose last scan is repeated."""
    jpeg = encoded(photo(side), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * scans + jpeg[-2:]


def gif_with_comments(blocks: int) -> bytes:
    gif = encoded(photo(64).quantize(8), "GIF")
    start = 13 + (3 << (gif[10] & 7) + 1)
    return gif[:start] + b"!\xfe" + (b"\xff" + bytes(255)) * blocks + b"\0" + gif[start:]


def many_segments(count: int) -> bytes:
    jpeg = encoded(photo(64), "JPEG")
    return jpeg[:2] + b"\xff\xfe\0\x02" * count + jpeg[2:]


XMP = b"XML:com.adobe.xmp\0\0"
HEAD = b"II*\0" + struct.pack("<I", 8)
OVERLAPPING = [(n, 250_000, 8) for n in range(999, 1399)]
HUGE_TILE = tiff(*GREY_TIFF[:6], (322, 25_008), (323, 25_008), (324, 8), (325, 9))
SIGNED = [(struct.pack("<HH", tag, 4), struct.pack("<HH", tag, 9)) for tag in (322, 323)]
COSTLY = {
    "png of 600 million pixels": (lambda: header(24_500, 24_500), "at most 134,217,728"),
    "tiff of 50,000 frames": (lambda: stack(50_000), "a stack of pictures"),
    "tiff whose entries overlap": (
        lambda: HEAD + tiff(*GREY_TIFF, (273, 8), *OVERLAPPING) + bytes(2**20),
        "points to more data than the file has",
    ),
    "tiff of a million strips": (
        lambda: HEAD + tiff(*GREY_TIFF, (273, 10**6, 8)) + bytes(4 * 10**6),
        "1,000,000 strips or tiles",
    ),
    "tiff of one huge tile": (lambda: HEAD + HUGE_TILE, "at most 134,217,728"),
    "tiff of one huge tile in signed numbers": (
        lambda: HEAD + reduce(lambda tags, kinds: tags.replace(*kinds), SIGNED, HUGE_TILE),
        "at most 134,217,728",
    ),
    "tiff of a thousand tags": (
        lambda: HEAD + tiff(*GREY_TIFF, (273, 8), *((n, 1) for n in range(999, 1999))),
        "a directory of 1,009 tags",
    ),
    "tiff whose values are of unknown kinds": (
        lambda: (HEAD + tiff(*GREY_TIFF, (999, 90_000, 8))).replace(b"\xe7\3\4\0", b"\xe7\3\x12\0"),
        "points to more data than the file has",
    ),
    "avif of a thousand EXIF": (
        lambda: b"\0\0\0\x20ftypavif" + b"II*\0\x08\0\0\0\0\0" * 1000,
        "more than 8 blocks of EXIF",
    ),
    "avif whose EXIF overlaps": (
        lambda: encoded(photo(64), "AVIF", exif=exif_that_overlaps()),
        "points to more data than the file has",
    ),
    "jpeg of 300 scans": (lambda: progressive(300), "more than 100 scans"),
    "jpeg of a million segments": (lambda: many_segments(10**6), "more than 100,000 parts"),
    "ppm with a long comment": (
        lambda: b"P6 #" + bytes(2**22) + b"\n64 64 255 " + bytes(3 * 64 * 64),
        "a header of more than 65,536 bytes",
    ),
    "ppm of written numbers": (lambda: b"P3 1000 1000 255 " + b"1 " * 3 * 10**6, "numbers"),
}
CHEAP = {
    "png with a gigabyte of text": lambda: with_chunk(b"zTXt", b"Comment\0\0" + zeros(2**30)),
    "png with 9,000 MB of text": lambda: with_chunk(b"zTXt", XMP + zeros(2**20), 9000),
    "png with 3 MB of text": lambda: with_chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "png with a large profile": lambda: with_chunk(b"iCCP", b"icc\0\0" + zeros(2**27)),
    "png whose EXIF overlaps": lambda: with_chunk(b"eXIf", exif_that_overlaps()),
    "webp whose EXIF overlaps": lambda: encoded(photo(64), "WEBP", exif=exif_that_overlaps()),
    "gif with 4 MB of comment": lambda: gif_with_comments(16_000),
    "jpeg of 50 scans": lambda: progressive(40),
    # A telephone's film behind the photograph holds the marker by chance.
    "jpeg with scans behind it": lambda: encoded(photo(64), "JPEG") + b"\xff\xda\0\x02" * 500,
}


@pytest.mark.filterwarnings("ignore")  # Pillow's, where it writes some of them
@pytest.mark.parametrize("name", [*COSTLY, *CHEAP])
def test_pictures_that_cost(tmp_path, name):
    """Refused or read within a second, and without the memory that they ask for."""
    make, reason = COSTLY.get(name) or (CHEAP[name], "")
    file = tmp_path / "picture"
    file.write_bytes(make())
    before, started = getrusage(RUSAGE_SELF).ru_maxrss, process_time()
    if reason:
        for ask in (images.dimensions, images.decode, load_mask):
            if ask is not images.dimensions or "scans" not in reason:  # those behind the head
                with pytest.raises(ImageError, match=re.escape(reason)):
                    ask(file)
    else:
        assert images.dimensions(file) == images.decode(file).size == (64, 64)
    assert process_time() - started < 3  # a second on a quiet machine
    assert (getrusage(RUSAGE_SELF).ru_maxrss - before) / 1024 < 300


def test_metadata_that_pixels_depend_on_stay():
    """Palette, transparency, Adobe's colours, and an orientation in EXIF, XMP or ImageMagick's."""
    exif = turned()
    raw = exif.tobytes().hex().encode()
    profile = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%d\n" % len(raw) + raw)
    xmp = b'<x tiff:Orientation="6"/>'
    for kind, data in (
        (b"zTXt", profile),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
    ):
        png = encoded(photo(64).crop((0, 0, 64, 32)), "PNG")
        for at in (33, -12):  # before the pixels, and behind them
            assert images.decode(png[:at] + chunk(kind, data) + png[at:]).size == (32, 64), kind
    bomb = zlib.compress(bytes(2 * 1024**2))
    for kind, data in (
        (b"zTXt", b"Raw profile type exif\0\0" + bomb),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        (b"zTXt", b"Raw profile type exif\0\0junk"),
    ):
        assert images.decode(png[:33] + chunk(kind, data) + png[33:]).size == (64, 32), kind
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)
    assert images.decode(png[:33] + chunk(b"iTXt", packed) + png[33:]).size == (32, 64)
    jpeg = encoded(photo(64).crop((0, 0, 64, 32)), "JPEG", xmp=xmp)
    assert images.decode(jpeg).size == (32, 64)


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for ask in (images.decode, images.dimensions):
        with pytest.raises(ImageError, match="a pipe or a device"):
            ask(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("bits", "form"), [(12, "PNG"), (12, "TIFF"), (13, "PNG"), (16, "PNG"), (16, "PPM")]
)
def test_grey_of_fewer_bits_in_16(bits, form):
    """A camera's 12 bits fill 0 to 4095; as 16 bits they would be all but black."""
    levels = np.linspace(0, 2**bits - 1, 256).astype(np.uint16).reshape(16, 16)
    grey = pixels(encoded(Image.fromarray(levels), form))[..., 0]
    assert grey.ravel().tolist() == pytest.approx(np.arange(256), abs=1)


@pytest.mark.parametrize(("highest", "warned"), [(4095, True), (65535, False)])
def test_colour_of_12_bits_in_16(caplog, highest, warned):
    """Pillow keeps the upper 8 bits, so it cannot be brightened; but it is not silent."""
    levels = np.linspace(0, highest, 16 * 16 * 3).astype(">u2").reshape(16, 48)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    size = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    pieces = [(b"IHDR", size), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in pieces)
    images.say_once.cache_clear()
    with caplog.at_level("INFO"):
        assert pixels(file).max() == highest >> 8
    assert ("looks almost black" in caplog.text) == warned


def test_dark_grey_in_16_bits(caplog):
    images.say_once.cache_clear()
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert pixels(encoded(Image.fromarray(levels), "PNG")).max() == 15
    assert "a picture of 16 bits has only low values and looks almost black" in caplog.text


def test_what_is_too_large_in_a_file_or_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(bytes(1001))
    inside = Member(str(tmp_path / "a.png"), 1001, "b.png", 0, 1001, "", 8, 8)
    for file, ask in (
        *((tmp_path / "a.png", ask) for ask in (images.decode, images.dimensions)),
        (inside, images.decode),
    ):
        with pytest.raises(ImageError, match=r"png: 1,001 bytes; at most 1,000 are allowed"):
            ask(file)


@pytest.mark.parametrize(
    ("ending", "form"),
    [
        *((".jfif", "JPEG"), (".jpe", "JPEG"), (".pgm", "PPM"), (".pnm", "PPM"), (".dib", "DIB")),
        *((".avif", "AVIF"), (".tga", "TGA"), (".apng", "PNG")),
    ],
)
def test_endings(tmp_path, ending, form):
    image = photo(64).convert("L") if ending == ".pgm" else photo(64)
    (tmp_path / f"a{ending}").write_bytes(encoded(image, form))
    (file,) = images.find(tmp_path)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(np.asarray(images.decode(file)) - expected).mean() < 12
    assert images.dimensions(file) == (64, 64)


def test_what_is_not_read_is_named(tmp_path, caplog):
    for name in ("a.jxl", "b/c.CR2", "d.psd", "e.txt", "f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    for name in ("bare", "b/g.jpg.1", "h.jpg?w=9"):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (9, 9)), "JPEG"))
    (tmp_path / "README").write_text("of these pictures")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    images.warn_of_unread_files(tmp_path)
    said, bare = [record.getMessage() for record in caplog.records]
    assert "3 files are in formats that are not read" in said and "a.jxl, b/c.CR2" in said
    assert "3 pictures lack an ending" in bare and bare.endswith("b/g.jpg.1, bare, h.jpg?w=9")
    caplog.clear()
    images.warn_of_unread_files(tmp_path, [tmp_path / "bare"])  # a table has named it
    assert "2 pictures lack an ending" in caplog.text
    with pytest.raises(ImageError, match=r"gone\.jpg: cannot be read: No such file"):
        images.decode(next(file for file in images.find(tmp_path) if file.stem == "gone"))


def test_each_real_folder_once(tmp_path, caplog):
    """cats/ and dogs/ with links to one another, above, to themselves and outside."""
    for name in ("set/cats/a.png", "set/dogs/b.png", "outside/deep/c.png", "one.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    cats = tmp_path / "set/cats"
    for name, target in {
        **{"up": "..", "self": ".", "dogs": "../dogs", "more": "../../outside"},
        **{"again": "../../outside", "deeper": "../../outside/deep", "file.png": "../../one.png"},
    }.items():
        (cats / name).symlink_to(target)
    (cats / "loop").symlink_to("loop")
    (cats / "through").symlink_to("a.png/x")
    (tmp_path / "outside/back").symlink_to("../set")
    (tmp_path / "outside/top").symlink_to("..")
    linked = tmp_path / "set"

    def names(found) -> list[str]:
        return sorted(path.name for path in found)

    every = ["a.png", "b.png", "c.png", "file.png"]
    assert names(images.find(linked)) == names(find_pictures(f"{linked}/**/*.png")) == every
    assert names(images.find(linked / "cats", root=linked)) == ["a.png", "c.png", "file.png"]
    assert names(find_pictures(f"{linked}/cats/**/[ac].png")) == ["a.png", "c.png"]
    said = {
        Path(text.partition(": a link to a folder of the set")[0]).name for text in caplog.messages
    }
    assert {"up", "self", "dogs"} <= said and "file.png" not in said


def test_pictures_of_a_folder(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/.d.png", ".trash/e.png", "notes.txt", "f.gif/g.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in images.find(tmp_path)]
    assert found == ["a/c.png", "b.JPG", "f.gif/g.bmp"]


SEEDS = [
    encoded(photo(16).quantize(8) if form == "GIF" else photo(16), form)
    for form in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
]
damaged = st.builds(
    lambda source, where, noise, end: (source[:where] + noise + source[where + len(noise) :])[:end],
    st.sampled_from(SEEDS),
    st.integers(0, 900),
    st.binary(max_size=6),
    st.integers(8, 3000),
)


@given(st.binary(max_size=200) | damaged)
@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_a_picture_or_an_error(source):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 10**6)  # damage may enlarge a picture
        try:
            assert images.load(source, 16).shape == (16, 16, 3)
        except ImageError as error:
            assert str(error).startswith("picture: ")


# 24 x 16 red pixels; nothing that is installed here writes the format.
RED_HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAADQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAAD"
    "AIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEA"
    "AAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAPG1k"
    "YXQAAAAwKAGvEyFmY0D4EPdn/+u8Ff+Vaz/zN7HpzshHQMDSIICbQEiTXVALFhCAh3alVtz4"
)


def test_heic_by_the_extra(tmp_path):
    (tmp_path / "photo.heic").write_bytes(RED_HEIC)
    if "HEIF" not in images.ENDINGS:
        with pytest.raises(ImageError, match=r"photo\.heic: .* type: poetry install --extras heic"):
            images.decode(tmp_path / "photo.heic")
        return
    assert list(images.find(tmp_path)) == [tmp_path / "photo.heic"]
    assert images.dimensions(tmp_path / "photo.heic") == (24, 16)
    assert np.abs(pixels(RED_HEIC).astype(int) - RED).max() <= 4
    with pytest.raises(ImageError, match="a mask in HEIF"):
        load_mask(tmp_path / "photo.heic")
