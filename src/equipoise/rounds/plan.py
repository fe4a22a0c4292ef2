"""The plan of a run, as data: which stages, with which settings, after which others.

Every setting of every stage is checked here, before anything runs. Round k answers prompts with the policy of
round k − 1, has the answers labelled, trains reward and cost models on all labels so far (from the SFT policy;
those with adapters on the actor's base from the policy of round k − 1), runs PPO-Lag from the policy of round
k − 1, and attacks the result; what breaks it joins the prompts of round k + 1, never the evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from equipoise.annotate.config import AggregateConfig, SimulateConfig
from equipoise.config import Config, merge, validate
from equipoise.data.source import DataSource
from equipoise.errors import ConfigError
from equipoise.evaluate.config import EvaluateConfig
from equipoise.redteam.config import RedteamConfig
from equipoise.report.config import ReportConfig, ReportRound
from equipoise.rollout.config import RespondConfig
from equipoise.rounds.config import SFT, GatherConfig, PrepareConfig, RoundConfig, RunConfig, Tree
from equipoise.train.config import CostConfig, RewardConfig, SftConfig
from equipoise.train.ppo_config import PpoLagConfig

WORLD, REPORT = "world", "report"
CLOUD = 400
"""Held-out prompts in a reward–cost cloud."""
Sources = list[Tree]


class Stage(NamedTuple):
    """A stage as a plan needs it: named, so that planning imports no torch."""

    function: str
    config: type[Config]
    table: str = ""  # its name among the settings of a run, where it can be spread over processes


GATHER = Stage("equipoise.rounds.prepare:gather", GatherConfig)
TRAIN_SFT = Stage("equipoise.train.sft:train_sft", SftConfig, "sft")
RESPOND = Stage("equipoise.rollout.respond:respond", RespondConfig)
SIMULATE = Stage("equipoise.annotate.simulate:simulate", SimulateConfig)
AGGREGATE = Stage("equipoise.annotate.aggregate:aggregate", AggregateConfig)
REWARD = Stage("equipoise.train.score_model:train_reward", RewardConfig, "reward")
COST = Stage("equipoise.train.score_model:train_cost", CostConfig, "cost")
PPO_LAG = Stage("equipoise.train.ppo_lag:train_ppo_lag", PpoLagConfig, "ppo_lag")
REDTEAM = Stage("equipoise.redteam.redteam:redteam", RedteamConfig)
EVALUATE = Stage("equipoise.evaluate.evaluate:evaluate", EvaluateConfig)
MAKE_REPORT = Stage("equipoise.report.report:report", ReportConfig)


@dataclass(frozen=True)
class Step:
    """One stage run."""

    name: str  # also its directory inside the run's
    function: str  # package.module:function
    config: Config
    after: tuple[str, ...]  # names of the steps whose directories it reads
    spread: bool = False  # whether it takes all processes of the run


class Plan:
    """Steps in an order in which each comes after what it reads."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.steps: list[Step] = []

    def add(self, name: str, stage: Stage, tree: Tree, after: Sequence[str]) -> Path:
        """Check the settings of a stage and append it.

        Args:
            name: Of the step, and its directory inside the run's.
            stage: What runs.
            tree: Its settings; `out` and `seed` come from the run where they are not among them.
            after: Names of the steps that it reads.

        Returns:
            Its directory.

        Raises:
            ConfigError: A setting is wrong, or there is such a step; names the step.
        """
        if name in [step.name for step in self.steps]:
            raise ConfigError(f"Two steps would write to {name}.", fix="Give one of the variants another name.")
        out = self.path(name)
        wired = {"out": out, **({"seed": self.config.seed} if "seed" in stage.config.model_fields else {})}
        self.steps.append(
            Step(
                name,
                stage.function,
                validate(stage.config, merge([wired, tree]), where=f"step {name}"),
                tuple(after),
                stage.table in self.config.spread,
            )
        )
        return out

    def path(self, name: str) -> Path:
        """Where a step writes."""
        return self.config.out / name


