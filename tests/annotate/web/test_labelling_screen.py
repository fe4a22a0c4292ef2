"""The labeller's screen in a real browser: Debian's Chromium, driven by Playwright, and a server on loopback."""

from collections.abc import Callable
from contextlib import closing

from playwright.sync_api import Browser, expect
from web_browser import Desk, item_of, keys_for, labels_in, needs_chromium, next_item

from equipoise.annotate.labels import Item
from equipoise.records import Prompt

pytestmark = needs_chromium
PASSWORD = "correct horse"


def pair(number: int, **prompt: str) -> Item:
    return Item(
        prompt=Prompt.from_text(f"Question {number}", **prompt),
        responses=(f"First answer to {number}", f"Second answer to {number}"),
    )


def views_of(number: int) -> tuple[tuple[bool, bool], int, int]:
    """Made-up views on pair `number`: every combination comes up, and they agree with themselves."""
    safe = (number % 2 == 0, number % 4 < 2)
    safer = number % 3 % 2 if safe[0] == safe[1] else safe.index(True)
    return safe, number % 5 % 2, safer


def expected(safe: tuple[bool, bool], better: int, safer: int) -> tuple[object, object]:
    ranks = {0: (0, 1), 1: (1, 0)}
    return safe, {"helpfulness": ranks[better], "harmlessness": ranks[safer]}


def test_twenty_pairs_by_keyboard_alone(desk_of: Callable[..., Desk], browser: Browser) -> None:
    items = [pair(number) for number in range(21)]
    views = {item.id: views_of(number) for number, item in enumerate(items)}
    desk = desk_of(items, overlap=1, gold_share=0)
    page = desk.open(browser.new_page())

    page.goto(desk.link)  # a password on joining, then out, and in again with it
    page.get_by_label("Password").focus()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("Ann")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel")
    page.wait_for_load_state()  # the script that hears the keys

    skipped, per_pair = "", list[int]()
    for number in range(21):
        item = item_of(page)
        keys = keys_for(desk.shown(item), *views[item])
        if number == 3:  # the first tries are wrong: undo step by step, and after sending
            desk.press(page, "u", "u", "Backspace", "Backspace")
            with next_item(page):
                desk.press(page, *("u", "u", "0", "0"))
            desk.press(page, "Backspace")
            page.wait_for_selector(f"#work[data-item='{item}']")
            desk.press(page, *["Backspace"] * 3)
        if number == 5:
            with next_item(page):
                desk.press(page, "Shift+S", "1")
            skipped = item
            continue
        if number == 7:
            desk.press(page, "Shift+F")
            page.keyboard.type("strange")
            page.keyboard.press("Control+Enter")
            expect(page.locator(".said")).to_have_text("Flag kept.")
        if number == 9:  # a reload in the middle
            desk.press(page, *keys[:2])
            expect(page.locator(".response[data-verdict='']")).to_have_count(0)
            page.reload()
            keys = keys[2:]
        with next_item(page):
            before = desk.keys
            desk.press(page, *keys)
        if number not in (3, 9):
            per_pair.append(desk.keys - before)
    expect(page.get_by_role("heading", name="Nothing is left for you now")).to_be_visible()

    assert len(per_pair) == 18 and set(per_pair) == {3, 4}
    answered = {item: labels for item, labels in labels_in(desk).items() if item != skipped}
    assert answered == {item: expected(*view) for item, view in views.items() if item != skipped}
    assert labels_in(desk)[skipped] == ((None, None), {})
    with closing(desk.store()) as store:
        notes = store.rows("SELECT kind, text FROM notes ORDER BY kind")
    assert notes == [("flag", "strange"), ("skip", "I cannot judge this")]


