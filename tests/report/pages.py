"""Reads a report as a browser would: text, table cells, links and charts."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)
BLOCKS = {"div", "dt", "dd", "p", "td", "th", "h1", "h2", "section"}
FETCHING = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class Page(HTMLParser):
    """One parsed report."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[str] = []
        self.fetched: list[str] = []
        """Values of attributes that make a browser load something."""
        self.rows: list[list[tuple[str, str | None]]] = []
        """Table rows: (text, data-by) of each cell."""
        self.text = ""
        """All text outside style and script."""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self._part(tag)
        self.fetched += [value or "" for name, value in attrs if name in FETCHING]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("data-by")))

    def handle_endtag(self, tag: str) -> None:
        self._part(tag)
        while self._open and self._open.pop() != tag:
            pass

    def _part(self, tag: str) -> None:
        """Keep the words of neighbouring blocks apart."""
        if tag in BLOCKS:
            self.text += " "

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self._open):
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            text, by = self.rows[-1][-1]
            self.rows[-1][-1] = ((text + data).strip(), by)

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    @property
    def charts(self) -> list[ElementTree.Element]:
        """The SVG drawings; fails where one is not well-formed."""
        return [ElementTree.fromstring(svg) for svg in SVG.findall(self.html)]
