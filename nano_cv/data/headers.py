"""Reads the header of an image file and refuses images that would cost too much to decode.

Pillow decodes metadata before it tells the size of an image: it unpacks the text of a PNG, joins
the comments of a GIF one by one, and copies all data that a directory of a TIFF points to, as often
as it points there. Files of a few megabytes can thus take minutes or gigabytes. So this module
removes metadata, except the orientation, and limits the number of the remaining parts.
"""

import io
import re
import struct
import zlib
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from nano_cv.errors import UserError

MAX_SCANS = 100  # of a JPEG, as in libjpeg-turbo's tools and libtiff; real files have about 10
MAX_PARTS = 100_000  # chunks, segments, blocks or strips: each costs Python microseconds
MAX_HEADER = 64 * 1024  # bytes before the pixels of a PPM
MAX_TEXT = 4 * 1024 * 1024  # bytes of a PPM in text form, of which Python reads 2 million a second
MAX_EXTRA = 1024 * 1024  # bytes of metadata that may hold the orientation
MAX_TEXTS = 4  # texts of a PNG that may hold the orientation; each is unpacked
MAX_TAGS = 500  # of a directory; microscopes and maps write up to 100
MAX_EXIFS = 8  # blocks of EXIF in an AVIF
JPEG, PNG, GIF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8"
AVIFS = (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1")
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Chunks of a PNG that pixels depend on, and texts of a PNG that may hold an orientation.
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS")
PNG_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
# Application segments of a JPEG that colours or orientation depend on.
EXIF = b"Exif\0\0"
JPEG_KEPT = {0xE0: b"JFIF", 0xE1: b"http://ns.adobe.com/xap/1.0/\0", 0xEE: b"Adobe"}
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # except restart markers, which lie amid pixels
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8}  # bytes of a value of each kind; decoders skip other kinds
INTEGERS = (1, 3, 4, 6, 8, 9, 13, 16, 17, 18)  # kinds
BITS, TILE, MAX_SAMPLE = 258, (322, 323), 281  # tags of a TIFF
PARTS_OF_TIFF = (273, 279, 324, 325)  # tags with offsets and lengths of strips or tiles


class ImageError(UserError):
    """Image that cannot be used; the message says why."""


class Header(NamedTuple):
    """Header of an image file."""

    stream: BinaryIO  # the file without most metadata, for Pillow to open
    depth: int = 8  # bits of a sample in the file; 8 for formats that only have 8
    # How many of 16 bits are used, 8 to 16, as the file states; 0 if it does not. Pillow scales the
    # levels of PPM itself.
    bits: int = 16
    tile: int = 0  # pixels of a tile, which is decoded as a whole; 0 if there are no tiles
    scans: int = 1  # of a JPEG, each of which passes over all pixels


def read(stream: BinaryIO, pixels: bool = True) -> Header:
    """Read the header of an image file, which will be decoded if `pixels`, and else only measured.

    Raises:
        ImageError: the file has too many parts, or states more data than it holds.
    """
    start = stream.read(8)
    stream.seek(0)
    if start == PNG:
        return _png(stream, pixels)
    if start.startswith(JPEG):
        return _jpeg(stream, pixels)
    if start.startswith(GIF):
        return _gif(stream)
    if start.startswith(TIFFS):
        tags = directory(stream)
        depth = tags.get(BITS, 1)
        stated = depth if depth < 16 else tags.get(MAX_SAMPLE, 0).bit_length()
        bits = min(max(8, stated), 16) if stated else 0
        return Header(stream, depth, bits, tags.get(TILE[0], 0) * tags.get(TILE[1], 0))
    if re.match(rb"P[1-6fF]\s", start):
        _check_ppm(stream)
        stream.seek(0)
    if stream.read(12)[4:] in AVIFS:  # checked here, as Pillow reads the EXIF while opening
        content = stream.read()
        for number, found in enumerate(re.finditer(b"II\\*\0|MM\0\\*", content)):
            if number == MAX_EXIFS:
                raise ImageError(f"more than {MAX_EXIFS} blocks of EXIF; save it again")
            directory(io.BytesIO(content[found.start() :]))
    stream.seek(0)
    return Header(stream)


