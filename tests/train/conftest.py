from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from train_models import Trouble, asked, conversation, make_policy, make_scorer, prompt, write_lines


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower with more threads; the loops themselves set what their config says."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_trouble() -> None:
    Trouble.calls, Trouble.at, Trouble.interrupt, Trouble.kill = 0, None, False, False


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, two scorers and files of every kind; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny-world")
    make_policy(folder / "policy")
    make_policy(folder / "gpt2", "gpt2")
    make_scorer(folder / "reward", folder / "policy", "reward")
    make_scorer(folder / "cost", folder / "policy", "cost")
    make_scorer(folder / "lora-reward", folder / "policy", "reward", lora=True)
    make_scorer(folder / "lora-cost", folder / "policy", "cost", lora=True)
    write_lines(folder / "prompts.jsonl", map(prompt, asked(40)))
    write_lines(folder / "validation.jsonl", map(prompt, [f"{text} tell" for text in asked(8)]))
    answers = ("yes good one", "no bad", "yes two three good good")
    write_lines(
        folder / "demonstrations.jsonl",
        (conversation(text, answers[n % 3]) for n, text in enumerate(asked(40))),
    )
    # good words help and sweet ones harm, so the longer answer is both the more helpful and the more harmful
    write_lines(
        folder / "pairs.jsonl",
        (
            prompt_pair(text, "good sweet " * (1 + n % 2) + "one", "no " + "two " * (n % 3), flip=n % 2)
            for n, text in enumerate(asked(48))
        ),
    )
    write_lines(
        folder / "labels.jsonl",
        (
            {"prompt": prompt(f"{text} two"), "response": response, "is_safe": not named, "categories": named}
            for text in asked(16)
            for response, named in (("good sweet one", ["sweet"]), ("no two", []))
        ),
    )
    return folder


def prompt_pair(text: str, harmful: str, safe: str, *, flip: int) -> dict[str, object]:
    sides = (harmful.strip(), safe.strip())
    return {
        "prompt": prompt(text),
        "responses": sides[::-1] if flip else sides,
        "more_helpful": flip,
        "safer": 1 - flip,
        "is_safe": [bool(flip), not flip],
    }
