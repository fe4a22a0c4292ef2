"""Labels that contradict each other, counted, and a stated policy for them.

Two kinds. A pair contradicts itself when its safer response is labelled unsafe and the other one safe: the policy
applies wherever safety labels are used (helpfulness does not depend on them). A response may also be labelled safe
in one row and unsafe in another, as by two annotators: both labels stay, and the number is reported.
"""

from collections import defaultdict
from collections.abc import Iterable

from equipoise.data.source import Contradictions
from equipoise.records import PreferencePair, Record, SafetyLabel, Side


def contradicts(pair: PreferencePair) -> bool:
    """Whether the response ranked safer is labelled unsafe while the other is labelled safe."""
    if pair.safer is None:
        return False
    return pair.is_safe[pair.safer] is False and pair.is_safe[1 - pair.safer] is True


def settle(pair: PreferencePair, policy: Contradictions) -> PreferencePair | None:
    """The pair under a policy; a pair without a contradiction is left as it is.

    Args:
        pair: Any pair.
        policy: `drop`: no pair. `trust_label`: the response labelled safe is the safer one. `trust_rank`: the
            ranking stands, and the two meta-labels (with categories and severities) change places, the only
            labelling of one safe and one unsafe response that agrees with it.
    """
    if not contradicts(pair):
        return pair
    if policy == "drop":
        return None
    if policy == "trust_label":
        safe_side: Side = 0 if pair.is_safe[0] else 1
        return pair.model_copy(update={"safer": safe_side})
    swapped = {name: getattr(pair, name)[::-1] for name in ("is_safe", "categories", "severity")}
    return pair.model_copy(update=swapped)


def count_labelled_both_ways(records: Iterable[Record]) -> int:
    """How many responses to one prompt are labelled safe somewhere and unsafe elsewhere."""
    labels: dict[tuple[str, str], set[bool]] = defaultdict(set)
    for record in records:
        for response, is_safe in _labelled(record):
            labels[response].add(is_safe)
    return sum(len(seen) == 2 for seen in labels.values())


def _labelled(record: Record) -> list[tuple[tuple[str, str], bool]]:
    match record:
        case SafetyLabel():
            return [((record.prompt.id, record.response), record.is_safe)]
        case PreferencePair():
            both = zip(record.responses, record.is_safe, strict=True)
            return [((record.prompt.id, text), safe) for text, safe in both if safe is not None]
    return []
