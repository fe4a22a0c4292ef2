"""What the ledger counts without contents is what torch keeps with them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from equipoise.models import lm_head
from equipoise.models.score_head import Critic, Scorer
from equipoise.plan.ledger import Ledger, nothing_loaded
from equipoise.plan.memory import as_read, blank
from equipoise.plan.workload import Pass
from equipoise.rollout.config import Sampling
from equipoise.tokens.batches import Rollout, SftBatch
from equipoise.train.forward import actor_log_probs, critic_values, target_log_probs

ROWS, LENGTH, LIMIT = 3, 40, 16
SHAPE = LlamaConfig(
    vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)


class RealLedger(Ledger):
    """Counts tensors that have contents, and lets torch look at them."""

    def _run(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


def sequences() -> tuple[Tensor, Tensor]:
    """Ids and mask; no two prompts are the same."""
    ids = torch.arange(ROWS)[:, None].expand(ROWS, LENGTH).contiguous()
    return ids, torch.ones(ROWS, LENGTH, dtype=torch.bool)


def policy_pass(model: LlamaForCausalLM) -> Tensor:
    ids, mask = sequences()
    rollout = Rollout(ids, mask, mask[:, -LIMIT:], torch.zeros(ROWS, LIMIT), mask[:, 0])
    return actor_log_probs(model, rollout, Sampling()).sum()


def critic_pass(model: LlamaForCausalLM) -> Tensor:
    ids, mask = sequences()
    rollout = Rollout(ids, mask, mask[:, -LIMIT:], torch.zeros(ROWS, LIMIT), mask[:, 0])
    return critic_values(Critic(Scorer(model.model)), rollout).sum()


def sft_pass(model: LlamaForCausalLM) -> Tensor:
    ids, mask = sequences()
    targets = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    targets[:, -LIMIT:] = True
    return target_log_probs(model, SftBatch(ids, mask, targets)).sum()


def peak(ledger: Ledger, one_pass: Callable[[LlamaForCausalLM], Tensor], length: int = LENGTH) -> int:
    model = LlamaForCausalLM._from_config(SHAPE)
    with ledger.phase("pass"), ledger.reading(ROWS * LIMIT, length):
        one_pass(model).backward()
    return ledger.phases["pass"]


@pytest.mark.parametrize("one_pass", [policy_pass, critic_pass, sft_pass])
@pytest.mark.parametrize("chunk", [lm_head.LOGITS, 512 * 10])  # all 48 positions at once, or 10 at a time
def test_a_pass_without_contents_takes_what_the_real_one_takes(
    one_pass: Callable[[LlamaForCausalLM], Tensor], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_head, "LOGITS", chunk)
    with RealLedger() as ledger:
        real = peak(ledger, one_pass)
    with nothing_loaded() as ledger:
        assert peak(ledger, one_pass) == real


def test_a_prompt_that_answers_share_is_counted_once() -> None:
    """Beside what a real pass takes, which has a mask and the places of tokens, too."""
    ids, mask = sequences()
    same = Rollout(ids * 0, mask, mask[:, -LIMIT:], torch.zeros(ROWS, LIMIT), mask[:, 0])
    prompt = LENGTH - LIMIT
    apart = Pass(ROWS, LENGTH, ROWS * LIMIT)
    together = apart._replace(prompts=1, together=prompt + ROWS * LIMIT)

    def taken(ledger: Ledger, rollout: Rollout) -> int:
        length = rollout.input_ids.shape[1]
        return peak(ledger, lambda model: actor_log_probs(model, rollout, Sampling()).sum(), length)

    def planned(one: Pass) -> int:
        with nothing_loaded() as ledger:
            read = as_read(LlamaForCausalLM._from_config(SHAPE), [one])
            ids, seen = blank(read.rows, read.length)
            width = read.targets // read.rows
            rollout = Rollout(ids, seen, seen[:, -width:], torch.zeros(read.rows, width), seen[:, 0])
            return taken(ledger, rollout)

    with RealLedger() as ledger:
        real = taken(ledger, same)
    assert planned(together) == pytest.approx(real, rel=0.1)
    assert planned(apart) > 1.15 * real


def test_the_largest_pass_is_the_largest_as_it_is_read() -> None:
    """Two of 30 tokens with a prompt of 25 take 35 cells; two of 20 with nothing in common 40."""
    alike, apart = Pass(2, 30, 10, prompts=1, together=35), Pass(2, 20, 10, prompts=2, together=20)
    model = LlamaForCausalLM(SHAPE)
    assert as_read(model, [alike, apart]) == apart
    narrow = MistralForCausalLM(
        MistralConfig(**SHAPE.to_diff_dict() | {"sliding_window": 8, "num_key_value_heads": 2})
    )
    assert as_read(narrow, [alike, apart]) == alike  # its windows are narrower than the sequences: no sharing


def test_masks_pick_as_many_as_the_ledger_was_told() -> None:
    with nothing_loaded() as ledger, ledger.reading(5, 9):
        mask, x = torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 4, 2)
        assert mask.nonzero().shape == (5, 2)
        assert x[mask].shape == (5, 2)
        assert int(mask.sum(dim=1).max()) == 9
        assert bool(mask.any())
        with pytest.raises(RuntimeError):
            float(x.sum())  # nobody said what it is


def test_the_ledger_counts_storages_once_and_until_they_are_freed() -> None:
    with nothing_loaded() as ledger:
        kept = torch.zeros(1000)
        view = kept.view(10, 100)[2:]
        with ledger.phase("work"):
            gone = kept + 1
            del gone
        assert ledger.live == 4000
        assert ledger.phases == {"work": 8000}
        del kept
        assert ledger.live == 4000  # the view holds it
        del view
        assert ledger.live == 0
