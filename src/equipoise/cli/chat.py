"""`equipoise chat`: a conversation with a policy in the terminal, each answer with its reward and cost."""

from collections.abc import Mapping

import torch
from rich.console import Console

from equipoise.errors import EquipoiseError
from equipoise.models.devices import pick_device, pick_dtype
from equipoise.records import Message, Prompt, Response
from equipoise.rollout.config import ChatConfig
from equipoise.rollout.respond import answer, open_policy
from equipoise.rollout.score import ScoreSource, open_score_source

AGAIN = "/new"


def chat(config: ChatConfig) -> None:
    """Read a line, answer it, show its scores; end with Ctrl-D.

    Raises:
        ModelError, ConfigError, EndpointError: The policy or a score source cannot be opened.
    """
    device = pick_device(config.device)
    policy = open_policy(config.policy, device, pick_dtype(config.precision, device))
    named = {"reward": config.reward, "cost": config.cost}
    sources = {name: open_score_source(source, device=device) for name, source in named.items() if source}
    generator = torch.Generator(device).manual_seed(config.seed)
    start = (Message(role="system", content=config.system),) if config.system else ()
    turns: tuple[Message, ...] = start
    console = Console(highlight=False)
    console.print(f"{policy.name} on {device}. {AGAIN} starts over, Ctrl-D ends.", markup=False)
    while (text := _read_line()) is not None:
        if text == AGAIN:
            turns = start
            continue
        if not text:
            continue
        asked = (*turns, Message(role="user", content=text))
        try:
            (response,) = answer(policy, [Prompt(messages=asked)], config.sampling, generator)
            console.print(f"{policy.name}: {response.text}", markup=False)
            console.print(_scores(response, sources), style="dim", markup=False)
        except EquipoiseError as error:  # too long, or an endpoint that is down: the conversation goes on
            console.print(str(error), style="red", markup=False)
            continue
        turns = (*asked, Message(role="assistant", content=response.text))


def _read_line() -> str | None:
    try:
        return input("you: ").strip()
    except EOFError:
        return None


def _scores(response: Response, sources: Mapping[str, ScoreSource]) -> str:
    """Reward and cost of an answer; cost > 0 is unsafe."""
    values = {name: source.score([response])[0] for name, source in sources.items()}
    said = [f"{name} {value:+.3f}" for name, value in values.items()]
    if "cost" in values:
        said.append("unsafe" if values["cost"] > 0 else "safe")
    return "  ".join([*said, *([] if response.finished else ["cut at the token limit"])])
