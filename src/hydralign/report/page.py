"""Pieces of HTML. Whatever text comes in is escaped; nothing is loaded, and no script can run."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from hydralign.report.canvas import DOTS_PER_INCH, Picture
from hydralign.report.style import STYLE_SHEET

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may do with the page: show its own pictures and its own style."""


class Markup(str):
    """Text that is HTML already; all other text is escaped where it is put in."""

    __slots__ = ()


def safe(text: object) -> Markup:
    """Return text as HTML that shows just this text."""
    return text if isinstance(text, Markup) else Markup(escape(str(text)))


def tag(name: str, *content: object, **attributes: str) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        content: what is in it, in order.
        attributes: `css` stands for `class`.
    """
    renamed = {"class" if key == "css" else key: value for key, value in attributes.items()}
    said = "".join(f' {key}="{escape(value)}"' for key, value in renamed.items())
    return Markup(f"<{name}{said}>{''.join(map(safe, content))}</{name}>")


def section(title: str, *content: object) -> Markup:
    """Return a part of the page under a heading; nothing, where nothing is in it."""
    filled = [each for each in content if each]
    return tag("section", tag("h2", title), *filled) if filled else Markup()


def table(
    rows: Iterable[Sequence[object]], head: Sequence[object] = (), *, css: str = "figures"
) -> Markup:
    """Return a table; nothing, where it has no rows.

    Args:
        rows: of cells.
        head: of the columns.
        css: its class.
    """
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    if not body:
        return Markup()
    top = [tag("thead", tag("tr", *(tag("th", cell) for cell in head)))] if head else []
    return tag("table", *top, tag("tbody", *body), css=css)


def listing(lines: Iterable[object], *, css: str = "") -> Markup:
    """Return a list of points; nothing, where there are none."""
    points = [tag("li", line) for line in lines]
    return tag("ul", *points, css=css) if points else Markup()


def image(shown: Picture) -> Markup:
    """Return a picture with its caption, held in the page itself."""
    data = base64.b64encode(shown.png).decode()
    width = round(int.from_bytes(shown.png[16:20], "big") * 96 / DOTS_PER_INCH)  # of a PNG's head
    attributes = f'src="data:image/png;base64,{data}" alt="{escape(shown.caption)}"'
    content = tag("figcaption", shown.caption), Markup(f"<img {attributes}>")
    return tag("figure", *content, style=f"width: {width}px")


def images(pictures: Iterable[Picture]) -> Markup:
    """Return pictures one after the other; they stand side by side where there is room."""
    return Markup("".join(map(image, pictures)))


def folded(title: str, *content: object) -> Markup:
    """Return what is only shown when it is asked for."""
    return tag("details", tag("summary", title), *content)


def settings(values: Mapping[str, object]) -> Markup:
    """Return nested settings as text, indented as in a YAML file."""
    return tag("pre", "\n".join(_lines(values)))


def _lines(values: Mapping[str, object], indent: str = "") -> Iterable[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {'null' if value is None else value}"


def page(title: str, *content: object) -> str:
    """Return a whole page.

    Args:
        title: of the window.
        content: its parts.
    """
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE_SHEET}</style>\n</head>\n"
    )
    return f"{head}<body>\n{tag('main', *content)}\n</body>\n</html>\n"
