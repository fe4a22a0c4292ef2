"""The pieces of a PPO-Lag step on a real rollout of a tiny policy."""

import math
from collections.abc import Callable

import pytest
import torch
from train_models import ppo, read_lines

from equipoise.algos.lagrange import LagrangeState, mix
from equipoise.records import Prompt
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.respond import to_responses
from equipoise.tokens.batches import ScoredRollout, by_length, part_of
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.template import end_id
from equipoise.train.advantages import fit
from equipoise.train.constraints import ALL, watched, weigh
from equipoise.train.forward import actor_log_probs, critic_values
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.ppo_lag import LoopState, move_lambda, score, together, train_ppo_lag
from equipoise.train.roles import Roles, load_roles

Rolled = tuple[PpoLagConfig, Roles, ScoredRollout]
CPU = torch.device("cpu")


@pytest.fixture
def roll(world, tmp_path) -> Callable[..., Rolled]:
    """A scored rollout of eight prompts of different lengths, with a reference that is not the actor."""

    def make(**settings: object) -> Rolled:
        config = ppo(tmp_path / "out", world, **settings)
        roles = load_roles(config, CPU)
        with torch.no_grad():
            for weight in roles.ref.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)))
        prompts = [Prompt.from_text("ask " + "one " * n) for n in range(8)]
        batch = collate_prompts(roles.tokenizer, [p.messages for p in prompts], 12).batch
        sampler = NativeSampler(roles.actor, end_id(roles.tokenizer), int(roles.tokenizer.pad_token_id))
        rollout = sampler.sample(batch, config.sampling, torch.Generator().manual_seed(0))
        responses = to_responses(prompts, rollout, roles.tokenizer)
        scores = score(responses, rollout, roles, config)
        seen = watched(config.constraint, [ALL], prompts, scores.costs)
        weights = weigh(config.constraint, seen, scores.costs, {ALL: 1.0})
        return config, roles, together(rollout, scores, weights, config)

    return make


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 1.2, "repetition_penalty": 1.2}, {"temperature": 0.7, "top_p": 0.8}],
)
def test_the_ratio_is_one_before_the_first_update(roll, sampling):
    config, roles, scored = roll(sampling={"max_new_tokens": 8, **sampling})
    mask = scored.rollout.response_mask
    for part in by_length(scored.rollout, 3):
        piece = part_of(scored, part)
        with torch.no_grad():
            log_probs = actor_log_probs(roles.actor, piece.rollout, config.sampling)
        ratio = (log_probs - piece.rollout.log_probs).exp()[piece.rollout.response_mask]
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-5)
    assert mask.any(dim=1).all()


def test_the_first_update_of_a_run_starts_at_ratio_one(world, tmp_path):
    sampling = {"max_new_tokens": 8, "temperature": 1.2, "repetition_penalty": 1.2}
    [step] = read_lines(train_ppo_lag(ppo(tmp_path / "out", world, sampling=sampling, steps=1)) / "metrics.jsonl")
    assert abs(step["approx_kl"]) < 1e-6
    assert step["clipped_share"] == 0
    assert abs(step["kl"]) < 1e-4  # actor and reference start alike


def test_the_strength_of_the_kl_term_does_not_depend_on_lambda(roll):
    config, _, scored = roll(kl_coef=0.3)
    nothing = torch.zeros_like(scored.ref_log_probs)
    scored = ScoredRollout(scored.rollout, scored.ref_log_probs, *[torch.zeros(8)] * 4)
    reward, cost = (fit(stream, scored, nothing, config, {}).advantages for stream in config.streams)
    mixed = [mix(reward, cost, lam) for lam in (0.0, 0.5, 1.0, 5.0, 100.0)]
    # With neither reward nor cost, the last token's advantage is −κ·kl whatever λ
    mask = scored.rollout.response_mask
    kl = scored.rollout.log_probs - scored.ref_log_probs
    ends = mask.sum(dim=1) - 1
    for advantages in mixed:
        assert torch.allclose(advantages, mixed[0], atol=1e-5)
        assert torch.allclose(advantages[range(8), ends], -0.3 * kl[range(8), ends], atol=1e-5)
    assert kl[mask].abs().max() > 0.01


def test_credit_of_parts_is_the_credit_of_the_whole(roll):
    config, roles, scored = roll()
    for stream, critic in (("reward", roles.critics["reward_critic"]), ("cost", roles.critics["cost_critic"])):
        with torch.no_grad():
            whole = fit(stream, scored, critic_values(critic, scored.rollout)[0], config, {})
            for part in by_length(scored.rollout, 3):
                piece = part_of(scored, part)
                credit = fit(stream, piece, critic_values(critic, piece.rollout)[0], config, {})
                width = piece.rollout.response_mask.shape[1]
                assert torch.allclose(credit.advantages, whole.advantages[part][:, :width], atol=1e-5)
                assert torch.allclose(credit.returns, whole.returns[part][:, :width], atol=1e-5)


def test_the_first_value_is_read_at_the_last_prompt_token(roll):
    _, roles, scored = roll()
    rollout = scored.rollout
    with torch.no_grad():
        critic = roles.critics["reward_critic"]
        (values,) = critic_values(critic, rollout)
        before = rollout.input_ids.shape[1] - rollout.response_mask.shape[1]
        prefix = critic.scorer(rollout.input_ids[:, :before], rollout.attention_mask[:, :before])
    assert torch.allclose(values[:, 0], prefix, atol=1e-5)


def test_reference_log_probs_do_not_depend_on_the_micro_batch(roll):
    _, _, whole = roll()
    _, _, parts = roll(micro_batch=3)
    mask = whole.rollout.response_mask
    assert torch.allclose(whole.ref_log_probs[mask], parts.ref_log_probs[mask], atol=1e-5)


def test_a_window_longer_than_a_batch_holds_the_newest_costs(world, tmp_path):
    limited = {"constraint": {"type": "mean", "limit": 1.0}, "dual": {"type": "log", "window": 5, "lr": 0.1}}
    config = ppo(tmp_path / "out", world, **limited)
    state = LoopState(0, {ALL: LagrangeState(1.0)}, {ALL: ()}, best=None)
    state = move_lambda(state, {ALL: [2.0, 4.0, 6.0]}, config)
    assert state.windows[ALL] == (2.0, 4.0, 6.0)
    assert state.lams[ALL] == pytest.approx(math.exp(0.1 * (4 - 1)))
    lam = state.lams[ALL]
    state = move_lambda(state, {ALL: [0.0, 0.0, 0.0]}, config)
    assert state.windows[ALL] == (4.0, 6.0, 0.0, 0.0, 0.0)
    assert state.lams[ALL] == pytest.approx(lam * math.exp(0.1 * lam * (2 - 1)))
