"""The table of stages: what a command is called, which settings it has, and which function it runs.

Configs and functions are named by strings, so that `--help` imports none of them. Commands that take a few plain
arguments instead of a config are in `main`.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from equipoise.config import Config
from equipoise.errors import EquipoiseError


class Stage(NamedTuple):
    """One command that runs one stage function."""

    command: tuple[str, ...]
    config: str
    run: str
    help: str
    place: str = ""
    """The setting that a word which is no TOML file stands for."""

    @property
    def name(self) -> str:
        """The command as it is typed."""
        return " ".join(self.command)

    @property
    def table(self) -> str:
        """The table that a recipe for several stages keeps this stage's settings in."""
        return "_".join(self.command).replace("-", "_")

    def load_config(self) -> type[Config]:
        """Import the settings; no torch."""
        return cast("type[Config]", _load(self.config))

    def load_run(self) -> Callable[[Any], Path | int | None]:
        """Import the stage function, with torch where it needs it; an int that it returns is the exit status.

        Raises:
            EquipoiseError: It needs a package of an extra that is not installed.
        """
        with needs_extra(self.name):
            return cast("Callable[[Any], Path | int | None]", _load(self.run))


@contextmanager
def needs_extra(command: str) -> Iterator[None]:
    """Turn a missing package of the extra `train` into words.

    Raises:
        EquipoiseError: Names the package and what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in TRAIN_EXTRA:
            raise
        raise EquipoiseError(
            f"`equipoise {command}` needs {error.name}, which is not installed.",
            why="The base installation labels, checks and reports; models need the extra `train`.",
            fix="pip install 'equipoise[train]'",
        ) from error


TRAIN_EXTRA = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors")

STAGES: tuple[Stage, ...] = (
    Stage(
        ("sft",),
        "equipoise.train.config:SftConfig",
        "equipoise.train.sft:train_sft",
        "Demonstrations → a policy, by supervised fine-tuning.",
    ),
    Stage(
        ("respond",),
        "equipoise.rollout.config:RespondConfig",
        "equipoise.rollout.respond:respond",
        "Prompts and a policy → several responses per prompt.",
    ),
    Stage(
        ("score",),
        "equipoise.rollout.stored_config:ScoreConfig",
        "equipoise.train.rescore:score_stored",
        "Stored responses → the same with rewards and costs.",
    ),
    Stage(
        ("data", "pairs"),
        "equipoise.rollout.stored_config:PairsConfig",
        "equipoise.rollout.pairs:make_pairs",
        "Scored responses → preference pairs by r − λc, with λ given or found.",
    ),
    Stage(
        ("data", "select"),
        "equipoise.rollout.stored_config:SelectConfig",
        "equipoise.rollout.select:select",
        "Responses → demonstrations of the safe ones, or of the best within the cost limit.",
    ),
    Stage(
        ("annotate", "create"),
        "equipoise.annotate.config:CreateConfig",
        "equipoise.annotate.project:create",
        "Begin a labelling project in a new directory.",
        place="project",
    ),
    Stage(
        ("annotate", "serve"),
        "equipoise.cli.annotate:ServeProjectConfig",
        "equipoise.cli.annotate:serve",
        "The labelling web app of a project, on this machine unless told otherwise.",
        place="project",
    ),
    Stage(
        ("annotate", "export"),
        "equipoise.annotate.config:ExportConfig",
        "equipoise.annotate.files.export:export",
        "A project → preferences to train from, every single label, and where each comes from.",
        place="project",
    ),
    Stage(
        ("annotate", "simulate"),
        "equipoise.annotate.config:SimulateConfig",
        "equipoise.annotate.simulate:simulate",
        "Responses → labels by simulated labellers, in a labelling store.",
    ),
    Stage(
        ("annotate", "judge"),
        "equipoise.annotate.judge.config:JudgeConfig",
        "equipoise.cli.judge:judge",
        "A judge model answers a labelling project's items; its card says how far to trust it.",
        place="project",
    ),
    Stage(
        ("aggregate",),
        "equipoise.annotate.config:AggregateConfig",
        "equipoise.annotate.aggregate:aggregate",
        "A labelling store → preference pairs and safety labels.",
    ),
    Stage(
        ("reward",),
        "equipoise.train.config:RewardConfig",
        "equipoise.train.score_model:train_reward",
        "Helpfulness preferences → a reward model.",
    ),
    Stage(
        ("cost",),
        "equipoise.train.config:CostConfig",
        "equipoise.train.score_model:train_cost",
        "Harm preferences and safety labels → a cost model; cost > 0 is unsafe.",
    ),
    Stage(
        ("ppo-lag",),
        "equipoise.train.ppo_config:PpoLagConfig",
        "equipoise.train.ppo_lag:train_ppo_lag",
        "A policy, reward and cost → a policy that is helpful within the cost limit.",
    ),
    Stage(
        ("merge",),
        "equipoise.models.config:MergeConfig",
        "equipoise.models.merge:merge",
        "Policies of one architecture and weights → the policy between them.",
    ),
    Stage(
        ("direct",),
        "equipoise.train.direct_config:DirectConfig",
        "equipoise.train.direct:train_direct",
        "A policy and preference pairs → a policy, without reward model or sampling (DPO, SafeDPO, MODPO).",
    ),
    Stage(
        ("redteam",),
        "equipoise.redteam.config:RedteamConfig",
        "equipoise.redteam.redteam:redteam",
        "A policy and a judge → prompts that break the policy.",
    ),
    Stage(
        ("evaluate",),
        "equipoise.evaluate.config:EvaluateConfig",
        "equipoise.evaluate.evaluate:evaluate",
        "Policies and held-out prompts, or files of judgements → harm, refusal and Elo numbers.",
    ),
    Stage(
        ("evaluate-models",),
        "equipoise.evaluate.preference.config:ModelsConfig",
        "equipoise.evaluate.preference.run:evaluate_models",
        "Reward and cost models, and labels → accuracy, calibration, length bias.",
    ),
    Stage(
        ("gate",),
        "equipoise.evaluate.gate_config:GateConfig",
        "equipoise.cli.gate:gate",
        "Held-out verdicts and a limit → pass, fail or not enough evidence, as exit status 0, 1 or 3.",
    ),
    Stage(
        ("report",),
        "equipoise.report.config:ReportConfig",
        "equipoise.report.report:report",
        "Evaluations and runs → one HTML page.",
    ),
    Stage(
        ("ship",),
        "equipoise.ship.config:ShipConfig",
        "equipoise.ship.ship:ship",
        "A policy, its evaluation, a gate → a model folder with its card.",
    ),
    Stage(
        ("round",),
        "equipoise.rounds.config:RunConfig",
        "equipoise.rounds.run:run_rounds",
        "A recipe of stages → all of them, skipping what is finished.",
    ),
    Stage(
        ("study",),
        "equipoise.rounds.config:StudyConfig",
        "equipoise.rounds.study:run_study",
        "A recipe and variants of its first round → their numbers, from one shared beginning.",
    ),
    Stage(
        ("playground", "build"),
        "equipoise.playground.config:WorldConfig",
        "equipoise.playground.world:build",
        "Nothing → an offline world: model, tokenizer, demonstrations, prompts.",
    ),
    Stage(
        ("chat",),
        "equipoise.rollout.config:ChatConfig",
        "equipoise.rollout.chat:chat",
        "Talk to a policy; reward and cost shown live.",
    ),
    Stage(
        ("serve",),
        "equipoise.rollout.config:ServeConfig",
        "equipoise.rollout.serve:serve",
        "A policy → an OpenAI-compatible endpoint.",
    ),
)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
