"""Hooks of MkDocs: the first page of the site is the README, so that nothing is written twice."""

import re
from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Put the README in place of `index.md`, with links that the site has.

    Links to `docs/` lead to the pages of the site. Files of the repository that are no pages, such
    as CHANGELOG.md, are named without a link.
    """
    if page.file.src_uri != "index.md":
        return markdown
    readme = (Path(config.config_file_path).parent / "README.md").read_text()
    readme = re.sub(r"\[([A-Z]+\.md)\]\(\1\)", r"`\1`", readme)
    return readme.replace("](docs/", "](")


def on_page_content(html: str, **_: Any) -> str:
    """Let a click on a picture show it at its full size."""
    return re.sub(r'(<img [^>]*src="([^"]+)"[^>]*>)', r'<a href="\2">\1</a>', html)
