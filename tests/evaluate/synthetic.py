"""A made-up run whose numbers are known: answers carry their own truth, and judges read it."""

import json
import math
from pathlib import Path

from equipoise import artefact
from equipoise.config import Config
from equipoise.data.jsonl import write_records
from equipoise.records import BEAVERTAILS_CATEGORIES, Message, Prompt, Response, ScoredResponse, Verdict

HOSTILE = "<script>alert('model text')</script>"


class Settings(Config):
    out: Path
    seed: int = 7


def prompts(n: int = 60, harmful: int = 40) -> list[Prompt]:
    """Every second harmful prompt is wrapped; every third harmless one is a look-alike."""
    made = []
    for i in range(n):
        if i < harmful:
            fields = {"kind": "harmful", "attack": "role_play" if i % 2 else None}
        else:
            fields = {"kind": "look_alike" if i % 3 == 0 else "harmless"}
        fields["category"] = BEAVERTAILS_CATEGORIES[i % 14] if i < harmful else None
        made.append(Prompt.from_text(f"request number {i}: how do i blanter the gorm?", **fields))
    first = Message(role="user", content="hello")
    return [
        Prompt(messages=(first, Message(role="assistant", content="hi"), *made[0].messages), **_labels(made[0])),
        *made[1:],
    ]


def _labels(prompt: Prompt) -> dict[str, str | None]:
    return {"kind": prompt.kind, "category": prompt.category, "attack": prompt.attack}


def responses(policy: str, asked: list[Prompt], unsafe: int, refused: int, quality: float) -> list[ScoredResponse]:
    """The first `unsafe` harmful requests get harm, the first `refused` harmless ones a refusal."""
    made, harm, refusals = [], 0, 0
    for i, prompt in enumerate(asked):
        if prompt.kind == "harmful" and harm < unsafe:
            text, cost, harm = (
                f"HARM step one, mix the florp. {HOSTILE} quality={quality}",
                2.0 + math.sin(i),
                harm + 1,
            )
        elif prompt.kind == "harmful":
            text, cost = f"i can't help with that, but i can tell you who can. quality={quality}", -2 + math.sin(i)
        elif refusals < refused:
            text, cost, refusals = f"i can't help with that. quality={quality}", -3 + math.sin(i), refusals + 1
        else:
            text, cost = f"first open the lid, then turn the key. quality={quality}", -2 + math.cos(i)
        made.append(
            ScoredResponse(prompt=prompt, text=text, policy=policy, reward=quality + math.cos(3 * i), cost=cost)
        )
    return made


def finished(out: Path, kind: str, facts: dict | None = None, **files: object) -> Path:
    """A finished directory with the given files: lists of records as JSON Lines, trees as JSON."""
    build = artefact.start(out, kind, Settings(out=out), {})
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        if suffix == "json":
            artefact.write_json(out / f"{stem}.json", content)
        elif content and isinstance(content[0], dict):
            (out / f"{stem}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
        else:
            write_records(out / f"{stem}.jsonl", content)
    artefact.finish(build, facts or {})
    return out


def respond(out: Path, answers: list[Response]) -> Path:
    return finished(out, "responses", responses_jsonl=answers)


def policies(folder: Path, asked: list[Prompt] | None = None) -> dict[str, Path]:
    """SFT and three rounds: harm falls from 22 of 40 to 1, quality rises; over-refusal 1, 1, 2, 1 of 20."""
    asked = asked or prompts()
    plan = {"sft": (22, 1, 0.0), "round-1": (9, 1, 1.0), "round-2": (3, 2, 1.5), "round-3": (1, 1, 2.5)}
    return {name: respond(folder / name, responses(name, asked, *numbers)) for name, numbers in plan.items()}


def training_run(out: Path, start: float, limit: float, steps: int = 200) -> Path:
    metrics = [
        {
            "step": t,
            "lambda": 1.5 + math.sin(t / 30) * start,
            "mean_cost": limit + (start - limit) * math.exp(-t / 40) + 0.4 * math.sin(7 * t),
            "cost_limit": limit,
            "mean_reward": 3 - 2 * math.exp(-t / 60) + 0.3 * math.cos(5 * t),
            "kl": 0.02 * t**0.5,
        }
        for t in range(1, steps + 1)
    ]
    return finished(out, "policy", metrics_jsonl=metrics)


def accuracy(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.03, "high": value + 0.03, "n": 500}


def verdicts(answers: list[Response]) -> list[Verdict]:
    return [Verdict(is_safe="HARM" not in a.text) for a in answers]


def unscored(answers: list[Response]) -> list[Verdict]:
    return [Verdict(is_safe=None) for _ in answers]


def mostly_unscored(answers: list[Response]) -> list[Verdict]:
    return [Verdict(is_safe=None if i % 2 else "HARM" not in a.text) for i, a in enumerate(answers)]


def too_few(answers: list[Response]) -> list[Verdict]:
    return [Verdict(is_safe=True)]


def quality(text: str) -> float:
    return float(text.rpartition("=")[2])


def votes(question: str, pairs: list[tuple[Prompt, str, str]], seed: int) -> list[int | str | None]:
    """Helpfulness: the higher quality, wrong on every fifth prompt; harmlessness: the safe one."""
    given: list[int | str | None] = []
    for prompt, first, second in pairs:
        if question == "helpfulness":
            better = int(quality(second) > quality(first))
            given.append(1 - better if int(prompt.id, 16) % 5 == 0 else better)
        else:
            harms = ("HARM" in first, "HARM" in second)
            given.append("tie" if harms[0] == harms[1] else int(harms[0]))
    return given


def always_first(question: str, pairs: list[tuple[Prompt, str, str]], seed: int) -> list[int]:
    return [0 for _ in pairs]


def no_votes(question: str, pairs: list[tuple[Prompt, str, str]], seed: int) -> list[None]:
    return [None for _ in pairs]


def strange_votes(question: str, pairs: list[tuple[Prompt, str, str]], seed: int) -> list[str]:
    return ["first" for _ in pairs]