def make_plan(config: RunConfig) -> list[Step]:
    """All steps of a run.

    Raises:
        ConfigError: A setting is wrong, or the recipe names no data.
    """
    plan = Plan(config)
    data = find_data(config)
    sft, source = first_policy(plan, data)
    policy, policies = sft, {SFT: _answer_held_out(plan, SFT, sft, data, source)}
    starts = {kind: Start(sft, []) for kind in ("reward", "cost")}
    done: list[ReportRound] = []
    hits: list[str] = []  # steps whose prompts broke an earlier policy
    pairs: Sources = []  # labels of all rounds so far …
    labelled = list(source)  # … and the steps that reward and cost models wait for
    for k, own in enumerate(config.rounds, start=1):
        name = f"round-{k}"
        training, gathered = _gather(plan, name, data, hits)
        preferences = None
        if own.preferences:
            judged: Sources = [given.model_dump() for given in own.preferences]
            pairs += judged
        else:
            preferences = label_answers(plan, name, own, policy, training, [*source, *gathered])
            judged = [file_source(preferences, "safety.jsonl")]
            pairs.append(file_source(preferences, "pairs.jsonl"))
            labelled.append(f"{name}/preferences")
        rl = merge([config.ppo_lag, own.ppo_lag])
        judges: dict[str, Path] = {}
        for kind, stage, settings in (
            ("reward", REWARD, [config.reward, own.reward]),
            ("cost", COST, [config.cost, own.cost]),
        ):
            start = _start_of(merge(settings), rl, starts[kind], Start(policy, source), name)
            tree = merge([*settings, {"model": start.folder, "pairs": list(pairs)}])
            judges[kind] = plan.add(f"{name}/{kind}", stage, tree, [*labelled, *start.after])
            if config.go_on:
                starts[kind] = Start(judges[kind], [f"{name}/{kind}"])
        reward, cost = judges["reward"], judges["cost"]
        labels = judged if config.limit_from == "labels" else None
        wired = wire_ppo_lag(rl, data, policy, reward=reward, cost=cost, prompts=training, limit_from=labels)
        policy = plan.add(
            f"{name}/policy",
            PPO_LAG,
            wired,
            [f"{name}/reward", f"{name}/cost", *source, *gathered],
        )
        source = [f"{name}/policy"]
        policies[name] = _answer_held_out(plan, name, policy, data, source)
        done.append(ReportRound(name=name, ppo_lag=policy, labels=preferences, reward=reward, cost=cost))
        if k < len(config.rounds):
            hits.append(_attack(plan, name, own, policy, data, training))
    given = [source.model_dump() for own in config.rounds for source in own.preferences or ()]
    trained_on = [*training, *data.demonstrations, *data.ptx, *data.validation, *given]
    _judge(plan, policies, done, data, sft, trained_on)
    return plan.steps


class Start(NamedTuple):
    """What a reward or cost model is trained from."""

    folder: Path
    after: list[str]  # the steps that make it


def _start_of(judge: Tree, rl: Tree, own: Start, policy: Start, where: str) -> Start:
    """The model's own start; of an adapter that shares its round's base, the merged policy that RL starts from.

    With a base for each round the reference is the base as it is, and no round uses up another's rank.
    """
    if judge.get("lora") is None or rl.get("lora") is None or not rl["lora"].get("share", True):
        return own
    if own.after:
        raise ConfigError(
            "A score model cannot go on from the last round's and share its round's base with the policy.",
            where=f"{where}: go_on = true, lora",
            why="an adapter fits the weights that it was trained on, and each round has a base of its own",
            fix="Set go_on = false, or ppo_lag.lora.share = false.",
        )
    return policy


@dataclass(frozen=True)
class Data:
    """Where the run's data comes from: the recipe, or what `prepare` makes."""

    model: Path | None
    demonstrations: Sources
    ptx: Sources
    prompts: Sources
    validation: Sources
    held_out: Sources
    wrappers: Path | None
    after: tuple[str, ...]  # the step that makes it, if any


def find_data(config: RunConfig) -> Data:
    """Where a recipe's data comes from.

    Raises:
        ConfigError: The recipe names no data.
    """
    world = config.out / WORLD if config.prepare else None

    def sources(given: Sequence[DataSource], name: str) -> Sources:
        default = [file_source(world, name)] if world else []
        return [source.model_dump() for source in given] or default

    data = Data(
        model=config.model or (world / "base" if world else None),
        demonstrations=sources(config.demonstrations, "demonstrations.jsonl"),
        ptx=sources(config.ptx, "ptx.jsonl"),
        prompts=sources(config.prompts, "prompts.jsonl"),
        validation=sources(config.validation, "validation.jsonl"),
        held_out=sources(config.held_out, "heldout.jsonl"),
        wrappers=config.wrappers or (world / "wrappers.jsonl" if world else None),
        after=(WORLD,) if world else (),
    )
    for name in ("prompts", "held_out", *([] if config.policy else ["demonstrations", "model"])):
        if not getattr(data, name):
            raise ConfigError(f"The recipe gives no {name}.", fix=f"Add `{name} = …` to the recipe.")
    return data


def wire_ppo_lag(
    rl: Tree, data: Data, actor: Path, *, reward: Path, cost: Path, prompts: Sources, limit_from: Sources | None
) -> Tree:
    """The settings of PPO-Lag, with those that come from earlier steps.

    Args:
        rl: What the recipe says.
        data: Of the run: tells the text of PTX and the prompts to validate on.
        actor: The policy to start from.
        reward: Reward model.
        cost: Cost model.
        prompts: To answer.
        limit_from: Labels that say where safe ends on the cost model's scale, if there is a limit; None leaves its
            zero.
    """
    has_limit = rl.get("constraint", {}).get("type") not in ("fixed", "none")
    wired = {
        "actor": actor,
        "reward": {"type": "model", "path": reward},
        "cost": {"type": "model", "path": cost},
        "prompts": prompts,
        "ptx": data.ptx,
        **({"validation": {"prompts": data.validation}} if data.validation else {}),
        **({"limit_from": limit_from} if limit_from is not None and has_limit else {}),
    }
    return merge([rl, wired])


