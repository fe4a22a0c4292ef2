"""Answers that share their prompt give the numbers and gradients of answers that do not, for fewer tokens read."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from equipoise.models import sharing
from equipoise.models.backbone import hidden_states, logits_at
from equipoise.models.lm_head import from_logits
from equipoise.models.score_head import Critic, Scorer
from equipoise.models.sharing import share_prompts, takes_any_mask, work

WIDTH = 64
SIZES = {
    "vocab_size": 320, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SHARING = ["llama", "qwen2", "gemma", "phi3", "cohere", "gpt2"]

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # norms and rotations are computed in float32 whatever the type


def tiny(family: str, **more: object) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        config = AutoConfig.for_model("gpt2", vocab_size=320, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64)
    else:
        config = AutoConfig.for_model(family, **SIZES | more)
    return AutoModelForCausalLM.from_config(config).double().eval()


def batch(prompts: list[int], answers: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and prompt lengths of prompts so long, with answers so long."""
    draw = torch.Generator().manual_seed(1)
    rows, lengths = [], []
    for prompt, several in zip(prompts, answers, strict=True):
        asked = torch.randint(3, 320, (prompt,), generator=draw)
        rows += [torch.cat([asked, torch.randint(3, 320, (one,), generator=draw)]) for one in several]
        lengths += [prompt] * len(several)
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=9)
    seen = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    return ids, seen, torch.tensor(lengths)


IDS, SEEN, LENGTHS = batch([20, 17, 17, 23], [[4, 1, 9], [6], [2, 3, 3, 8], [5, 5]])
BEFORE = (torch.arange(IDS.shape[1]) >= LENGTHS[:, None] - 1) & SEEN.roll(-1, dims=1)
BEFORE[:, -1] = False


def summed(model: nn.Module) -> Tensor:
    def picked(logits: Tensor, some: Tensor) -> Tensor:
        return logits.log_softmax(-1)[:, 7] * (1 + some)

    return from_logits(model, IDS, SEEN, BEFORE, picked)


def alone_and_shared(monkeypatch, model: nn.Module, compute: Callable[[nn.Module], Tensor]):
    found = []
    for gain in (0.0, 0.9):
        monkeypatch.setattr(sharing, "GAIN", gain)
        model.zero_grad()
        out = compute(model)
        out.sin().sum().backward()
        found.append((out.detach(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]))
    return found


def tokens_read(model: PreTrainedModel) -> list[int]:
    counts: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: counts.append(given[0].numel()))
    return counts


@pytest.mark.parametrize("family", SHARING)
def test_logits_and_their_gradients_are_those_of_separate_sequences(monkeypatch, family):
    model = tiny(family)
    read = tokens_read(model)
    torch.testing.assert_close(*alone_and_shared(monkeypatch, model, summed), **ROUNDING)
    # 20 + 14, 17 + 6, 17 + 16 and 23 + 10 tokens in 34 columns; 10 sequences in 29 columns before
    assert read == [IDS.numel(), 4 * 34] == [290, 136]


@pytest.mark.parametrize("family", SHARING)
def test_chunks_of_logits_share_prompts_too(monkeypatch, family):
    monkeypatch.setattr("equipoise.models.lm_head.LOGITS", 5 * 320)
    model = tiny(family)
    read = tokens_read(model)
    torch.testing.assert_close(*alone_and_shared(monkeypatch, model, summed), **ROUNDING)
    assert read == [290, 136]


def test_scores_and_values_are_those_of_separate_sequences(monkeypatch):
    backbone = tiny("llama").model
    for network in (Scorer(backbone, categories=3), Critic(Scorer(backbone), heads=2)):

        def at_answers(one: nn.Module) -> Tensor:
            out = one(IDS, SEEN, LENGTHS)
            return out if isinstance(one, Scorer) else out[SEEN]

        torch.testing.assert_close(*alone_and_shared(monkeypatch, network.double(), at_answers), **ROUNDING)


