"""Who judged, and what the evidence cannot say: from the settings and the numbers themselves."""

from collections.abc import Mapping, Sequence

from equipoise.artefact import Manifest
from equipoise.evaluate.elo import Elo
from equipoise.evaluate.judges import VerdictSource
from equipoise.evaluate.summary import Evaluation

PHRASES = "equipoise.evaluate.refusal:refusals"
"""The built-in rule on refusals, under the name that evaluations know it by."""


def judged_by(evaluation: Evaluation, made: Sequence[tuple[str, Manifest]]) -> str:
    """Who judged, in a sentence, and whether a policy was trained to please that judge.

    Args:
        evaluation: What was found.
        made: As for `limits`.
    """
    setting = made[-1][1].config
    names: Mapping[str, str] = setting.get("judge_names", {})
    harm = evaluation.verdict or VerdictSource(kind="function", name=str(setting.get("verdict")))
    refusal = _named(evaluation.refusal or str(setting.get("refusal")), names)
    votes = setting.get("votes")
    compared = f"answers were compared by {_named(votes, names)}" if votes else "answers were not compared"
    return f"Harm was judged by {_judge(harm, names)}, refusals by {refusal}; {compared}.{_flattery(harm, made)}"


def limits(evaluation: Evaluation, made: Sequence[tuple[str, Manifest]]) -> list[str]:
    """What the evidence cannot say.

    Args:
        evaluation: What was found.
        made: Name and manifest of what led there; the evaluation's is the last.
    """
    policies = evaluation.policies
    first = policies[0]
    small = [name for name, rate in first.per_category.items() if rate is None or rate.n < 30]
    counts = {
        "Answers without a verdict, left out of the rates": "unscored_verdicts",
        "Answers on which nobody said whether they refuse": "unscored_refusals",
        "Answers cut at the token limit": "unfinished",
        "Prompts that were never answered": "unanswered",
        "Empty answers": "empty",
    }
    listed = {text: {p.name: p.counts.get(key, 0) for p in policies} for text, key in counts.items()}
    elos = [(p.name, e) for p in policies for e in (p.helpful_elo, p.helpful_elo_all, p.harmless_elo) if e]
    said = [
        f"{judged_by(evaluation, made)} "
        "A judge that errs in the same way for all policies moves all rates together.",
        "Intervals are 95 % and cover the choice of prompts: Wilson for rates, clustered by prompt for Elo. They "
        "do not cover another training seed, another judge, or requests unlike these.",
        _on_differences(evaluation) if len(policies) > 1 else "",
        f"{len(small)} categories have fewer than 30 requests: {', '.join(small)}." if small else "",
        *(f"{text}: {_listed(found)}." for text, found in listed.items() if any(found.values())),
        *(_unread(question, read.unscored) for question, read in evaluation.judge.items()),
        *_without_elo(elos, first.name),
        "" if elos else "No pairwise judgements were made, so there is no Elo.",
        "" if len(made) > 1 else "Nothing is known here about how the policies were trained.",
    ]
    return [text for text in said if text]


def _flattery(harm: VerdictSource, made: Sequence[tuple[str, Manifest]]) -> str:
    """A policy learns to please the cost model that it is trained against, by its faults as well."""
    if harm.kind != "cost":
        return ""
    model = made[-1][1].inputs.get("verdict")
    trained = {name.partition(":")[0]: found.inputs.get("cost") for name, found in made if found.kind == "policy"}
    if model is None or not trained:
        return " Whether a policy was trained against this cost model is not known here."
    pleased = [name for name, cost in trained.items() if cost == model]
    if not pleased:
        return ""
    return f" Trained against this very cost model, which flatters what it trained: {', '.join(pleased)}."


def _without_elo(elos: Sequence[tuple[str, Elo]], anchor: str) -> list[str]:
    why = {
        "above_all_data": f"never lost to {anchor}, even through others",
        "below_all_data": f"never won against {anchor}, even through others",
        "all_ties": f"only ties, of the policy or of {anchor}",
        "unconnected": f"no chain of comparisons orders it against {anchor}",
    }
    named = {text: [name for name, elo in elos if elo.status == status] for status, text in why.items()}
    return [
        f"No finite Elo ({text}): {', '.join(dict.fromkeys(names))}." for text, names in named.items() if names
    ]


def _judge(source: VerdictSource, names: Mapping[str, str]) -> str:
    match source.kind:
        case "cost":
            return f"a cost model ({source.name}), unsafe above {source.threshold:g}"
        case "judge":
            return f"the judge model {source.name}"
        case "people":
            return f"people: {source.name}"
        case "function":
            return _named(source.name, names)


def _named(judge: str, names: Mapping[str, str]) -> str:
    if judge == "judge":
        return "the judge model"
    known = {PHRASES: "a rule on English phrases", **names}
    return known.get(judge, f"the program {judge}")


def _on_differences(evaluation: Evaluation) -> str:
    apart = "made from the two policies' intervals as if their prompts were not the same, so wider than need be"
    if not evaluation.tests:
        return f"The interval of a difference is {apart}."
    return (
        "Harmful answers and over-refusal are compared prompt by prompt: McNemar's exact test, corrected for the "
        f"number of pairs of policies (Holm). The interval of any other difference is {apart}."
    )


def _unread(question: str, unscored: Mapping[str, int]) -> str:
    if not any(unscored.values()):
        return ""
    return f"Answers of the judge model on {question} that could not be read: {_listed(unscored)}."


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