def first_policy(plan: Plan, data: Data) -> tuple[Path, list[str]]:
    """The policy before round 1 and the steps that make it."""
    config = plan.config
    if config.prepare:
        plan.steps.append(
            Step(
                WORLD,
                "equipoise.rounds.prepare:prepare",
                PrepareConfig(
                    out=plan.path(WORLD),
                    seed=config.seed,
                    function=config.prepare,
                    settings=config.prepare_settings,
                ),
                (),
            )
        )
    if config.policy:
        return config.policy, list(data.after)
    wired = {"model": data.model, "demonstrations": data.demonstrations}
    return plan.add(SFT, TRAIN_SFT, merge([config.sft, wired]), data.after), [SFT, *data.after]


def _answer_held_out(plan: Plan, name: str, policy: Path, data: Data, after: Sequence[str]) -> Path:
    wired = {"policy": policy, "prompts": data.held_out, "name": name}
    return plan.add(
        f"held-out/{name}", RESPOND, merge([plan.config.held_out_respond, wired]), [*after, *data.after]
    )


def _gather(plan: Plan, name: str, data: Data, attacks: Sequence[str]) -> tuple[Sources, Sequence[str]]:
    """The prompts of a round: the run's, and what broke earlier policies; and the steps that they come from."""
    if not attacks:
        return data.prompts, data.after
    step = f"{name}/prompts"
    tree = {"prompts": data.prompts, "attacks": [plan.path(attack) for attack in attacks]}
    return [file_source(plan.add(step, GATHER, tree, [*data.after, *attacks]), "prompts.jsonl")], [step]


def label_answers(
    plan: Plan, name: str, own: RoundConfig, policy: Path, prompts: Sources, after: Sequence[str]
) -> Path:
    """Answers of the newest policy, labelled."""
    config = plan.config
    wired = {"policy": policy, "prompts": prompts, "name": name}
    responses = plan.add(f"{name}/responses", RESPOND, merge([config.respond, own.respond, wired]), after)
    asked = merge([config.simulate, own.simulate, {"responses": [responses]}])
    labels = plan.add(f"{name}/labels", SIMULATE, asked, [f"{name}/responses"])
    return plan.add(f"{name}/preferences", AGGREGATE, {"labels": [labels]}, [f"{name}/labels"])


def _attack(plan: Plan, name: str, own: RoundConfig, policy: Path, data: Data, training: Sources) -> str:
    config = plan.config
    wired = {
        "policy": policy,
        "cost": {"type": "model", "path": plan.path(f"{name}/cost")},
        "prompts": data.prompts,
        "exclude": [*data.validation, *data.held_out],
        "known": training,
        **({"wrappers": data.wrappers} if data.wrappers else {}),
    }
    step = f"{name}/attacks"
    plan.add(step, REDTEAM, merge([config.redteam, own.redteam, wired]), [f"{name}/policy", f"{name}/cost"])
    return step


def _judge(
    plan: Plan,
    policies: dict[str, Path],
    rounds: Sequence[ReportRound],
    data: Data,
    sft: Path,
    trained_on: Sources,
) -> None:
    """Evaluation on the held-out answers, reward–cost clouds of the first and last policy, the report."""
    config, last = plan.config, rounds[-1]
    answered = [f"held-out/{name}" for name in policies]
    compared = {"policies": policies, "trained_on": trained_on}
    evaluation = plan.add("evaluation", EVALUATE, merge([config.evaluate, compared]), answered)
    clouds = {}
    for name, policy in ((SFT, sft), (last.name, last.ppo_lag)):
        wired = {
            "policy": policy,
            "prompts": data.held_out,
            "name": name,
            "limit": CLOUD,
            "keep": "evenly",
            "reward": {"type": "model", "path": last.reward},
            "cost": {"type": "model", "path": last.cost},
        }
        tree = merge([config.held_out_respond, wired])
        clouds[name] = plan.add(f"clouds/{name}", RESPOND, tree, [f"{last.name}/policy"])
    tree = {
        "evaluation": evaluation,
        "rounds": [r.model_dump() for r in rounds],
        "clouds": clouds,
        "title": config.title,
        "notes": config.notes,
    }
    plan.add(REPORT, MAKE_REPORT, tree, ["evaluation", *(f"clouds/{name}" for name in clouds)])


def file_source(folder: Path | None, name: str) -> Tree:
    """A file of a directory as a data source."""
    assert folder is not None
    return {"path": str(folder / name)}