def test_categories_take_one_key_each_and_severity_one(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0)], overlap=1, gold_share=0, taxonomy="pku19", severity=True)
    page = desk.join(desk.open(browser.new_page()))
    shown = desk.shown(item_of(page))
    desk.press(page, "u")
    page.wait_for_selector(".category")
    buttons = [
        (str(b.get_attribute("value")), b.get_attribute("data-key")) for b in page.locator(".category").all()
    ]
    key = {value.removeprefix("category 0 "): str(pressed) for value, pressed in buttons}
    assert len(key) == len(set(key.values())) == 19
    desk.press(page, "2", key["Violence"], key["Drugs"], key["Drugs"], key["Animal Abuse"], "s")
    with next_item(page):
        desk.press(page, "1")
    with closing(desk.store()) as store:
        verdicts = {label.position: label.verdict for label in store.verdicts()}
    assert verdicts[shown[0]].categories == ("Violence", "Animal Abuse") and verdicts[shown[0]].severity == 2
    assert verdicts[shown[1]].is_safe and verdicts[shown[1]].severity == 0


def test_an_order_that_verdicts_settle_is_filled_in_and_explained(
    desk_of: Callable[..., Desk], browser: Browser
) -> None:
    item = Item(prompt=Prompt.from_text("Four"), responses=("one", "two", "three", "four"))
    desk = desk_of([item], overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    shown = desk.shown(item.id)
    desk.press(page, "s", "u", "s", "u", "2", "=", "3", "0")  # helpfulness: B = C, then A = D
    harmlessness = page.get_by_role("group", name="Harmlessness")
    expect(harmlessness).to_contain_text("A and C are safe and B and D are not: safe always ranks before unsafe.")
    desk.press(page, "2")
    expect(page.get_by_role("alert").first).to_contain_text("B is unsafe, so it comes after every safe response.")
    with next_item(page):
        desk.press(page, "3", "0")  # C, then A; B = D
    verdicts, rankings = labels_in(desk)[item.id]
    assert [verdicts[position] for position in shown] == [True, False, True, False]
    assert [rankings["helpfulness"][position] for position in shown] == [1, 0, 0, 1]
    assert [rankings["harmlessness"][position] for position in shown] == [1, 2, 0, 2]


HOSTILE = (
    "<script>window.hacked = 1; fetch('https://evil.example/a')</script><img src='https://evil.example/b' "
    "onerror='window.hacked = 1'> ![x](https://evil.example/c.png) [go](javascript:window.hacked=1) "
    "<https://evil.example/d> <style>body{display:none}</style><iframe src='//evil.example/e'></iframe>"
    "<meta http-equiv=refresh content='0;url=https://evil.example/f'></div></main></body>",
    "\u202egnp.exe\x00\x1b[2J \ud7ff \u05d0\u05d1\u05d2 "
    + "\u0301" * 500
    + "\n"
    + "A" * 5000
    + "\n"
    + "many words " * 900_000,
)


def test_a_hostile_response_can_do_nothing(desk_of: Callable[..., Desk], browser: Browser) -> None:
    item = Item(prompt=Prompt.from_text(HOSTILE[0]), responses=HOSTILE)
    desk = desk_of([item], overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    assert page.evaluate("window.hacked") is None
    assert "evil.example" in page.locator(".responses").inner_text()
    assert page.locator("#work :is(script, img, iframe, style, meta, a[href*=evil])").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "characters are not on this page" in page.locator(".responses").inner_text()
    whole = page.request.get(desk.url + (page.locator("a:has-text('plain text')").get_attribute("href") or ""))
    assert whole.headers["content-type"].startswith("text/plain") and len(whole.text()) > 9_000_000
    with next_item(page):
        desk.press(page, "u", "u", "0", "0")  # desk_of checks that no request left and no script ran


def test_two_tabs_on_one_item(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0), pair(1)], overlap=1, gold_share=0)
    context = browser.new_context()
    one, two = desk.open(context.new_page()), desk.open(context.new_page())
    desk.join(one)
    two.goto(f"{desk.url}/label")
    first = item_of(one)
    assert item_of(two) == first
    desk.press(one, "u")
    expect(one.locator("[data-badges='unsafe,']")).to_be_visible()
    desk.press(two, "s")
    expect(two.get_by_role("alert").first).to_contain_text("changed meanwhile, perhaps in another tab")
    expect(two.locator("[data-badges='unsafe,']")).to_be_visible()
    desk.press(two, "s")
    with next_item(two):
        desk.press(two, "1")
    desk.press(one, "s")
    expect(one.get_by_role("alert").first).to_contain_text("You have finished this item already.")
    assert item_of(one) == item_of(two) != first
    assert labels_in(desk)[first][1] != {}


