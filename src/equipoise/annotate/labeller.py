"""Whoever answers: a simulated labeller, a judge model, a script.

Labellers are made where their knowledge lives and are named to the stages as `package.module:function`; this
module only says what they can be asked. People answer through the store directly and need no such object.
"""

from collections.abc import Sequence
from typing import Protocol

from equipoise.annotate.labels import RankQuestion
from equipoise.records import Prompt, Verdict


class Labeller(Protocol):
    """Sees text alone: the prompt comes without its kind, category, attack and source."""

    @property
    def name(self) -> str:
        """Unique in the panel; the same name in several projects is the same labeller."""
        ...

    def judge_safety(self, prompt: Prompt, response: str, /) -> Verdict:
        """Safe or not, and if not, the categories that the response violates; None is unscored."""
        ...

    def rank(
        self, prompt: Prompt, responses: Sequence[str], question: RankQuestion, verdicts: Sequence[Verdict], /
    ) -> tuple[int, ...]:
        """Rank K responses.

        Args:
            prompt: The conversation.
            responses: K ∈ 2..6 distinct texts, in the order shown.
            question: helpfulness (ignoring safety), harmlessness, or the mixed single question.
            verdicts: This labeller's own answers on the safety of these responses, in the same order. A
                harmlessness ranking must put every safe one strictly before every unsafe one.

        Returns:
            K ranks, 0 = best, ties share a rank.
        """
        ...
