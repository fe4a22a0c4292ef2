import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from equipoise.annotate.web.rendering import FOLDED_CHARACTERS, HIDDEN, render_text, show_hidden

TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "span", "div"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"),
}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![beacon](https://evil.example/pixel.png)",
    "[click](javascript:alert(1)) [data](data:text/html;base64,PHNjcmlwdD4=) <https://evil.example/>",
    '[a](https://evil.example "onmouseover=alert(1)")\n\n[ref]: https://evil.example/x\n\n[ref] ![ref]',
    '```html" onload="alert(1)\n</code></pre><script>alert(1)</script>\n```',
    "<style>body{display:none}</style><svg onload=alert(1)><iframe src=//evil.example>",
    "safe \u202egnp.exe\u2066 \x1b[31m \x00 \u200b \ud800",
    "| a | b |\n|:-|-:|\n| <b>1</b> | ![x](http://evil.example/y) |",
    "&lt;script&gt; &#60;script&#62; &amp;#60;",
)


class Seen(HTMLParser):
    """The tags, attributes and text of a page, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = set[str](), set[tuple[str, str | None]](), ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("br", "hr"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError("a declaration")


PIECES = st.one_of(st.text(max_size=60), st.sampled_from([*HOSTILE, "\n", "\n\n", "> ", "- ", "`"]))


@given(st.lists(PIECES, max_size=12).map("".join))
@example("".join(HOSTILE))
@example("\n\n".join(HOSTILE))
@settings(deadline=None, max_examples=300)
def test_no_text_brings_a_tag_or_attribute_of_its_own_and_nothing_hidden_stays(text: str) -> None:
    rendered = render_text(text)
    seen = Seen(rendered.html)
    assert seen.open == []
    assert seen.tags <= TAGS
    classes = {"link", "address", "code-name", "fold", "plain", "cut", "empty"}
    assert all(
        (name == "class" and value in classes) or (name == "start" and (value or "").isdecimal())
        for name, value in seen.attributes
    )
    assert not HIDDEN.search(seen.text)
    rendered.html.encode()  # a lone surrogate would fail here


@given(st.text(alphabet="abc déж日ا😀\n", min_size=1).filter(str.strip))
@settings(deadline=None)
def test_plain_words_are_all_there_in_order(text: str) -> None:
    assert "".join(Seen(render_text(text).html).text.split()) == "".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_hostile_text_says_can_be_read(text: str) -> None:
    shown = Seen(render_text(text).html).text
    for address in re.findall(r"https?://[\w./]+", text):
        assert address in shown
    if "script>" in text:
        assert "script" in shown


def test_links_and_images_are_text_with_their_address() -> None:
    assert render_text("[here](https://a.example/b)").html == (
        '<p><span class="link">here</span> <span class="address">(https://a.example/b)</span></p>\n'
    )
    assert render_text("<https://a.example/b>").html == '<p><span class="link">https://a.example/b</span></p>\n'
    assert render_text("![cat](https://a.example/c.png)").html == (
        '<p><span class="address">[image: cat (https://a.example/c.png)]</span></p>\n'
    )


def test_code_is_kept_as_written() -> None:
    html = render_text("```python\nif a < b:\n    x = '<b>'\n```").html
    assert html == (
        '<pre><span class="code-name">python</span>'
        "<code>if a &lt; b:\n    x = &#x27;&lt;b&gt;&#x27;\n</code></pre>\n"
    )


def test_hidden_characters_are_named_and_joiners_of_scripts_stay() -> None:
    assert show_hidden("a\u202eb\x07\r\nc\ud800") == "a⟦U+202E⟧b⟦U+0007⟧\nc⟦U+D800⟧"
    family, persian = "👨\u200d👩\u200d👧", "می\u200cخواهم"
    assert show_hidden(family + persian) == family + persian


def test_an_empty_text_says_so() -> None:
    assert "empty" in render_text("").html
    assert "white space" in render_text(" \n\t").html


def test_a_huge_text_is_folded_and_says_what_is_missing() -> None:
    text = "word " * 2_000_000
    rendered = render_text(text)
    assert rendered.is_cut
    assert f"{len(text) - FOLDED_CHARACTERS:,} characters are not on this page" in rendered.html
    assert len(rendered.html) < 2 * FOLDED_CHARACTERS
    middle = render_text("line\n" * 10_000)
    assert not middle.is_cut
    assert "".join(Seen(middle.html).text.split()).count("line") == 10_000


PIECE = ("[", "*a ", "> ", "- ", "`", "![", "<", "&", "|a", "~~", "\\", "[a](", "_*", "1. ", "<ab:>", "[a](b)")


@pytest.mark.parametrize("piece", PIECE)
def test_no_repetition_makes_rendering_slow(piece: str) -> None:
    started = time.process_time()
    Seen(render_text(piece * 20_000).html)
    Seen(render_text((piece + "\n") * 10_000).html)
    assert time.process_time() - started < 2