def test_recomputed_layers_share_prompts_too(monkeypatch):
    model = tiny("llama")
    model.activation_checkpointing_enable()
    model.train()
    read = tokens_read(model)
    torch.testing.assert_close(*alone_and_shared(monkeypatch, model, summed), **ROUNDING)
    assert read == [290, 136]


def test_the_layout_by_hand():
    model = tiny("llama")
    ids = torch.tensor([[5, 6, 7, 8, 11, 12], [5, 6, 7, 8, 13, 9], [5, 6, 7, 8, 14, 15], [5, 6, 7, 4, 16, 9]])
    seen = torch.tensor([[1] * 6, [1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 1, 1, 1, 0]]).bool()
    shared = share_prompts(model, ids, seen, torch.tensor([4, 4, 4, 4]))
    assert shared is not None
    assert shared.input_ids.tolist() == [[5, 6, 7, 8, 11, 12, 13, 14, 15], [5, 6, 7, 4, 16, 0, 0, 0, 0]]
    assert shared.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 4, 4, 5], [0, 1, 2, 3, 4, 0, 0, 0, 0]]
    assert shared.place[seen].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 6, 0, 1, 2, 3, 7, 8, 9, 10, 11, 12, 13]
    assert shared.visible[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 1, 0, 0, 0, 1, 1],
    ]


def test_an_answer_that_begins_like_its_neighbour_is_still_its_own():
    """Only the prompt is shared: equal first tokens of two answers are read twice."""
    model = tiny("llama")
    ids = torch.tensor([[5, 6, 7, 8, 11, 12], [5, 6, 7, 8, 11, 13]])
    shared = share_prompts(model, ids, torch.ones_like(ids).bool(), torch.tensor([4, 4]))
    assert shared is not None
    assert shared.input_ids.tolist() == [[5, 6, 7, 8, 11, 12, 11, 13]]


def test_a_prompt_that_begins_like_its_neighbour_is_another():
    ids = torch.tensor([[5, 6, 7, 8, 11, 12], [5, 6, 7, 8, 11, 13]])
    assert share_prompts(tiny("llama"), ids, torch.ones_like(ids).bool(), torch.tensor([4, 5])) is None


def test_nothing_is_laid_out_anew_where_that_is_no_gain():
    model, seen = tiny("llama"), torch.ones(2, 60).bool()
    short = torch.cat([torch.ones(2, 2), torch.randint(3, 320, (2, 58))], dim=1).long()  # 2 of 60 tokens are alike
    assert share_prompts(model, short, seen, torch.tensor([2, 2])) is None
    assert share_prompts(model, torch.ones_like(short), seen, torch.tensor([50, 50])) is not None


def test_work_by_hand():
    assert work(2, 10, 4, masked=True) == 2 * 10 * (12 * 4 + 2 * 10)
    assert work(2, 10, 4, masked=False) == 2 * 10 * (12 * 4 + 10)


def test_models_that_cannot_be_told_what_a_token_sees_read_separate_sequences():
    narrow, wide = tiny("mistral", sliding_window=20), tiny("mistral", sliding_window=29)
    assert not takes_any_mask(narrow, IDS.shape[1])
    assert share_prompts(narrow, IDS, SEEN, LENGTHS) is None
    assert share_prompts(wide, IDS, SEEN, LENGTHS) is not None
    assert share_prompts(tiny("gemma2"), IDS, SEEN, LENGTHS) is None  # computes attention itself


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_half_precision_and_prompts_padded_on_the_left(family):
    model = tiny(family).bfloat16()
    shared = logits_at(model, IDS, SEEN, BEFORE)
    assert bool(shared.isfinite().all())
    turned = [SEEN.flip(1), IDS.flip(1)]  # padding in front: such a batch is read as it is
    read = tokens_read(model)
    hidden_states(model.base_model, turned[1], turned[0], LENGTHS)
    assert read == [290]
