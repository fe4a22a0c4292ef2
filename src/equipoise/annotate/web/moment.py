"""How a labeller's screen stands, and what each request does to it; no HTTP.

A request says which item and how many steps it believes were taken, so a second tab, a double click or a reload
can do no harm: whoever is behind is shown how things stand. What the steps mean is in `answers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from equipoise.annotate.labels import Draft
from equipoise.annotate.store import queue
from equipoise.annotate.store.core import Store
from equipoise.annotate.store.project import Project
from equipoise.annotate.web.answers import Sheet, draft_of, labels_of, next_ask, read_steps, steps_of
from equipoise.errors import StoreError

UNASKED = ("category", "severity", "unsafe")
"""Steps that never send an item by themselves, as categories may follow."""
MOST_STEPS = 1000
"""On one item; the longest way through six responses and fifty categories takes fewer."""


@dataclass(frozen=True, slots=True)
class Blur:
    """Responses blurred: of `harmful` prompts, `always` or `never`; `shown` is the item shown, or all."""

    wish: str
    shown: str

    def hides(self, work: queue.Work) -> bool:
        """Whether the responses cannot be read yet."""
        is_meant = self.wish == "always" or (self.wish == "harmful" and work.item.prompt.kind == "harmful")
        return is_meant and self.shown not in ("all", work.item.id)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a form says."""

    at: int
    steps: tuple[str, ...]
    is_final: bool
    sends_itself: bool
    blur: Blur


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stand after a request: the item in hand, the steps taken, and what to say about it."""

    work: queue.Work | None
    steps: tuple[str, ...] = ()
    said: str = ""
    """Good news."""
    message: str = ""
    """What was refused, and why."""
    status: int = 200


def sheet_of(project: Project, work: queue.Work) -> Sheet:
    """What is asked about the item in hand."""
    names = project.taxonomy.names
    return Sheet(len(work.item.responses), work.item.questions, names, project.config.severity)


def begin(store: Store, project: Project, labeller: str, item: str, now: float) -> Moment:
    """The item asked for, if the labeller has it in hand, or else their open or next one."""
    message = ""
    if item:
        try:
            return _in_hand(project, queue.open_item(store, labeller, item, now))
        except StoreError as error:
            message = error.in_words()
    work = queue.take_item(store, labeller, now)
    found = _in_hand(project, work) if work else Moment(None)
    return Moment(found.work, found.steps, message=message, status=409 if message else 200)


def take_steps(store: Store, project: Project, labeller: str, item: str, sent: Sent, now: float) -> Moment:
    """Take steps on an item: refuse what is impossible, keep the draft, and finish the item where that is due."""
    found = begin(store, project, labeller, item, now)
    if found.work is None or found.message:
        return found
    if sent.at != len(found.steps):
        return _behind(found)
    if sent.blur.hides(found.work):
        message = "The responses are still blurred. Show them before you judge them, or skip the item."
        return Moment(found.work, found.steps, message=message, status=400)
    sheet, steps = sheet_of(project, found.work), (*found.steps, *sent.steps)
    if not (sent.steps or sent.is_final) or len(steps) > MOST_STEPS:
        words = f"More than {MOST_STEPS} steps on one item: undo some, or skip it." if sent.steps else "No answer."
        return Moment(found.work, found.steps, message=words, status=400)
    try:
        answers = read_steps(sheet, steps)
        is_complete = next_ask(sheet, answers) is None
        if sent.is_final or (is_complete and sent.sends_itself and _can_send(steps)):
            labels = labels_of(sheet, answers, item, labeller, found.work.shown)
        else:
            labels = None
    except StoreError as error:
        return Moment(found.work, found.steps, message=error.in_words(), status=400)
    try:
        if labels is None:
            queue.save_draft(store, labeller, item, _draft(found.work, sheet, steps), now)
            return Moment(found.work, steps)
        queue.submit(store, labeller, item, labels, now)
    except StoreError as error:
        following = begin(store, project, labeller, "", now)
        return Moment(following.work, following.steps, message=error.in_words(), status=409)
    following = begin(store, project, labeller, "", now)
    return Moment(following.work, following.steps, said="Saved. Undo takes it back.")


def take_back(store: Store, project: Project, labeller: str, item: str, sent: Sent, now: float) -> Moment:
    """Forget the last step; before the first one, open the item finished last without the step that sent it."""
    found = begin(store, project, labeller, item, now) if item else Moment(None)
    if found.message:
        return found
    if found.work and found.steps:
        if sent.at != len(found.steps):
            return _behind(found)
        kept = found.steps[:-1]
        queue.save_draft(store, labeller, item, _draft(found.work, sheet_of(project, found.work), kept), now)
        return Moment(found.work, kept, said="Undone.")
    earlier = queue.undo(store, labeller, now)
    if earlier is None:
        still = begin(store, project, labeller, item, now)
        return Moment(still.work, still.steps, said="There is nothing to undo.")
    steps = _in_hand(project, earlier).steps
    if not earlier.is_reopened:
        return Moment(earlier, steps, said="The skipped item is back.")
    if sent.sends_itself and _can_send(steps):
        steps = steps[:-1]
        queue.save_draft(store, labeller, earlier.item.id, _draft(earlier, sheet_of(project, earlier), steps), now)
    return Moment(earlier, steps, said="Taken back. Its labels hold until you send others.")


def give_up(store: Store, project: Project, labeller: str, item: str, reason: str, now: float) -> Moment:
    """Skip the item, for a reason."""
    try:
        queue.skip(store, labeller, item, reason, now)
    except StoreError as error:
        found = begin(store, project, labeller, item, now)
        return Moment(found.work, found.steps, message=error.in_words(), status=400)
    following = begin(store, project, labeller, "", now)
    return Moment(following.work, following.steps, said="Skipped. Undo brings it back.")


def _behind(found: Moment) -> Moment:
    message = "This item was changed meanwhile, perhaps in another tab. This is how it stands now."
    return Moment(found.work, found.steps, message=message, status=409)


def _can_send(steps: Sequence[str]) -> bool:
    """Whether the last of the steps sends a complete item by itself."""
    return bool(steps) and steps[-1].split()[0] not in UNASKED


def _in_hand(project: Project, work: queue.Work) -> Moment:
    """An item with the steps of its draft: those the screen kept, or those that lead to its answers."""
    sheet, kept = sheet_of(project, work), work.draft.screen.get("steps")
    if isinstance(kept, list):
        steps = tuple(str(step) for step in kept)
        try:
            read_steps(sheet, steps)
        except StoreError:  # the project's questions changed meanwhile
            return Moment(work)
        return Moment(work, steps)
    return Moment(work, steps_of(sheet, work.draft, work.shown))


def _draft(work: queue.Work, sheet: Sheet, steps: Sequence[str]) -> Draft:
    answers = draft_of(sheet, read_steps(sheet, steps), work.shown)
    return answers.model_copy(update={"screen": {"steps": list(steps)}})
