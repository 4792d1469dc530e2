"""Guesses the format of a set from its files, for a hint to those who chose another `data=`."""

import os
import re
from itertools import islice
from pathlib import Path

from nano_cv.data.formats.folder_masks import IMAGES, MASKS
from nano_cv.data.images import EXTENSIONS
from nano_cv.errors import listing

COCO = re.compile(r"(annotations?|instances?|coco|train).*\.json$")  # names of such files
KNOWN = ("yolo", "coco", "voc", "folder_masks", "csv", "folder")
MOST_SEEN = 200  # files or folders in a folder that are looked at; a set may have a million


def hint_at_format(root: Path, reader: str) -> str:
    """Return which formats a set looks like; empty if it looks like that of `reader`, or like none.

    `reader` is the name of a function, such as `read_coco`.
    """
    chosen = {"read_table": "csv"}.get(reader, reader.removeprefix("read_"))
    formats = fitting_formats(root)
    if chosen == "folder_masks" and "folder" in formats:  # which masks may lie in too
        formats.remove("folder")
    if chosen not in KNOWN or chosen in formats or not formats:
        return ""
    return f"; it looks like {listing((f'data={name}' for name in formats), separator=' or ')}"


def fitting_formats(root: Path) -> list[str]:
    """Return the options of `data` whose files lie in `root`, or one or two folders down."""
    folders = [root]
    for folder in [root, *_inside(root)]:
        folders += [path for path in _inside(folder) if path.is_dir()]
    names = {folder: [path.name.lower() for path in _inside(folder)] for folder in folders}
    endings = {os.path.splitext(name)[1] for own in names.values() for name in own}
    pictured = {
        folder.relative_to(root).as_posix().lower()
        for folder, own in names.items()
        if folder != root and any(name.endswith(EXTENSIONS) for name in own)
    }
    roles = {name: {*name.split("/")} & {*IMAGES, *MASKS} for name in pictured}
    used = set[str]().union(*roles.values())
    fits = {
        "yolo": ".txt" in endings and ("labels" in names[root] or {".yaml", ".yml"} & endings),
        "coco": any(COCO.search(name) for own in names.values() for name in own),
        "voc": ".xml" in endings,
        "folder_masks": used & {*IMAGES} and used & {*MASKS},
        "csv": any(name.endswith((".csv", ".tsv")) for name in names[root]),
        "folder": len([name for name, role in roles.items() if not role]) > 1,
    }
    return [name for name, fit in fits.items() if fit]


def _inside(folder: Path) -> list[Path]:
    """Return some of what lies in a folder; nothing if it is no folder."""
    return list(islice(folder.glob("[!.]*"), MOST_SEEN))
