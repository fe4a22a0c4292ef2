"""Tokens as readable text, to show what a model is trained on."""

from transformers import PreTrainedTokenizerBase

from equipoise.tokens.collate import Example

OPEN, CLOSE = "⟦", "⟧"


def render_with_mask(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """The example's text with special tokens shown and the trained part between ⟦ and ⟧."""
    before = tokenizer.decode(example.ids[: example.target_from], clean_up_tokenization_spaces=False)
    trained = tokenizer.decode(example.ids[example.target_from :], clean_up_tokenization_spaces=False)
    return f"{before}{OPEN}{trained}{CLOSE}"
