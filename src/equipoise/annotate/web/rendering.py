"""Text that nobody trusts → HTML that can do nothing: responses, conversations, guidelines.

Markdown is laid out, never obeyed: HTML in it stays text, images and links become text with their address beside
them, and no attribute comes from the text. Characters that hide or reorder what is written are shown by name.
A huge text is shown in part and says so; `/label/response` serves it whole, as plain text.
"""

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

FORMATTED_CHARACTERS = 20_000
"""Up to here a text is laid out as Markdown; what follows is folded away as plain text."""
FOLDED_CHARACTERS = 200_000
"""Up to here the rest of a huge text is on the page."""

# Controls but tab and line feed; bidirectional controls; the invisible but for the joiners that scripts and emoji
# need; tag characters, which smuggle text; surrogates, which are no text at all.
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


class Rendered(NamedTuple):
    """A text as HTML."""

    html: str
    characters: int
    is_cut: bool
    """Part of it is not on the page."""


def show_hidden(text: str) -> str:
    """The text with every character that hides or reorders others replaced by its name, as ⟦U+202E⟧."""
    return HIDDEN.sub(lambda match: f"⟦U+{ord(match.group()):04X}⟧", text.replace("\r\n", "\n"))


def render_text(text: str, *, keeps_lines: bool = True) -> Rendered:
    """A text as HTML without script, link, image or attribute of its own.

    Args:
        text: A response, a turn of a conversation, a guideline.
        keeps_lines: A line end in a paragraph stays one, as models mean it; in Markdown proper it is a space.
    """
    count = len(text)
    if not text.strip():
        shown = "The text is empty." if not text else "The text is nothing but white space."
        return Rendered(f'<p class="empty">{shown}</p>', count, is_cut=False)
    if count <= FORMATTED_CHARACTERS:
        return Rendered(_markdown(keeps_lines).render(show_hidden(text)), count, is_cut=False)
    cut = text.rfind("\n", FORMATTED_CHARACTERS // 2, FORMATTED_CHARACTERS) + 1 or FORMATTED_CHARACTERS
    folded, missing = text[cut:FOLDED_CHARACTERS], max(0, count - FOLDED_CHARACTERS)
    html = (
        f"{_markdown(keeps_lines).render(show_hidden(text[:cut]))}"
        f'<details class="fold"><summary>{len(folded):,} more characters</summary>'
        f'<div class="plain">{escape(show_hidden(folded))}</div></details>'
    )
    if missing:
        html += f'<p class="cut">The last {missing:,} characters are not on this page.</p>'
    return Rendered(html, count, is_cut=bool(missing))


@cache
def _markdown(keeps_lines: bool) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": keeps_lines}, renderer_cls=_WithoutAttributes)
    parser.enable(["table", "strikethrough"])
    for name, rule in (
        ("link_open", _open_link),
        ("link_close", _close_link),
        ("image", _image),
        ("fence", _fence),
    ):
        parser.add_render_rule(name, rule)
    return parser


class _WithoutAttributes(RendererHTML):
    """No class, address or style that the text could choose; only where a numbered list starts."""

    @staticmethod
    def renderAttrs(token: Token) -> str:  # noqa: N802, the library's name
        start = token.attrGet("start")
        if token.type == "ordered_list_open" and str(start).isdecimal():
            return f' start="{start}"'
        return ""


def _open_link(*_: object) -> str:
    return '<span class="link">'


def _close_link(_renderer: RendererHTML, tokens: Sequence[Token], idx: int, *_: object) -> str:
    start = next(i for i in reversed(range(idx)) if tokens[i].type == "link_open")  # links do not nest
    address, inside = str(tokens[start].attrGet("href") or ""), tokens[start + 1 : idx]
    is_bare = tokens[start].markup == "autolink" or "".join(token.content for token in inside) == address
    return "</span>" if is_bare else f'</span> <span class="address">({escape(address)})</span>'


def _image(renderer: RendererHTML, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
    words = escape(renderer.renderInlineAsText(tokens[idx].children or [], options, env))
    return f'<span class="address">[image: {words} ({escape(str(tokens[idx].attrGet("src") or ""))})]</span>'


def _fence(_renderer: RendererHTML, tokens: Sequence[Token], idx: int, *_: object) -> str:
    words = tokens[idx].info.split()
    name = f'<span class="code-name">{escape(words[0])}</span>' if words else ""
    return f"<pre>{name}<code>{escape(tokens[idx].content)}</code></pre>\n"
