"""PPO-Lag in the structure of the original safe-rlhf (last changed in June 2024), written anew as a yardstick.

What is kept of it: six separate networks; `generate` on prompts padded to one length; then six passes over the
whole padded batch (reward, cost, both critics, actor, reference; all logits, log-softmax over all of them); then
actor, reward critic and cost critic one after the other, forward, backward and step; then a PTX batch whose
gradient is averaged with the actor's before its one step; one λ step from a window of 128 costs.
In its favour: no gradient checkpointing (its scripts turn it on), fused AdamW, no text between the networks (the
tokenizers are the same), no per-token Python loop for the ends of sequences, no metrics but four.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from common import Case
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from equipoise.data.load import load_demonstrations, load_prompts
from equipoise.data.source import DataSource
from equipoise.models.backbone import load_causal_lm
from equipoise.models.score_head import Critic, Scorer, load_scorer
from equipoise.tokens.collate import collate_prompts, collate_sft, sft_examples
from equipoise.tokens.template import load_tokenizer

KL_COEF, CLIP_RATIO, CLIP_VALUE, CLIP_SCORE, PTX_COEF = 0.02, 0.2, 5.0, 50.0, 16.0
GAMMA, GAE_LAMBDA, CLIP_NORM, LR, LAMBDA_LR = 1.0, 0.95, 1.0, 1e-7, 0.1


@dataclass(frozen=True)
class Networks:
    actor: PreTrainedModel
    ref: PreTrainedModel
    reward: Scorer
    cost: Scorer
    reward_critic: Critic
    cost_critic: Critic


@dataclass(frozen=True)
class Experience:
    sequence: Tensor  # (B, L)
    mask: Tensor  # (B, L)
    start: int  # column of the first response token's predecessor
    log_probs: Tensor  # (B, L − 1)
    ref_log_probs: Tensor  # (B, L − 1)
    rewards: Tensor  # (B,)
    costs: Tensor  # (B,)
    reward_values: Tensor  # (B, L − 1)
    cost_values: Tensor  # (B, L − 1)


def run_original(case: Case, turn: Callable[[float], None]) -> None:
    """Take steps for ever; `turn` is called before each with the mean length of the responses before."""
    networks = load_networks(case)
    trained = (networks.actor, networks.reward_critic, networks.cost_critic)
    optimizers = [AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), fused=True) for model in trained]
    log_lambda, window, length = 0.0, deque[float](maxlen=128), 0.0
    for prompts, prompt_mask, ptx in batches(case):
        turn(length)
        experience = make_experience(networks, prompts, prompt_mask, case)
        length = float(experience.mask[:, prompts.shape[1] :].sum(dim=1).float().mean())
        window.extend(experience.costs.tolist())
        log_lambda += LAMBDA_LR * math.exp(log_lambda) * sum(window) / len(window)
        log_lambda = min(log_lambda, math.log(5.0))
        rl_step(networks, optimizers, experience, math.exp(log_lambda), 2 if ptx else 1)
        if ptx:
            ptx_step(networks.actor, *ptx)
        take_step(networks.actor, optimizers[0])


def load_networks(case: Case) -> Networks:
    dtype, device = getattr(torch, case.precision), torch.device(case.device)

    def scorer(name: str) -> Scorer:
        return load_scorer(case.world / name, dtype=dtype, device=device)

    actor, ref = (load_causal_lm(case.world / "policy", dtype=dtype, device=device) for _ in range(2))
    critics = (Critic(scorer(name)) for name in ("reward", "cost"))
    return Networks(actor, ref, scorer("reward"), scorer("cost"), *critics)


def batches(case: Case) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor] | None]]:
    """Prompts and their mask; ids, mask and labels of demonstrations."""
    tokenizer = load_tokenizer(case.world / "policy")
    prompts = load_prompts(DataSource(path=str(case.world / "prompts.jsonl")))
    demonstrations = load_demonstrations(DataSource(path=str(case.world / "demonstrations.jsonl")))
    longest = case.prompt + case.response
    examples = [example for d in demonstrations for example in sft_examples(tokenizer, d, longest)]
    for start in itertools.count(0, case.batch):
        rows = [i % len(prompts) for i in range(start, start + case.batch)]
        batch = collate_prompts(tokenizer, [prompts[i].messages for i in rows], case.prompt).batch.to(case.device)
        data = collate_sft(tokenizer, [examples[i] for i in rows]).to(case.device)
        labels = data.input_ids.masked_fill(~data.target_mask, -100)
        ptx = (data.input_ids, data.attention_mask.long(), labels)
        yield batch.input_ids, batch.attention_mask.long(), ptx if case.ptx else None


@torch.no_grad()
def make_experience(networks: Networks, prompts: Tensor, prompt_mask: Tensor, case: Case) -> Experience:
    """Sample and score, one pass per network."""
    config = networks.actor.generation_config
    pad = int(config.pad_token_id)
    sequence = networks.actor.generate(
        input_ids=prompts, attention_mask=prompt_mask, max_new_tokens=case.response, do_sample=True, top_k=0
    )
    mask = sequence != pad
    ends = mask.shape[1] - 1 - mask.int().flip(dims=[1]).argmax(dim=1)
    rows = torch.arange(len(sequence), device=sequence.device)
    return Experience(
        sequence=sequence,
        mask=mask,
        start=prompts.shape[1] - 1,
        rewards=networks.reward.token_scores(sequence, mask)[rows, ends],
        costs=networks.cost.token_scores(sequence, mask)[rows, ends],
        reward_values=networks.reward_critic(sequence, mask)[:, :-1, 0],
        cost_values=networks.cost_critic(sequence, mask)[:, :-1, 0],
        log_probs=all_log_probs(networks.actor, sequence, mask),
        ref_log_probs=all_log_probs(networks.ref, sequence, mask),
    )


def all_log_probs(model: PreTrainedModel, sequence: Tensor, mask: Tensor) -> Tensor:
    """(B, L − 1) log-probabilities of every token, prompt and padding included."""
    logits = model(sequence, attention_mask=mask.long(), use_cache=False).logits
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    return log_probs.gather(-1, sequence[:, 1:].unsqueeze(-1)).squeeze(-1)


def rl_step(
    networks: Networks, optimizers: list[AdamW], experience: Experience, lam: float, accumulated: int
) -> None:
    """Actor forward and backward, then each critic with its step."""
    start = experience.start
    mask = experience.mask[:, 1:]
    with torch.no_grad():
        kl = KL_COEF / 2 * (experience.log_probs - experience.ref_log_probs)
        by_reward = advantages(experience.reward_values, experience.rewards, -kl, mask, start)
        by_cost = advantages(experience.cost_values, experience.costs, kl, mask, start)
        mixed = (by_reward[0] - lam * by_cost[0]) / (1 + lam)

    log_probs = all_log_probs(networks.actor, experience.sequence, experience.mask)
    ratio = (log_probs - experience.log_probs)[:, start:].exp()
    clipped = ratio.clamp(1 - CLIP_RATIO, 1 + CLIP_RATIO)
    loss = -mean(torch.minimum(mixed * ratio, mixed * clipped), mask[:, start:])
    (loss / accumulated).backward()

    critics = (networks.reward_critic, networks.cost_critic)
    old = (experience.reward_values, experience.cost_values)
    targets = (by_reward[1], by_cost[1])
    for critic, optimizer, old_values, returns in zip(critics, optimizers[1:], old, targets, strict=True):
        values = critic(experience.sequence, experience.mask)[:, :-1, 0][:, start:]
        near = old_values[:, start:] + (values - old_values[:, start:]).clamp(-CLIP_VALUE, CLIP_VALUE)
        worse = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
        (0.5 * mean(worse, mask[:, start:])).backward()
        take_step(critic, optimizer)
    float(loss), float(ratio.mean()), float(mixed.mean()), float(kl.sum())  # the metrics


def advantages(values: Tensor, scores: Tensor, shaping: Tensor, mask: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """GAE and returns from column `start` on, token by token as the original does."""
    ends = mask.shape[1] - 1 - mask.int().flip(dims=[1]).argmax(dim=1)
    rows = torch.arange(len(scores), device=scores.device)
    rewards = shaping.clone()
    rewards[rows, ends] += scores
    rewards, values = rewards.clamp(-CLIP_SCORE, CLIP_SCORE) * mask, values * mask
    last, found = torch.zeros_like(scores), []
    for t in reversed(range(start, values.shape[1])):
        following = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
        last = rewards[:, t] + GAMMA * following - values[:, t] + GAMMA * GAE_LAMBDA * last
        found.append(last)
    gae = torch.stack(found[::-1], dim=1)
    return gae, gae + values[:, start:]


def ptx_step(actor: PreTrainedModel, input_ids: Tensor, mask: Tensor, labels: Tensor) -> None:
    """The PTX batch's forward and backward; its half of the accumulated gradient."""
    loss = actor(input_ids, attention_mask=mask, labels=labels, use_cache=False).loss
    (PTX_COEF * loss / 2).backward()
    float(loss)


def take_step(model: nn.Module, optimizer: AdamW) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """Over the tokens of each sequence, then over sequences."""
    return ((x * mask).sum(dim=1) / mask.sum(dim=1)).mean()
