"""Pictures of every kind become the right pixels, and damaged ones a message with their name."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nano_cv.data import images
from nano_cv.data.images import ImageError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


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
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](corners())))
    exact = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True}
    file = tmp_path / "photo"
    file.write_bytes(encoded(stored, form, exif=exif, **exact))
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
    source = encoded(
        Image.new("RGB", (32, 32), RED),
        "MPO",
        save_all=True,
        append_images=[Image.new("RGB", (8, 8))],
    )
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


def header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [12_000, 20_000, 60_000])
def test_decompression_bombs_are_refused(side):
    with pytest.raises(ImageError, match=rf"^bomb.png: {side}x{side} pixels; at most 134,217,728"):
        images.decode(header(side, side), name="bomb.png")


def test_a_hundred_million_pixels_work():
    source = encoded(Image.new("1", (10_000, 10_000), 1), "PNG", compress_level=1)
    assert (images.load(source, 32) == 255).all()


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
