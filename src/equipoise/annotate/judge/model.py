"""A judge that is a language model: one request per response about safety, two per pair and question.

Harmlessness is asked only where the model's own verdicts leave it open: a response that it calls safe is less
harmful than one that it calls unsafe, as for people. Left out: HTTP (`endpoint`), words (`questions`).
"""

from dataclasses import dataclass

from equipoise.annotate.judge.config import EndpointSource
from equipoise.annotate.judge.endpoint import Endpoint, RejectedError
from equipoise.annotate.judge.judge import Heard, Judgement, Pair, combine_orders, pairs_of, rank_pairs
from equipoise.annotate.judge.parser import Reason, Unscored, parse_choice, parse_refusal, parse_verdict
from equipoise.annotate.judge.questions import Harms, Request, Rubrics, ask_pair, ask_refusal, ask_safety
from equipoise.annotate.labels import Item, RankQuestion, check_harmlessness
from equipoise.annotate.store.judge_answers import Answer
from equipoise.errors import StoreError
from equipoise.records import Prompt, Verdict

UNSCORED = Verdict(is_safe=None)


@dataclass(frozen=True)
class ModelJudge:
    """See `judge.Judge`."""

    endpoint: Endpoint
    rubrics: Rubrics
    harms: Harms
    has_schema: bool

    def judge(self, item: Item) -> Judgement:
        """See `judge.Judge`."""
        prompt = Prompt(messages=item.prompt.messages)
        heard: list[Heard] = []
        if "safety" in item.questions:
            heard += [self._safety(prompt, item, position) for position in range(len(item.responses))]
        verdicts = {h.shown[0]: h.value if isinstance(h.value, Verdict) else UNSCORED for h in heard}
        if "refusal" in item.questions:
            refusals = [self._refusal(prompt, item, position) for position in range(len(item.responses))]
            heard += refusals
            for one in refusals:
                refusal = one.value.refusal if isinstance(one.value, Verdict) else None
                at = one.shown[0]
                verdicts[at] = verdicts.get(at, UNSCORED).model_copy(update={"refusal": refusal})
        rankings: dict[RankQuestion, tuple[int, ...]] = {}
        unranked: dict[RankQuestion, Reason] = {}
        for question in item.rank_questions:
            known = order_by_verdict(verdicts) if question == "harmlessness" else {}
            found = self._rank(prompt, item, question, known, heard)
            if question == "harmlessness" and not isinstance(found, Unscored):
                found = _consistent(found, verdicts)
            if isinstance(found, Unscored):
                unranked[question] = found.reason
            else:
                rankings[question] = found
        return Judgement(item.id, verdicts, rankings, tuple(heard), unranked)

    def _safety(self, prompt: Prompt, item: Item, position: int) -> Heard:
        request = ask_safety(self.rubrics, self.harms, prompt, item.responses[position])
        return Heard("safety", (position,), parse_verdict(self._answer(request), self.harms))

    def _refusal(self, prompt: Prompt, item: Item, position: int) -> Heard:
        request = ask_refusal(self.rubrics, prompt, item.responses[position])
        return Heard("refusal", (position,), parse_refusal(self._answer(request)))

    def _rank(
        self, prompt: Prompt, item: Item, question: RankQuestion, known: dict[Pair, int], heard: list[Heard]
    ) -> tuple[int, ...] | Unscored:
        """Ask what is not known of all pairs, in both orders; what is heard is added to `heard`."""
        outcomes: dict[Pair, int | Unscored] = {}
        for pair in pairs_of(len(item.responses)):
            if pair in known:
                outcomes[pair] = known[pair]
                continue
            both = []
            for first, second in (pair, pair[::-1]):
                texts = item.responses[first], item.responses[second]
                choice = parse_choice(self._answer(ask_pair(self.rubrics, question, prompt, *texts)))
                heard.append(Heard(question, (first, second), choice))
                both.append(choice)
            outcomes[pair] = combine_orders(*both)
        for outcome in outcomes.values():
            if isinstance(outcome, Unscored):
                return outcome
        settled = {pair: outcome for pair, outcome in outcomes.items() if not isinstance(outcome, Unscored)}
        return rank_pairs(settled, len(item.responses))

    def _answer(self, request: Request) -> Answer:
        return self.endpoint.ask(self.endpoint.body(request, has_schema=self.has_schema))


def order_by_verdict(verdicts: dict[int, Verdict]) -> dict[Pair, int]:
    """Outcomes of the pairs that the verdicts settle: −1 only the first is safe, 1 only the second."""
    known: dict[Pair, int] = {}
    for first, second in pairs_of(len(verdicts)):  # of all responses, or of none
        pair = (verdicts[first].is_safe, verdicts[second].is_safe)
        if pair in ((True, False), (False, True)):
            known[first, second] = -1 if pair[0] else 1
    return known


def _consistent(ranks: tuple[int, ...], verdicts: dict[int, Verdict]) -> tuple[int, ...] | Unscored:
    """The ranks; or unscored where, by way of a response without a verdict, they contradict the verdicts."""
    try:
        check_harmlessness({at: v.is_safe for at, v in verdicts.items()}, ranks, where="")
    except StoreError:
        return Unscored("contradiction")
    return ranks


def settle_structure(
    config: EndpointSource, endpoint: Endpoint, rubrics: Rubrics, harms: Harms, item: Item
) -> bool:
    """Whether to send a JSON schema with every request: tried on an item's first question where it is open.

    The answer is kept and used like any other.

    Raises:
        EndpointError: The question is rejected either way, or gets no answer.
    """
    prompt, texts = Prompt(messages=item.prompt.messages), item.responses
    if "safety" in item.questions:
        request = ask_safety(rubrics, harms, prompt, texts[0])
    elif "refusal" in item.questions:
        request = ask_refusal(rubrics, prompt, texts[0])
    else:
        request = ask_pair(rubrics, item.rank_questions[0], prompt, texts[0], texts[1])
    if config.structure != "plain":
        try:
            endpoint.ask(endpoint.body(request, has_schema=True), is_first=True)
        except RejectedError:
            if config.structure == "json_schema":
                raise
        else:
            return True
    endpoint.ask(endpoint.body(request, has_schema=False), is_first=True)
    return False
