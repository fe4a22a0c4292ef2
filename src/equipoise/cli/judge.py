"""`equipoise annotate judge`: wires judges whose knowledge lies above the annotation package."""

from pathlib import Path

from equipoise import artefact
from equipoise.annotate.judge import run
from equipoise.annotate.judge.config import JudgeConfig, ScoresSource
from equipoise.annotate.judge.judge import Judge
from equipoise.annotate.judge.scores import ScoresJudge
from equipoise.annotate.store.judge_answers import Answers
from equipoise.cli.stages import needs_extra


def judge(config: JudgeConfig) -> Path:
    """See `annotate.judge.run.judge`; reward and cost models need torch."""
    return run.judge(config, open_scores)


def open_scores(config: JudgeConfig, answers: Answers) -> tuple[Judge, run.Settings]:
    """The judge made of a reward and a cost model, with what its answers depend on.

    Raises:
        ModelError: A directory holds no such model.
        EquipoiseError: torch is not installed.
    """
    source = config.source
    assert isinstance(source, ScoresSource)
    with needs_extra("annotate judge"):
        from equipoise.models.devices import pick_device
        from equipoise.rollout.config import ModelScore
        from equipoise.rollout.score import open_score_source
    identity: run.Settings = {"type": source.type, "max_length": source.max_length}
    scores = []
    for role, path in (("reward", source.reward), ("cost", source.cost)):
        identity[role] = artefact.fingerprint_of(path)
        setting = ModelScore(path=path, batch_size=source.batch_size, max_length=source.max_length)
        scores.append(open_score_source(setting, device=pick_device("auto")))
    reward, cost = scores
    return ScoresJudge(reward, cost, answers, identity), identity
