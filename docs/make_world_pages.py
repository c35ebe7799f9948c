"""The tables and pictures of docs/worlds.md and docs/worlds/: `python docs/make_world_pages.py` makes both.

Tables come from the worlds as the code has them and stand between `<!-- NAME -->` and `<!-- /NAME -->`; a test compares
the two. Pictures are drawn with OpenGL, on EGL or OSMesa; `--tables` leaves them as they are, and `--only PATTERN`
draws those whose name matches.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import _world_tables as tables
from _world_pictures import DRAWERS, GALLERIES, draw

HERE = Path(__file__).parent
PAGES = (HERE / "worlds.md", *sorted((HERE / "worlds").glob("*.md")))

TABLES: dict[str, Callable[[], str]] = {
    **tables.TABLES,
    **{name: functools.partial(gallery.table, "pictures/") for name, gallery in GALLERIES.items()},
    "pictures-overlays": lambda: GALLERIES["pictures-overlays"].table("worlds/pictures/"),  # on the page above
}


def filled(text: str) -> str:
    """A page with every table that it has a place for."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise SystemExit(f"a page has a place for the table {name!r}; there are {', '.join(TABLES)}.")
        return f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->"

    return re.sub(r"<!-- ([\w-]+) -->.*?<!-- /\1 -->", block, text, flags=re.S)


def main() -> None:
    """Fill in the tables, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="leave the pictures as they are")
    parser.add_argument("--only", default="*", metavar="PATTERN", help=f"galleries to draw, of {', '.join(DRAWERS)}")
    arguments = parser.parse_args()
    if not fnmatch.filter(DRAWERS, arguments.only):
        parser.error(f"no gallery matches {arguments.only!r}. There are {', '.join(DRAWERS)}.")
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    if arguments.tables:
        return
    from trueline.safety.worlds.render import NoGraphics

    try:
        draw(arguments.only)
    except NoGraphics as error:
        sys.exit(f"The tables are done. {str(error)[0].upper()}{str(error)[1:]}")


if __name__ == "__main__":
    main()