def _png(stream: BinaryIO, pixels: bool) -> Header:
    """Keep a PNG's IHDR, palette, transparency, orientation and pixels."""
    stream.seek(len(PNG))
    before, data, depth, bits, parts, texts = [PNG], list[bytes](), 8, 0, 0, 0
    while len(header := stream.read(8)) == 8:
        parts = _counted(parts)
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT" or kind == b"IEND":
            if pixels:
                data.append(header + stream.read(length + 4))
                continue
        elif kind in PNG_PIXELS or (kind == b"eXIf" and length <= MAX_EXTRA):
            before.append(header + stream.read(length + 4))
            if kind == b"IHDR" and length == 13:
                depth = before[-1][16]
            continue
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MAX_EXTRA:
            content = stream.read(length + 4)
            if texts < MAX_TEXTS and content.startswith(PNG_TEXTS):
                texts += 1
                if _unpacks(kind, content[:-4]):
                    before.append(header + content)
            continue
        elif kind == b"sBIT" and 1 <= length <= 4:
            bits = min(max(8, stream.read(length + 4)[0]), 16)
            continue
        elif kind == b"acTL":
            if int.from_bytes(stream.read(4), "big") > 1:
                raise ImageError("an animation; save one picture of it alone")
            length -= 4
        stream.seek(length + 4, io.SEEK_CUR)
    if not pixels:
        data.append(b"\0\0\0\0IDAT\x35\xaf\x06\x1e")  # an empty chunk, where Pillow stops reading
    return Header(io.BytesIO(b"".join(before + data)), depth, bits)


