"""A labelling project with items whose answers a scripted judge can know, and people who labelled some of them."""

import random
from pathlib import Path

from equipoise.annotate.config import ProjectConfig
from equipoise.annotate.judge.config import EndpointSource, JudgeConfig
from equipoise.annotate.labels import Assignment, Item, RankingLabel, VerdictLabel
from equipoise.annotate.store.project import create_project, open_project
from equipoise.records import Prompt, Verdict

PEOPLE = ("ann", "bob", "cem")


def make_project(path: Path, items: list[Item]) -> Path:
    create_project(path, ProjectConfig(), now=0.0)
    with open_project(path) as store:
        store.add_items(items)
    return path


def make_items(count: int, responses: int = 2, seed: int = 0) -> list[Item]:
    """Responses with some "bomb" (unsafe), "!" (helpful) and "bad" (harmful) in them, of many lengths."""
    random_ = random.Random(seed)
    items = []
    for n in range(count):
        texts = [
            f"answer {n} {k}" + " word" * random_.randrange(20) + " bomb" * (random_.random() < 0.3)
            + " !" * random_.randrange(4) + " bad" * random_.randrange(3)
            for k in range(responses)
        ]  # fmt: skip
        items.append(Item(prompt=Prompt.from_text(f"question {n} ?"), responses=tuple(texts)))
    return items


def let_people_label(path: Path, items: list[Item], people: tuple[str, ...] = PEOPLE) -> None:
    """Everybody knows what the honest scripted judge knows."""
    with open_project(path) as store, store.transaction():
        store.add_labellers(people, "person")
        for item in items:
            unsafe = ["bomb" in text for text in item.responses]
            helpful = dense([-text.count("!") for text in item.responses])
            harmless = dense([(bad, text.count("bad")) for bad, text in zip(unsafe, item.responses, strict=True)])
            for name in people:
                store.assign([Assignment(item.id, name, tuple(range(len(item.responses))))])
                verdicts = [Verdict(is_safe=not bad, categories=("self_harm",) * bad) for bad in unsafe]
                labels = [VerdictLabel(item.id, name, at, verdict) for at, verdict in enumerate(verdicts)]
                rankings = [RankingLabel(item.id, name, "helpfulness", helpful)]
                rankings += [RankingLabel(item.id, name, "harmlessness", harmless)]
                store.add_labels([*labels, *rankings])


def dense(values: list) -> tuple[int, ...]:
    order = sorted(set(values))
    return tuple(order.index(value) for value in values)


def judge_config(path: Path, url: str, source: dict | None = None, **settings) -> JudgeConfig:
    more = {"retries": 2, "timeout": 5, **(source or {})}
    return JudgeConfig(project=path, source=EndpointSource(url=url, model="scripted", **more), **settings)


def labels_of(path: Path, name: str = "scripted") -> set:
    with open_project(path) as store:
        found = [*store.verdicts(), *store.rankings()]
        return {repr(label) for label in found if label.labeller == name}
