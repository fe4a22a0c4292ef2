"""What depends on the choice of advantage: what a token is worth, the critics' losses, where the KL term goes.

With critics (`fit`) or from groups of responses (`compare`), each stream for itself, then mixed. The formulas are
those of `algos.credit` and `algos.policy`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from equipoise.algos import credit, lagrange, policy
from equipoise.tokens.batches import Advantages, ScoredRollout
from equipoise.train.ppo_config import Gae, GroupRelative, LeaveOneOut, PpoLagConfig, Stream
from equipoise.train.ppo_metrics import Sums, add


@torch.no_grad()
def fit(stream: Stream, scored: ScoredRollout, values: Tensor, config: PpoLagConfig, sums: Sums) -> Advantages:
    """Advantages of a stream with the critic of the same.

    Args:
        stream: Rewards or costs.
        scored: B responses.
        values: (B, R) of the critic before any optimizer step.
        config: Its advantage is `Gae`.
        sums: Gets the share of clamped tokens.
    """
    gae, mask = _of_critics(config), scored.rollout.response_mask
    found = credit.gae(_shaped(stream, scored, config, sums), values, mask, gae.gamma, gae.gae_lambda)
    return Advantages(found.advantages, values.detach(), found.returns)


@torch.no_grad()
def compare(
    scored: ScoredRollout, parts: Sequence[Tensor], config: PpoLagConfig, sums: Sums
) -> list[dict[Stream, Tensor]]:
    """Advantages of both streams by comparing the responses to each prompt; none where a critic gives them.

    Args:
        scored: B responses, those to a prompt together.
        parts: Row numbers of each micro-batch.
        config: Has the advantage and G.
        sums: Gets the share of clamped tokens.

    Returns:
        For each part (B', 1) of each stream: one number for all tokens of a response.
    """
    match config.advantage:
        case GroupRelative():
            scores = {"reward": scored.rewards, "cost": scored.watched}
            worth = {s: credit.standardize(scores[s], config.samples_per_prompt) for s in config.streams}
        case LeaveOneOut():
            returns = {s: _shaped(s, scored, config, sums).sum(dim=1) for s in config.streams}
            worth = {s: credit.leave_one_out(returns[s], config.samples_per_prompt) for s in config.streams}
        case _:
            return [{} for _ in parts]
    return [{stream: one[part].unsqueeze(1) for stream, one in worth.items()} for part in parts]


def mixed_advantages(worth: Mapping[Stream, Tensor], lams: Tensor) -> Tensor:
    """(A_R − λ·A_C)/(1 + λ), with each response's own λ; A_R alone where costs teach nothing."""
    if "cost" not in worth:
        return worth["reward"]
    return lagrange.mix(worth["reward"], worth["cost"], lams.unsqueeze(1))


def critics_loss(
    values: Mapping[Stream, Tensor],
    fits: Mapping[Stream, Advantages],
    piece: ScoredRollout,
    sequences: float,
    config: PpoLagConfig,
    sums: Sums,
) -> Tensor:
    """The value losses of one critic, one for each stream that it has a head for."""
    losses = []
    for stream, found in values.items():
        loss, _ = policy.value_loss(
            found,
            fits[stream].values,
            fits[stream].returns,
            piece.rollout.response_mask,
            denominator=sequences,
            clip_range=_of_critics(config).clip_value,
        )
        add(sums, **{f"{stream}_critic_loss": loss})
        losses.append(loss)
    return torch.stack(losses).sum()


def kl_in_loss(
    log_probs: Tensor, piece: ScoredRollout, sequences: float, config: PpoLagConfig, sums: Sums
) -> Tensor | float:
    """κ·KL where advantages are standardised; the others have it in their rewards and costs."""
    if not isinstance(config.advantage, GroupRelative):
        return 0.0
    loss = policy.kl_loss(log_probs, piece.ref_log_probs, piece.rollout.response_mask, sequences)
    add(sums, kl_loss=loss)
    return config.kl_coef * loss


def _shaped(stream: Stream, scored: ScoredRollout, config: PpoLagConfig, sums: Sums) -> Tensor:
    """(B, R) rewards or costs per token, with their KL term."""
    rollout = scored.rollout
    shaping = (rollout.log_probs, scored.ref_log_probs, rollout.response_mask, config.kl_coef, config.clip_score)
    if stream == "reward":
        shaped = credit.shaped_rewards(scored.rewards, *shaping)
    else:
        shaped = credit.shaped_costs(scored.watched, *shaping)
    add(sums, clamped=shaped.clamped_share * rollout.response_mask.sum() / len(config.streams))
    return shaped.values


def _of_critics(config: PpoLagConfig) -> Gae:
    assert isinstance(config.advantage, Gae)  # the others have no critics
    return config.advantage
