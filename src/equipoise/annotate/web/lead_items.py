"""The lead's pages on items: the list with its filters, one item with all answers, gold items, what is unsettled.

Answers to an item show when it is complete: until then a lead is as blind as everybody.
"""

from collections.abc import Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from equipoise.annotate.labels import RANK_QUESTIONS, Draft, Item, RankQuestion
from equipoise.annotate.store import overview, rulings
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.history import answers
from equipoise.annotate.web import pages, reports
from equipoise.annotate.web.rendering import render_text
from equipoise.errors import StoreError
from equipoise.records import Verdict

PER_PAGE = 50
VERDICTS = {"safe": True, "unsafe": False}


def routes() -> Sequence[Route]:
    """Items, gold and adjudication."""
    return (
        Route("/lead/items", show_items),
        Route("/lead/item/{item}", show_item),
        Route("/lead/item/{item}/gold", save_gold, methods=["POST"]),
        Route("/lead/item/{item}/ruling", save_ruling, methods=["POST"]),
        Route("/lead/gold", show_gold),
        Route("/lead/adjudicate", show_unsettled),
    )


async def show_items(request: Request) -> Response:
    """Items by state, set, labeller, text, flag, or the number on another page that they stand behind."""
    query, offset = request.query_params, pages.query_number(request, "from", 0)
    state = pages.query_choice(request, "state", overview.STATES)
    overlap = request.app.state.project.config.overlap

    def find(store: Store) -> tuple[list[overview.ItemRow], int, list[overview.SetProgress]]:
        wanted = overview.ItemFilter(
            state=state,
            source=query.get("source") if query.get("source") != "" else None,
            labeller=query.get("labeller"),
            text=query.get("text", "").strip(),
            is_flagged=bool(query.get("flagged")),
            ids=items_behind(request, store),
        )
        rows, total = overview.find_items(store, wanted, overlap, PER_PAGE, offset)
        return rows, total, overview.sets(store, overlap)

    rows, total, sets = await pages.in_reports(request, find)
    return pages.render(
        request,
        "lead_items.html",
        rows=rows,
        total=total,
        offset=offset,
        per_page=PER_PAGE,
        overlap=overlap,
        query=dict(query),
        sets=sets,
        states=overview.STATES,
        about=describe_query(request),
    )


def items_behind(request: Request, store: Store) -> list[str] | None:
    """The items behind a number of the agreement page, if the query names one."""
    query = request.query_params
    whom = pages.query_choice(request, "whom", reports.KINDS) or "people"
    if relation := pages.query_choice(request, "preferences", reports.RELATIONS):
        return list(dict.fromkeys(request.app.state.reports.get(store, whom).relations.items.get(relation, [])))
    question = query.get("question")
    if not question:
        return None
    if not question.startswith("category:"):
        pages.query_choice(request, "question", reports.QUESTIONS)
    units = pages.query_choice(request, "units", ("disputed", "compared"))
    labellers = tuple(query[name] for name in ("one", "other") if query.get(name))
    report = request.app.state.reports.get(store, whom)
    return reports.behind(report, question, labellers, disputed=units != "compared")


def describe_query(request: Request) -> str:
    """In words, which number of the agreement page the items stand behind; empty if none."""
    query = request.query_params
    if relation := pages.query_choice(request, "preferences", reports.RELATIONS):
        return f"pairs where {reports.RELATIONS[relation]}"
    if question := query.get("question"):
        what = question.replace("category:", "the category ").replace("single_dimension", "the mixed question")
        who = " and ".join(query[name] for name in ("one", "other") if query.get(name)) or "labellers"
        did = "both judged" if query.get("one") else "were compared on"
        return f"{who} {did if query.get('units') == 'compared' else 'disagree on'} {what}"
    return ""


async def show_item(request: Request) -> Response:
    """One item: texts, who answered what, notes, revisions, known answers, rulings."""
    return await render_item(request, "")


async def render_item(request: Request, problem: str) -> Response:
    """The page of one item, with what is wrong with the form that was sent, if anything is."""
    item, project = request.path_params["item"], request.app.state.project
    detail = await pages.in_store(request, overview.item_detail, item)
    is_complete = detail.done >= project.config.overlap or detail.gold is not None
    return pages.render(
        request,
        "lead_item.html",
        400 if problem else 200,
        problem=problem,
        detail=detail,
        turns=[(message.role, render_text(message.content)) for message in detail.item.prompt.messages],
        responses=[render_text(response) for response in detail.item.responses],
        is_complete=is_complete,
        overlap=project.config.overlap,
        taxonomy=project.taxonomy,
        labels={category.name: category.label for category in project.taxonomy.categories},
        questions=detail.item.rank_questions,
    )


async def save_gold(request: Request) -> Response:
    """Keep what is known about an item, or make it an ordinary one again."""
    item = request.path_params["item"]
    if pages.form_text(request, "remove"):
        name, now = request.state.person.name, pages.now(request)
        await pages.in_store(request, rulings.unset_gold, item, name, now)
        return pages.redirect(f"/lead/item/{item}#gold")
    return await save_answers(request, rulings.set_gold, f"/lead/item/{item}#gold")


