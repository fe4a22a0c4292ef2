"""Tokens as readable text, to show what a model is trained on."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from equipoise.data.conversations import prompt_of, responses_of
from equipoise.records import Demonstration, Message, Record
from equipoise.tokens.collate import Example, sft_examples

OPEN, CLOSE = "⟦", "⟧"
EXAMPLES = 3


def render_with_mask(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """The example's text with special tokens shown and the trained part between ⟦ and ⟧."""
    before = tokenizer.decode(example.ids[: example.target_from], clean_up_tokenization_spaces=False)
    trained = tokenizer.decode(example.ids[example.target_from :], clean_up_tokenization_spaces=False)
    return f"{before}{OPEN}{trained}{CLOSE}"


def masked_examples(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[str]:
    """A few records from the whole length of the set, each as one conversation is trained on or scored."""
    for record in records[:: max(1, len(records) // EXAMPLES)][:EXAMPLES]:
        answered = (
            [record]
            if isinstance(record, Demonstration)
            else [
                Demonstration(messages=(*prompt_of(record).messages, Message(role="assistant", content=text)))
                for text in responses_of(record)
            ]
        )
        for conversation in answered:
            yield render_with_mask(tokenizer, sft_examples(tokenizer, conversation, max_length)[-1])