def test_blurred_responses_and_declined_categories(desk_of: Callable[..., Desk], browser: Browser) -> None:
    category = "animal_abuse"
    items = [pair(0, kind="harmful"), pair(1), pair(2, category=category)]
    desk = desk_of(items, overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_page()))
    assert item_of(page) == items[0].id
    expect(page.locator("[data-blurred] .text[inert]")).to_have_count(2)
    desk.press(page, "s")
    expect(page.get_by_role("alert").first).to_contain_text("still blurred")
    desk.press(page, "Shift+V")
    expect(page.locator("[data-blurred]")).to_have_count(0)
    with next_item(page):
        desk.press(page, "s", "s", "0", "0")
    desk.press(page, "Shift+O")
    page.get_by_label("Animal abuse").check()
    page.get_by_role("group", name="Colors").get_by_label("dark").check()
    page.get_by_role("button", name="Keep").click()
    expect(page.locator("html[data-theme=dark]")).to_have_count(1)
    page.get_by_role("link", name="Back to labelling").click()
    page.wait_for_load_state()
    with next_item(page):
        desk.press(page, "s", "s", "0", "0")
    expect(page.locator("#panel")).to_contain_text("apart from the categories you declined")
    assert labels_in(desk)[items[2].id] == ((None, None), {})


def test_a_break_is_suggested_after_a_stretch_without_a_pause(
    desk_of: Callable[..., Desk], browser: Browser
) -> None:
    desk = desk_of([pair(number) for number in range(6)], overlap=1, gold_share=0, break_after_minutes=30)
    page = desk.join(desk.open(browser.new_page()))
    suggestion = page.get_by_text("A short break helps you and the labels")
    for _ in range(4):  # 500 s each, 33 minutes
        expect(suggestion).to_have_count(0)
        desk.now[0] += 500
        with next_item(page):
            desk.press(page, "s", "s", "0", "0")
    expect(suggestion).to_be_visible()
    desk.press(page, "Shift+B")
    expect(suggestion).to_have_count(0)
    desk.now[0] += 500
    with next_item(page):
        desk.press(page, "s", "s", "0", "0")
    expect(suggestion).to_have_count(0)


def test_a_phone_by_touch_without_keys(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0)], overlap=1, gold_share=0)
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = desk.join(desk.open(phone.new_page()))
    for words in ("Unsafe", "Hate speech, offensive language"):
        page.locator(".question", has_text="Is A safe?").get_by_role("button", name=words).tap()
    page.locator(".now").get_by_role("button", name="Safe", exact=True).tap()
    expect(page.locator(".now")).to_contain_text("Helpfulness")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [box for button in page.locator(".answer:visible").all() if (box := button.bounding_box())]
    assert boxes and all(box["height"] >= 38 for box in boxes)
    with next_item(page):
        page.locator(".now").get_by_role("button", name="Equal").tap()
    assert labels_in(desk)[pair(0).id][1]["helpfulness"] == (0, 0)


def test_without_javascript_every_step_is_a_page(desk_of: Callable[..., Desk], browser: Browser) -> None:
    desk = desk_of([pair(0)], overlap=1, gold_share=0)
    page = desk.join(desk.open(browser.new_context(java_script_enabled=False).new_page()))
    page.locator(".now").get_by_role("button", name="Unsafe").click()
    page.get_by_role("button", name="Privacy violation").click()
    page.get_by_role("button", name="Undo").click()
    page.locator(".now").get_by_role("button", name="Unsafe").click()
    page.locator(".now").get_by_role("button", name="B").click()
    page.locator(".now").get_by_role("button", name="Equal").click()
    expect(page.get_by_role("heading", name="Nothing is left for you now")).to_be_visible()
    verdicts, rankings = labels_in(desk)[pair(0).id]
    assert verdicts == (False, False) and rankings["harmlessness"] == (0, 0)
