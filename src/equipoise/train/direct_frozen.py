"""What frozen models say of the pairs, asked once before training: the reference, and MODPO's other objective.

Neither is needed during training, so neither stays in memory. A resumed run asks again.
"""

from collections.abc import Iterable, Sequence

from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.errors import ConfigError
from equipoise.models.backbone import check_fit, load_causal_lm
from equipoise.models.devices import pick_dtype
from equipoise.models.score_head import read_head_settings
from equipoise.records import Response
from equipoise.rollout.config import ModelScore
from equipoise.rollout.score import open_score_source
from equipoise.tokens.collate import Example
from equipoise.tokens.template import load_tokenizer, same_tokens
from equipoise.train.direct_config import DirectConfig, Modpo
from equipoise.train.direct_pairs import Group, Item, Tokenized
from equipoise.train.forward import sequence_log_probs
from equipoise.train.memory import SCORING, memory_for
from equipoise.train.processes import gather, share
from equipoise.train.sharded import load_device, shard_network, shard_source, whole


def check_frozen(config: DirectConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Find out before a model loads whether reference and scorer are what they have to be.

    Raises:
        ConfigError: The reference has another tokenizer, or a reward model is where a cost model belongs.
        ModelError: There is no such model.
    """
    if config.ref is not None and not same_tokens(load_tokenizer(config.ref), tokenizer):
        raise ConfigError(
            "The reference reads other tokens than the policy writes.",
            where=str(config.ref),
            why="both give the log-probability of the same tokens",
            fix="Name a reference with the policy's tokenizer in ref, or leave it unset: the start.",
        )
    method = config.method
    if isinstance(method, Modpo) and isinstance(method.other, ModelScore):
        wanted = "cost" if method.by == "helpfulness" else "reward"
        if (kind := read_head_settings(method.other.path).kind) != wanted:
            raise ConfigError(
                f"The other objective is to be a {wanted} model, and this is a {kind} model.",
                where=f"method.other.path = {method.other.path}",
                why=f"the pairs are by {method.by}, so the scores have to be the other of the two",
                fix="Check which directory is which; score_head.json says what a model is.",
            )


def score_other(
    groups: Sequence[Tokenized], config: DirectConfig, accelerator: Accelerator, mesh: DeviceMesh | None
) -> list[Tokenized]:
    """The groups with Δ_other of each pair as its gap; other methods' groups come back as they are.

    Δ_other = s(winner) − s(loser), s a reward or a cost with its sign turned.

    Raises:
        EquipoiseError: The scorer cannot be loaded or asked, or gives a number that is not finite.
    """
    method = config.method
    if not isinstance(method, Modpo):
        return list(groups)
    dtype = pick_dtype(config.hardware.precision, accelerator.device)
    source = open_score_source(method.other, device=load_device(accelerator.device, mesh), dtype=dtype)
    answers = [Response(prompt=one.group.prompt, text=text) for one in groups for text in one.group.texts]
    with memory_for("asking for the other objective's scores", SCORING):
        mine = shard_source(source, mesh).score(share(answers, accelerator))
    sign = -1.0 if method.by == "helpfulness" else 1.0  # a cost is a reward with its sign turned
    scores = iter(gather([sign * score for score in mine], accelerator))
    return [one._replace(group=_with_gaps(one.group, [next(scores) for _ in one.answers])) for one in groups]


def _with_gaps(group: Group, scores: Sequence[float]) -> Group:
    return group._replace(
        pairs=tuple(one._replace(gap=scores[one.winner] - scores[one.loser]) for one in group.pairs)
    )


def ask_reference(
    start: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Tokenized],
    config: DirectConfig,
    accelerator: Accelerator,
    mesh: DeviceMesh | None,
) -> list[Item]:
    """The groups with ln π_ref of each response.

    Args:
        start: The policy before its first step, which is the reference where the settings name none; an adapter in
            it changes nothing yet.
        tokenizer: Of both.
        groups: All, those held out as well.
        config: Names the reference.
        accelerator: Each process asks for its share.
        mesh: As in `shard_network`.

    Raises:
        ModelError: There is no such reference, or the longest response does not fit in it.
        TrainingError: The device ran out of memory.
    """
    ref = start if config.ref is None else _load_reference(config, tokenizer, groups, accelerator, mesh)
    answers = [answer for one in groups for answer in one.answers]
    with memory_for("computing the reference's log-probabilities", SCORING), whole(ref):
        values = iter(shared_log_probs(ref, tokenizer, answers, config, accelerator))
    return [Item(one, tuple(next(values) for _ in one.answers)) for one in groups]


def shared_log_probs(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    answers: Sequence[Example],
    config: DirectConfig,
    accelerator: Accelerator,
) -> list[float]:
    """`sequence_log_probs` of all responses, each process asking for its share; the same list in every one."""
    mine, size = share(answers, accelerator), 2 * (config.micro_batch or config.batch_size)
    values = sequence_log_probs(model, tokenizer, mine, accelerator.device, size, config.micro_tokens)
    return gather(values, accelerator)


def longest(groups: Iterable[Tokenized]) -> int:
    """Tokens of the longest prompt with its response."""
    return max(one.shape.length for one in groups)


def _load_reference(
    config: DirectConfig,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Tokenized],
    accelerator: Accelerator,
    mesh: DeviceMesh | None,
) -> PreTrainedModel:
    assert config.ref is not None
    dtype = pick_dtype(config.hardware.precision, accelerator.device)
    device = load_device(accelerator.device, mesh)
    ref = load_causal_lm(config.ref, dtype=dtype, device=device, quantize=config.quantize).requires_grad_(False)
    check_fit(ref, tokenizer, longest(groups))
    return shard_network(ref, mesh)
