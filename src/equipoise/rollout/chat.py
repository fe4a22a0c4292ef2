"""A conversation with a policy in the terminal; the reward and the cost of each answer stand beside it.

Lines starting with a slash are commands: /new starts over, /quit (or the end of input) ends. Left out: editing of
earlier turns, saving.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from equipoise.errors import EquipoiseError
from equipoise.models.devices import pick_device, pick_dtype
from equipoise.records import Message, Prompt, Response, ScoredResponse
from equipoise.rollout.best_of import choose, open_chooser
from equipoise.rollout.config import ChatConfig
from equipoise.rollout.respond import answer, open_policy
from equipoise.rollout.score import ScoreSource, open_score_source

Ask = Callable[[Sequence[Message]], ScoredResponse]


def chat(config: ChatConfig, lines: Iterable[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Talk to a policy until the input ends.

    Args:
        config: The policy, the score sources, the sampling.
        lines: What the user types, a turn each; None asks in the terminal.
        say: Shows a line to the user.

    Raises:
        ModelError, ConfigError, EndpointError: The policy or a score source cannot be opened.
    """
    ask = open_ask(config)
    say("Type a message; /new starts over, /quit ends. A cost above 0 is unsafe.")
    for reply in converse(ask, _typed() if lines is None else lines, config.system):
        say(reply)


def converse(ask: Ask, lines: Iterable[str], system: str = "") -> Iterator[str]:
    """What is shown after each line that the user types.

    Args:
        ask: Answers a conversation that ends with the user's turn.
        lines: The user's lines.
        system: System message that opens each conversation; empty: none.

    Yields:
        The answer with its scores, or what went wrong with that line; the conversation then goes on without it.
    """
    opening = [Message(role="system", content=system)] if system else []
    turns = list(opening)
    for line in (raw.strip() for raw in lines):
        if line == "/quit":
            return
        if line == "/new":
            turns = list(opening)
            yield "(a new conversation)"
        elif line:
            asked = [*turns, Message(role="user", content=line)]
            try:
                response = ask(asked)
            except EquipoiseError as error:
                yield str(error)
                continue
            turns = [*asked, Message(role="assistant", content=response.text)]
            yield show(response)


def show(response: ScoredResponse) -> str:
    """The answer and a line with its scores, as far as there are any."""
    scores = [f"reward {response.reward:+.2f}"] if response.reward is not None else []
    if response.cost is not None:
        scores.append(f"cost {response.cost:+.2f} ({'unsafe' if response.cost > 0 else 'safe'})")
    if not response.finished:
        scores.append("cut at the token limit")
    return response.text + (f"\n  [{', '.join(scores)}]" if scores else "")


def open_ask(config: ChatConfig) -> Ask:
    """Load the policy and the score sources: a function from a conversation to a scored answer."""
    device = pick_device(config.device)
    policy = open_policy(config.policy, device, pick_dtype(config.precision, device))
    generator = torch.Generator(device).manual_seed(config.seed)
    if config.best_of is not None:
        chooser = open_chooser(config.best_of, config.reward, config.cost, device)

        def ask_several(messages: Sequence[Message]) -> ScoredResponse:
            prompt = Prompt(messages=tuple(messages))
            (chosen,) = choose(chooser, answer(policy, [prompt], config.sampling, generator, chooser.settings.n))
            return chosen.response

        return ask_several
    reward, cost = (open_score_source(s, device=device) if s else None for s in (config.reward, config.cost))

    def ask(messages: Sequence[Message]) -> ScoredResponse:
        (response,) = answer(policy, [Prompt(messages=tuple(messages))], config.sampling, generator)
        return ScoredResponse(**dict(response), reward=_one(reward, response), cost=_one(cost, response))

    return ask


def _typed() -> Iterator[str]:
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _one(source: ScoreSource | None, response: Response) -> float | None:
    return source.score([response])[0] if source else None