async def save_ruling(request: Request) -> Response:
    """Settle what the labellers did not."""
    return await save_answers(request, rulings.adjudicate, "/lead/adjudicate")


async def save_answers(request: Request, keep: Callable[..., None], following: str) -> Response:
    """Keep the answers in the form and go on, or show the item again with what is wrong with them."""
    item = await pages.in_store(request, Store.item, request.path_params["item"])
    name, now = request.state.person.name, pages.now(request)
    try:
        await pages.in_store(request, keep, item.id, read_answers(request, item), name, now)
    except StoreError as error:
        return await render_item(request, error.in_words())
    return pages.redirect(following)


def read_answers(request: Request, item: Item) -> Draft:
    """The answers in a form of the template `answers.html`; what is left open is not among them.

    Of a pair, a safe and an unsafe response settle harmlessness, as they do for labellers.

    Raises:
        HTTPException: A value that the form does not offer, 400.
        StoreError: A ranking without a place for some responses.
    """
    known = request.app.state.project.taxonomy.names
    verdicts: dict[int, Verdict] = {}
    for position in range(len(item.responses)):
        said = pages.form_text(request, f"safety-{position}")
        categories = tuple(str(one) for one in request.state.form.getlist(f"category-{position}"))
        severity = pages.form_text(request, f"severity-{position}")
        if said not in ("", *VERDICTS) or not set(categories) <= set(known) or severity not in ("", *"0123"):
            raise HTTPException(400, "The form holds a value that it does not offer.")
        if said:
            is_unsafe = said == "unsafe"
            verdicts[position] = Verdict(
                is_safe=VERDICTS[said],
                categories=categories if is_unsafe else (),
                severity=int(severity) if severity and is_unsafe else None,
            )
    found = {question: read_ranks(request, item, question) for question in RANK_QUESTIONS}
    is_safe = [verdicts[at].is_safe for at in sorted(verdicts)]
    if sorted(is_safe, key=bool) == [False, True] and "harmlessness" in item.questions:
        found["harmlessness"] = found["harmlessness"] or ((0, 1) if is_safe[0] else (1, 0))
    return Draft(verdicts=verdicts, rankings={q: ranks for q, ranks in found.items() if ranks is not None})


def read_ranks(request: Request, item: Item, question: RankQuestion) -> tuple[int, ...] | None:
    """The ranking in the form, places made ranks from 0 without gaps; None where it is left open.

    Of a pair one place is enough: the other response has the other.

    Raises:
        HTTPException: A place that is not offered, 400.
        StoreError: A place for some of more than two responses.
    """
    count = len(item.responses)
    places = [pages.form_text(request, f"{question}-{position}") for position in range(count)]
    if not any(places):
        return None
    offered = [str(place) for place in range(1, count + 1)]
    if not {*places} <= {"", *offered}:
        raise HTTPException(400, "The form holds a value that it does not offer.")
    if count == 2:
        other = {"1": "2", "2": "1"}
        places = [place or other[places[1 - at]] for at, place in enumerate(places)]
    if not all(places):
        raise StoreError(f"A ranking by {question} needs a place for each response.")
    order = sorted({int(place) for place in places})
    return tuple(order.index(int(place)) for place in places)


async def show_gold(request: Request) -> Response:
    """Gold items, and how many of their answers each labeller gave right."""
    gold, scores = await pages.in_reports(request, score_gold)
    overlap = request.app.state.project.config.overlap
    wanted = overview.ItemFilter(state="gold")
    rows, total = await pages.in_reports(request, overview.find_items, wanted, overlap, 500, 0)
    return pages.render(request, "lead_gold.html", rows=rows, total=total, gold=gold, scores=scores)


def score_gold(store: Store) -> tuple[dict[str, Draft], dict[str, tuple[int, int, int]]]:
    """The gold items' answers, and labeller → right answers, known answers, gold items."""
    gold = rulings.gold_answers(store)
    scores: dict[str, tuple[int, int, int]] = {}
    for (item, name), given in answers(store, list(gold)).items():
        right, asked = overview.count_right(gold[item], given)
        old = scores.get(name, (0, 0, 0))
        scores[name] = (old[0] + right, old[1] + asked, old[2] + 1)
    return gold, scores


async def show_unsettled(request: Request) -> Response:
    """Complete items whose labellers did not settle a question."""
    overlap = request.app.state.project.config.overlap

    def find(store: Store) -> tuple[list[overview.ItemRow], dict[str, list[str]]]:
        questions = reports.unsettled(request.app.state.reports.get(store, "people"))
        wanted = overview.ItemFilter(state="complete", ids=list(questions))
        return overview.find_items(store, wanted, overlap, 500, 0)[0], questions

    rows, questions = await pages.in_reports(request, find)
    return pages.render(request, "lead_adjudicate.html", rows=rows, questions=questions)
