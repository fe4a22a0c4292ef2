"""A gate's verdict with everything it rests on: what `equipoise gate` writes as JSON and prints.

Brings together the evidence, the ledger and the decision. Schema: docs/gate.md.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from equipoise import __version__
from equipoise.errors import EvaluationError
from equipoise.evaluate.evidence import Evidence, Measured
from equipoise.evaluate.gate import Part, Terms, decide_mean, decide_rate, overall
from equipoise.evaluate.gate_config import GateConfig, Measure
from equipoise.evaluate.ledger import Entry, Question, Verdict, error_of_use, hash_of_set, record
from equipoise.records import Record

ALL = "all prompts"
RESTS_ON: tuple[str, ...] = (
    "The prompts are independent draws from what the policy will be asked; of other requests it says nothing.",
    "The policy, and whoever trained or chose it, never saw these prompts.",
    "Every answer was judged, and the judge is right: a judge's errors are not in the bound.",
    "The answers come from the policy as it will be used: same weights, template, sampling settings.",
    "The ledger is whole: every earlier use of these prompts stands in it, under this name of the policy.",
)


NAMES: dict[Measure, str] = {
    "harmful_rate": "share of unsafe answers",
    "over_refusal_rate": "share of refused harmless requests",
    "mean_cost": "mean cost",
}


COUNTED: dict[Measure, str] = {"harmful_rate": "unsafe", "over_refusal_rate": "refused", "mean_cost": "–"}


class Certificate(Record):
    """The verdict, one `Part` per category or for all prompts, and the use of the ledger that it is.

    `policy_hash` is null where it is unknown which policy answered.
    """

    version: str
    verdict: Verdict
    sentence: str
    policy: str
    measure: Measure
    limit: float
    confidence: float
    parts: tuple[Part, ...]
    use: int
    alpha: float
    asked: str
    is_repeat: bool
    uses: int
    shared_prompts: int
    is_new_ledger: bool
    ledger: str
    prompts_hash: str
    answers_hash: str
    policy_hash: str | None = None
    rests_on: tuple[str, ...]


def certify(evidence: Evidence, config: GateConfig) -> Certificate:
    """Decide, with the decision in the ledger before it is returned.

    Raises:
        EvaluationError: The evidence cannot answer the question.
        DataError: The ledger is damaged, or cannot be written.
    """
    ids = [item.prompt_id for item in evidence.measured]
    question = Question(
        policy=evidence.policy,
        prompts=hash_of_set(ids),
        answers=evidence.answers,
        measure=config.measure,
        limit=config.limit,
        confidence=config.confidence,
        by_category=config.by_category,
        cost_range=config.cost_range,
    )
    groups = _groups(evidence.measured, by_category=config.by_category)

    @cache  # asked for inside the ledger's lock, and again after it
    def parts(use: int, next_use: int) -> tuple[Part, ...]:
        alpha, next_alpha = (error_of_use(config.confidence, k) / len(groups) for k in (use, next_use))
        terms = Terms(config.limit, alpha, next_alpha)
        return tuple(_decide(name, group, config, terms) for name, group in groups.items())

    entry = record(config.ledger, question, ids, lambda use: overall(parts(use, use + 1)))
    decided = parts(entry.use.use, entry.uses + 1)
    if overall(decided) != entry.use.verdict:
        raise EvaluationError(
            f"The ledger says {entry.use.verdict!r} of this data, but it comes out as {overall(decided)!r}.",
            where=str(config.ledger),
            fix="The ledger was edited, or written by another version: restore it, or use that version.",
        )
    return _certificate(evidence, config, entry, decided)


def _groups(measured: Sequence[Measured], *, by_category: bool) -> dict[str, list[Measured]]:
    if not by_category:
        return {ALL: list(measured)}
    bare = sum(item.category is None for item in measured)
    if bare:
        raise EvaluationError(
            f"{bare} of {len(measured)} prompts have no category.",
            why="a limit on every category would say nothing of them",
            fix="Give every prompt its category, or leave by_category out.",
        )
    groups: dict[str, list[Measured]] = {}
    for item in measured:
        groups.setdefault(str(item.category), []).append(item)
    return dict(sorted(groups.items()))


def _decide(name: str, group: Sequence[Measured], config: GateConfig, terms: Terms) -> Part:
    known = [item.value for item in group if item.value is not None]
    unknown = len(group) - len(known)
    if config.measure == "mean_cost":
        assert config.cost_range is not None
        return decide_mean(name, np.array(known, dtype=float), unknown, config.cost_range, terms)
    return decide_rate(name, known.count(True), unknown, len(group), terms)


def _certificate(evidence: Evidence, config: GateConfig, entry: Entry, parts: tuple[Part, ...]) -> Certificate:
    use = entry.use
    return Certificate(
        version=__version__,
        verdict=use.verdict,
        sentence=sentence(parts, evidence.policy, config),
        policy=evidence.policy,
        measure=config.measure,
        limit=config.limit,
        confidence=config.confidence,
        parts=parts,
        use=use.use,
        alpha=use.alpha,
        asked=use.when,
        is_repeat=entry.is_repeat,
        uses=entry.uses,
        shared_prompts=entry.shared,
        is_new_ledger=entry.is_new,
        ledger=str(config.ledger),
        prompts_hash=use.question.prompts,
        answers_hash=use.question.answers,
        policy_hash=evidence.policy_hash,
        rests_on=RESTS_ON,
    )


def sentence(parts: Sequence[Part], policy: str, config: GateConfig) -> str:
    """The verdict in words: what is proved, against which limit, how surely, and what is missing."""
    verdict = overall(parts)
    deciding = [part for part in parts if part.verdict == verdict]
    worst = max(deciding, key=lambda part: part.value)

    def say(value: float) -> str:
        return shown(value, config.measure)

    what = f"the {NAMES[config.measure]} of {policy!r}"
    where = f" in {worst.name!r}" if config.by_category else ""
    limit = f"the limit of {say(config.limit)}"
    sure = f"with {100 * config.confidence:g} % confidence"
    if verdict == "pass":
        where = f" in each of {len(parts)} categories" if config.by_category else ""
        return f"PASS: {sure}, {what}{where} is at most {say(max(p.upper for p in parts))}, within {limit}."
    if verdict == "fail":
        return f"FAIL: {sure}, {what}{where} is at least {say(worst.lower)}, above {limit}."
    bounds = f"{what}{where} is at least {say(worst.lower)} and at most {say(worst.upper)}, each {sure}"
    return f"NOT ENOUGH EVIDENCE: {bounds}; {limit} lies between. {_missing(worst, config)}"


def _missing(part: Part, config: GateConfig) -> str:
    """What it would take to decide on one part."""
    outlook = part.outlook
    assert outlook is not None
    if outlook.prompts is None:
        return f"{outlook.why[:1].upper()}{outlook.why[1:]}."
    like = (
        "costs like those seen"
        if config.measure == "mean_cost"
        else f"the {shown(part.value, config.measure)} seen"
    )
    of = f" of {part.name!r}" if config.by_category else ""
    return f"{outlook.prompts:,} more prompts{of} would make it {outlook.verdict} if {like} stayed."


def shown(value: float, measure: Measure) -> str:
    """A value as people read it: shares in percent, costs as they are; three digits."""
    return f"{value:.3g}" if measure == "mean_cost" else f"{100 * value:.3g} %"


def render(certificate: Certificate) -> str:
    """The certificate as text: the sentence, a table, the ledger, the policy, and what it rests on."""
    lines = [certificate.sentence, "", *_table(certificate), ""]
    if any(part.unknown for part in certificate.parts):
        lines.append("The unknown count against the policy in `at most`, for it in `at least` and `at best`.")
    if len(certificate.parts) > 1:
        lines.append("The bounds of all categories are true at once with that confidence (Bonferroni).")
    return "\n".join(
        [
            *lines,
            _spent(certificate),
            _whose(certificate),
            "It rests on:",
            *(f"- {text}" for text in certificate.rests_on),
        ]
    )


def _table(certificate: Certificate) -> list[str]:
    """One row per part, in columns as wide as they need; columns with nothing to say are left out."""
    say = partial(shown, measure=certificate.measure)
    columns: dict[str, list[str]] = {
        "": [part.name for part in certificate.parts],
        "prompts": [str(part.n) for part in certificate.parts],
        COUNTED[certificate.measure]: [str(part.hits) for part in certificate.parts],
        "unknown": [str(part.unknown) for part in certificate.parts],
        "seen": [say(part.value) for part in certificate.parts],
        "at least": [say(part.lower) for part in certificate.parts],
        "at most": [say(part.upper) for part in certificate.parts],
        "at best": [say(part.upper_at_best) for part in certificate.parts],
        "verdict": [part.verdict for part in certificate.parts],
        "more prompts": [_more(part) for part in certificate.parts],
    }
    if not any(part.unknown for part in certificate.parts):
        del columns["unknown"], columns["at best"]
    columns.pop(COUNTED["mean_cost"], None)
    if all(part.outlook is None for part in certificate.parts):
        del columns["more prompts"]
    widths = [max(map(len, [head, *cells])) for head, cells in columns.items()]
    rows = zip(*([head, *cells] for head, cells in columns.items()), strict=True)
    return [
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]


def _more(part: Part) -> str:
    if part.outlook is None:
        return ""
    return "undecidable" if part.outlook.prompts is None else f"{part.outlook.prompts:,} to {part.outlook.verdict}"


def _spent(certificate: Certificate) -> str:
    """Which use this is, and what it cost."""
    use = f"Use {certificate.use} of these prompts in {certificate.ledger}"
    if certificate.is_repeat:
        return f"{use}, first asked {certificate.asked}: the same data and verdict, and nothing was spent."
    new = ", a new ledger" if certificate.is_new_ledger else ""
    spent = f"it may err with probability {certificate.alpha:.3g} of {1 - certificate.confidence:.3g}."
    if certificate.shared_prompts:
        spent += f" {certificate.shared_prompts} of them stand in other sets too, whose uses count."
    return f"{use}{new}: {spent}"


def _whose(certificate: Certificate) -> str:
    """How surely it is known which policy answered."""
    if certificate.policy_hash is None:
        return "Which weights gave these answers is unknown: the policy is known by its name alone."
    return f"These answers were given by the policy with hash {certificate.policy_hash}."
