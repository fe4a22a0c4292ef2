"""What one request does to a labeller's screen, where a browser's own form would not send it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from web_client import NOW, Site, make_items, serving

from equipoise.annotate.labels import Item
from equipoise.annotate.store import project, queue
from equipoise.annotate.web.moment import Blur, Sent, begin, give_up, take_back, take_steps
from equipoise.records import Prompt


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project") as site:
        with site.store() as store:
            store.add_items(make_items("first", "second"))
        yield site


def sent(at: int, *steps: str, is_final: bool = False) -> Sent:
    return Sent(at=at, steps=steps, is_final=is_final, sends_itself=True, blur=Blur("never", ""))


def test_undo_takes_back_only_the_step_that_sent_the_item(site: Site) -> None:
    alone = Item(prompt=Prompt.from_text("third"), responses=("one",), questions=("safety",))
    with site.store() as store:
        settings = project.settings(store)

        def take(item: Item, *each: Sent) -> None:
            queue.take_item(store, "Ann", NOW)
            for one in each:
                take_steps(store, settings, "Ann", item.id, one, NOW)

        first, second = store.items()
        take(first, sent(0, "safe 0"), sent(1, "unsafe 1"), sent(2, "pick helpfulness 0"))
        assert take_back(store, settings, "Ann", "", sent(0), NOW).steps == ("safe 0", "unsafe 1")
        take(first, sent(2, "pick helpfulness 0"))
        give_up(store, settings, "Ann", second.id, "unclear", NOW)

        # what ends with a verdict of unsafe waits for categories and was sent by Enter
        store.add_items([alone])
        take(alone, sent(0, "unsafe 0"), sent(1, "category 0 privacy_violation"), sent(2, is_final=True))
        opened = take_back(store, settings, "Ann", "", sent(0), NOW)
        assert opened.steps == ("unsafe 0", "category 0 privacy_violation")


def test_undo_of_a_skip_gives_back_every_answer(site: Site) -> None:
    with site.store() as store:
        settings = project.settings(store)
        first = begin(store, settings, "Ann", "", NOW)
        assert first.work is not None
        item = first.work.item.id
        take_steps(store, settings, "Ann", item, sent(0, "safe 0"), NOW)
        give_up(store, settings, "Ann", item, "unclear", NOW)
        opened = take_back(store, settings, "Ann", "", sent(0), NOW)
        assert opened.steps == ("safe 0",) and "labels" not in opened.said