def _unpacks(kind: bytes, content: bytes) -> bool:
    """Return whether the text of a PNG is whole, and below Pillow's limit once unpacked."""
    rest = content.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return True
    packed = rest[1:] if kind == b"zTXt" else b"".join(rest[2:].split(b"\0", 2)[2:])
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, MAX_EXTRA)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def _jpeg(stream: BinaryIO, pixels: bool) -> Header:
    """Drop a JPEG's application segments, except for colours and orientation, and count scans.

    Each scan passes over the whole image, however few bytes the scan has.
    """
    content = stream.read() if pixels else stream.read(MAX_EXTRA // 4)
    kept, position, parts, has_exif = [content[:2]], 2, 0, False
    while True:
        found = MARKER.search(content, position)
        if found is None or found.end() + 2 > len(content):
            if not pixels:  # the size stands further on
                stream.seek(0)
                return _jpeg(stream, pixels=True)
            return Header(io.BytesIO(b"".join(kept)))
        start, marker = found.start(), content[found.start() + 1]
        if marker in (0xD9, 0xDA):
            break
        parts = _counted(parts)
        position = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        body = content[start + 4 : start + 40]
        is_exif = marker == 0xE1 and body.startswith(EXIF)
        of_pixels = marker < 0xE0 or body.startswith(JPEG_KEPT.get(marker, b"\xff no such"))
        if is_exif and not has_exif:  # checked here, as Pillow reads the EXIF while opening
            has_exif = True
            with suppress(ImageError):
                directory(io.BytesIO(content[start + 4 + len(EXIF) : position]))
                of_pixels = True
        if of_pixels:
            kept.append(content[start:position])
    rest = content[start:]
    scans = rest.count(b"\xff\xda")  # may count a few too many, in data behind the image
    scans = _scans(rest) if scans > MAX_SCANS // 8 else scans
    if scans > MAX_SCANS:
        raise ImageError(f"a JPEG of more than {MAX_SCANS} scans; save it again")
    return Header(io.BytesIO(b"".join([*kept, rest])), scans=scans)


def _scans(content: bytes) -> int:
    """Count a JPEG's scans up to the end of the image, as previews may follow behind."""
    scans, position = 0, 0
    while (found := MARKER.search(content, position)) and scans <= MAX_SCANS:
        start, marker = found.start(), content[found.start() + 1]
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        position = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    return scans


def _gif(stream: BinaryIO) -> Header:
    """Keep the first image of a GIF, without comments; refuse animations."""
    content, parts = stream.read(), 0
    start = position = 13 + (3 << (content[10] & 7) + 1 if content[10:11] > b"\x7f" else 0)
    kept = [content[:position]]

    def after_blocks(position: int) -> int:
        nonlocal parts
        while position < len(content) and content[position]:
            parts = _counted(parts)
            position += 1 + content[position]
        return position + 1

    seen = False
    while (kind := content[position : position + 1]) in (b"!", b","):
        parts = _counted(parts)
        start = position
        if kind == b"!":
            position = after_blocks(position + 2)
            if content[start + 1 : start + 2] != b"\xf9":  # the block of transparency is kept
                continue
        else:
            if seen:
                raise ImageError("an animation; save one picture of it alone")
            seen, flags = True, content[position + 9 : position + 10] or b"\0"
            table = 3 << (flags[0] & 7) + 1 if flags > b"\x7f" else 0
            position = after_blocks(position + 11 + table)
        kept.append(content[start:position])
    return Header(io.BytesIO(b"".join([*kept, b";" * (kind == b";")])))


def _check_ppm(stream: BinaryIO) -> None:
    """Refuse a PPM with long comments or much text, which Pillow reads slowly, in Python."""
    start = stream.read(MAX_HEADER)
    numbers = re.sub(rb"#[^\r\n]*", b"", start).split(None, 4)[1:]
    if len(start) == MAX_HEADER and len(numbers) < (2 if start[1:2] in b"14" else 3):
        raise ImageError(f"a header of more than {MAX_HEADER:,} bytes; save it again")
    if start[1:2] in b"123" and stream.seek(0, io.SEEK_END) > MAX_TEXT:
        raise ImageError(f"a picture of written numbers; at most {MAX_TEXT:,} bytes are allowed")


def directory(stream: BinaryIO) -> dict[int, int]:
    """Return the first number of each tag in the first directory of a TIFF, or of EXIF data.

    Of a tag that occurs twice the larger number is returned: decoders differ in which they take.

    Raises:
        ImageError: the entries point to more data in total than the file has, though entries of an
            honest file do not overlap; or there are too many tags or strips.
    """
    end = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = stream.read(16).ljust(16, b"\0")
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    offset = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)[0]
    wide, form = (8, f"{order}HHQ") if big else (4, f"{order}HHI")
    entry = struct.calcsize(form) + wide
    stream.seek(min(offset, end))
    count = int.from_bytes(stream.read(8 if big else 2), "little" if order == "<" else "big")
    if count > MAX_TAGS:
        raise ImageError(f"a directory of {count:,} tags; at most {MAX_TAGS} are allowed")
    entries = stream.read(count * entry)
    tags, total = dict[int, int](), 0
    for at in range(0, len(entries) - entry + 1, entry):
        tag, kind, number = struct.unpack_from(form, entries, at)
        size = SIZES.get(kind, 0)
        total += size * number
        if total > end:
            raise ImageError("its directory points to more data than the file has")
        if tag in PARTS_OF_TIFF and number > MAX_PARTS:
            raise ImageError(f"{number:,} strips or tiles; at most {MAX_PARTS:,} are allowed")
        value = entries[at + entry - wide : at + entry]
        if size * number > wide:
            stream.seek(min(int.from_bytes(value, "little" if order == "<" else "big"), end))
            value = stream.read(size)
        if kind in INTEGERS and number:
            first = int.from_bytes(value[:size], "little" if order == "<" else "big")
            tags[tag] = max(first, tags.get(tag, 0))
    stream.seek(0)
    return tags


def _counted(parts: int) -> int:
    if parts >= MAX_PARTS:
        raise ImageError(f"more than {MAX_PARTS:,} parts; save it again")
    return parts + 1
