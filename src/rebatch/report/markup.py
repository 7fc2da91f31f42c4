"""HTML that is escaped because of its type: what is not `Html` is some user's text, and is escaped where it enters."""

import html
from collections.abc import Collection, Iterable, Sequence

import msgspec


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | int | None) -> Html:
    """An element; a child that is not `Html` is escaped, `class_` and `aria_label` lose and change their underscore.

    >>> element("td", "a < b", class_="number")
    '<td class="number">a &lt; b</td>'
    """
    return Html(f"<{name}{_attributes(attributes)}>{joined(*children)}</{name}>")


def void(name: str, /, **attributes: str | int | None) -> Html:
    """An element that has no end tag: `meta`, `link`."""
    return Html(f"<{name}{_attributes(attributes)}>")


def joined(*children: str | None) -> Html:
    """Children side by side, each escaped unless it is `Html`; `None` is left out."""
    return Html("".join(escaped(child) for child in children if child is not None))


def escaped(text: str) -> Html:
    """The text as HTML."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[str] = ()) -> Html:
    """A table in a box that scrolls by itself; a row's first cell is its header, columns of `numbers` end right."""
    kinds = ["number" if name in numbers else None for name in head]
    header = element("tr", *(element("th", cell, scope="col", class_=k) for cell, k in zip(head, kinds, strict=True)))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    inner = element("table", element("thead", header), element("tbody", *body))
    return element("div", inner, class_="scroll", role="region", tabindex=0, aria_label=label)


def definitions(pairs: Iterable[tuple[str, str | None]]) -> Html:
    """A list of names with what they stand for; pairs without a value are left out."""
    groups = (element("div", element("dt", name), element("dd", value)) for name, value in pairs if value)
    return element("dl", *groups)


def json_for_script(value: object) -> Html:
    """JSON that no text in it can end the script around; what is not finite is null."""
    return Html(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


def _attributes(attributes: dict[str, str | int | None]) -> str:
    pairs = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items() if value is not None)
    return "".join(f' {name}="{html.escape(str(value))}"' for name, value in pairs)
