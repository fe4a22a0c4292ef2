from collections import Counter
from functools import partial

import pytest
import torch
from peft import LoraConfig
from rollout_models import (
    END,
    MODELS,
    PAD,
    VOCABULARY,
    tiny_bloom,
    tiny_falcon,
    tiny_llama,
    tiny_mistral_with_a_wide_window,
)
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel

from equipoise.algos.logprobs import response_log_probs
from equipoise.algos.masking import position_ids
from equipoise.errors import ModelError
from equipoise.models.adapters import add_adapter, for_many_passes
from equipoise.rollout.config import Sampling
from equipoise.rollout.hf import HfSampler
from equipoise.rollout.native import NativeSampler, draw
from equipoise.rollout.rows import can_open
from equipoise.rollout.sampler import Sampler
from equipoise.tokens.batches import PromptBatch, Rollout, repeated

SETTINGS = [
    Sampling(max_new_tokens=12),
    Sampling(max_new_tokens=12, temperature=1.2, repetition_penalty=1.2),
    Sampling(max_new_tokens=12, temperature=0.7, top_p=0.8),
]
ROUNDING = 3e-5
"""Log-probabilities down to -20 in float32, after sums in different orders."""


def some_prompts(count: int = 16, longest: int = 9) -> PromptBatch:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(min(2, longest), longest + 1, (count, 1), generator=generator)
    mask = torch.arange(longest) >= longest - lengths
    ids = torch.randint(3, VOCABULARY, (count, longest), generator=generator)
    return PromptBatch(ids.where(mask, PAD), mask)


def drawn(sampler: Sampler, sampling: Sampling, seed: int = 0) -> Rollout:
    return sampler.sample(some_prompts(), sampling, torch.Generator().manual_seed(seed))


def recomputed(model: PreTrainedModel, rollout: Rollout, sampling: Sampling) -> torch.Tensor:
    """The log-probabilities from one forward pass over the whole sequences, without a cache."""
    model.eval()
    with torch.no_grad():
        logits = model(
            input_ids=rollout.input_ids,
            attention_mask=rollout.attention_mask,
            position_ids=position_ids(rollout.attention_mask),
        ).logits
    response = rollout.response_mask.shape[1]
    return response_log_probs(
        logits[:, -response - 1 : -1],
        rollout.input_ids,
        rollout.attention_mask,
        temperature=sampling.temperature,
        repetition_penalty=sampling.repetition_penalty,
        top_p=sampling.top_p,
    ).masked_fill(~rollout.response_mask, 0.0)


@pytest.mark.parametrize("kind", [NativeSampler, HfSampler])
@pytest.mark.parametrize("sampling", SETTINGS)
def test_log_probs_are_those_of_a_full_forward_pass(model, kind, sampling):
    rollout = drawn(kind(model, END, PAD), sampling)
    torch.testing.assert_close(rollout.log_probs, recomputed(model, rollout, sampling), atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("temperature", [0.0, 1e-5])
def test_almost_greedy_decoding_equals_generate(model, temperature, penalty):
    sampling = Sampling(max_new_tokens=12, temperature=temperature, repetition_penalty=penalty)
    ours, theirs = (drawn(kind(model, END, PAD), sampling) for kind in (NativeSampler, HfSampler))
    for field in ("input_ids", "attention_mask", "response_mask", "finished"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field)), field


def test_greedy_decoding_equals_generate_with_the_library_s_own_settings(model):
    prompts = some_prompts()
    ours = NativeSampler(model, END, PAD).sample(
        prompts, Sampling(max_new_tokens=12, temperature=0.0), torch.Generator()
    )
    theirs = model.eval().generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask.long(),
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    assert torch.equal(ours.input_ids, theirs)


def test_both_samplers_draw_from_the_same_distribution(model):
    # First tokens of 4,000 draws for one prompt: for each token, two frequencies with variance p(1-p)/4000 each.
    # The largest difference of 30 stays below 4.5 standard errors, sqrt(2 * 0.25 / 4000) * 4.5 = 0.05.
    one = some_prompts(1)
    prompts = PromptBatch(one.input_ids.expand(4000, -1), one.attention_mask.expand(4000, -1))
    counts = []
    for seed, kind in enumerate((NativeSampler, HfSampler)):
        rollout = kind(model, END, PAD).sample(
            prompts, Sampling(max_new_tokens=1), torch.Generator().manual_seed(seed)
        )
        counts.append(torch.bincount(rollout.input_ids[:, -1], minlength=VOCABULARY) / 4000)
    assert (counts[0] - counts[1]).abs().max() < 0.05


@pytest.mark.parametrize("kind", [NativeSampler, HfSampler])
def test_a_rollout_is_well_formed(model, kind):
    sampling = Sampling(max_new_tokens=20, temperature=1.5)
    prompts, rollout = some_prompts(), drawn(kind(model, END, PAD), sampling)
    length = prompts.input_ids.shape[1]
    tokens, mask = rollout.input_ids[:, length:], rollout.response_mask
    assert torch.equal(rollout.input_ids[:, :length], prompts.input_ids)
    assert torch.equal(rollout.attention_mask, torch.cat([prompts.attention_mask, mask], dim=1))
    assert mask.sum(dim=1).max() == mask.shape[1] <= 20  # R is the longest response
    assert (mask.long().diff(dim=1) <= 0).all()  # one block from the left
    last = tokens.gather(1, mask.sum(dim=1, keepdim=True) - 1)[:, 0]
    assert torch.equal(last == END, rollout.finished)
    assert (mask.sum(dim=1)[~rollout.finished] == 20).all()
    assert ((tokens == END) & mask).sum(dim=1).max() <= 1
    assert (tokens[~mask] == PAD).all()
    assert (rollout.log_probs[mask] < 0).all()
    assert (rollout.log_probs[~mask] == 0).all()
    assert rollout.finished.any()  # so that the rows above were dropped from the batch on the way


def test_a_seed_decides_everything(model):
    sampler = NativeSampler(model, END, PAD)
    first, again, other = (drawn(sampler, SETTINGS[0], seed) for seed in (1, 1, 2))
    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.log_probs, again.log_probs)
    assert first.input_ids.shape != other.input_ids.shape or not torch.equal(first.input_ids, other.input_ids)


def test_sampling_leaves_mode_global_randomness_and_gradients_alone(model):
    model.train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for kind in (NativeSampler, HfSampler):
        rollout = drawn(kind(model, END, PAD), SETTINGS[0])
        assert not rollout.log_probs.requires_grad
        assert not rollout.input_ids.is_inference()
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", [NativeSampler, HfSampler])
def test_a_context_that_is_too_short_is_refused(kind):
    with pytest.raises(ModelError, match="69 tokens, the model has 64"):
        drawn(kind(tiny_llama(), END, PAD), Sampling(max_new_tokens=60))


def test_a_full_context_is_not_refused(model):
    rollout = drawn(NativeSampler(model, END, PAD), Sampling(max_new_tokens=55, temperature=3.0))
    assert rollout.input_ids.shape[1] <= 64


@pytest.mark.parametrize("make", [tiny_bloom, partial(tiny_falcon, alibi=True), partial(tiny_falcon, alibi=False)])
def test_models_that_number_their_own_positions_are_sampled_too(make):
    sampling = Sampling(max_new_tokens=12, temperature=0.0)
    ours, theirs = (drawn(kind(make(), END, PAD), sampling) for kind in (NativeSampler, HfSampler))
    assert torch.equal(ours.input_ids, theirs.input_ids)


def test_a_model_that_keeps_its_state_in_its_own_way_is_refused():
    shape = MambaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=4, time_step_rank=1)
    with pytest.raises(ModelError, match=r"from a mamba model(.|\n)*no past_key_values"):
        drawn(NativeSampler(MambaForCausalLM(shape), END, PAD), SETTINGS[0])


def test_rows_enter_only_where_the_whole_sequence_is_seen_and_positions_are_given():
    assert [can_open(make(), 64) for make in MODELS.values()] == [True, True, False, True, True, True, True]
    assert not can_open(tiny_mistral_with_a_wide_window(), 65)
    assert not can_open(tiny_bloom(), 64)
    assert not can_open(tiny_falcon(alibi=True), 64)
    assert can_open(tiny_falcon(alibi=False), 64)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_a_row_does_not_depend_on_the_rows_beside_it(model, sampling):
    together, *others = (drawn(NativeSampler(model, END, PAD, slots), sampling) for slots in (16, 1, 3, 6))
    for other in others:
        assert torch.equal(together.input_ids, other.input_ids)
        assert torch.equal(together.finished, other.finished)
        torch.testing.assert_close(together.log_probs, other.log_probs, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("kind", [NativeSampler, partial(NativeSampler, slots=5), HfSampler])
def test_several_samples_are_those_of_a_prompt_given_several_times(model, kind):
    prompts, sampler = some_prompts(), kind(model, end_id=END, pad_id=PAD)
    grouped, single = (
        sampler.sample(batch, SETTINGS[0], torch.Generator().manual_seed(1), samples)
        for batch, samples in ((prompts, 3), (repeated(prompts, 3), 1))
    )
    assert len(grouped.input_ids) == 48
    assert torch.equal(grouped.input_ids, single.input_ids)
    torch.testing.assert_close(grouped.log_probs, single.log_probs, atol=ROUNDING, rtol=0)
    assert not torch.equal(grouped.input_ids[0], grouped.input_ids[1])


@pytest.mark.parametrize("longest", [1, 40])
def test_prompts_of_one_token_are_answered(model, longest):
    generator = torch.Generator().manual_seed(2)
    prompts = some_prompts(40, longest)
    mask = prompts.attention_mask.clone()
    mask[::2, :-1] = False  # every other prompt is its last token
    prompts = PromptBatch(prompts.input_ids.where(mask, PAD), mask)
    rollout = NativeSampler(model, END, PAD, slots=20).sample(prompts, SETTINGS[0], generator)
    torch.testing.assert_close(rollout.log_probs, recomputed(model, rollout, SETTINGS[0]), atol=ROUNDING, rtol=0)


def test_whole_responses_are_as_frequent_as_they_are_probable():
    # 8 tokens, up to 3 drawn: 1 + 7 + 49·8 = 400 responses, each with its exact probability. With n_i drawn of
    # n·p_i expected, Σ (n_i − n·p_i)² / (n·p_i) has mean k − 1 and variance about 2(k − 1) over the k cells that
    # are expected 5 times or more, the others being one cell; 5 standard deviations are allowed.
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5, bos_token_id=1, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prompt, count = torch.tensor([[5, 3, 7]]), 20_000
    words = torch.cartesian_prod(*[torch.arange(8)] * 3)  # (512, 3); what stands behind an end does not count
    with torch.no_grad():
        logits = model(torch.cat([prompt.expand(len(words), -1), words], dim=1)).logits[:, 2:-1].double()
    steps = logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]
    ended = (words == END).long().cumsum(dim=1) - (words == END).long() > 0
    expected: dict[tuple[int, ...], float] = {}
    for word, end, step in zip(words, ended, steps, strict=True):
        expected[tuple(word[~end].tolist())] = count * float(step[~end].sum().exp())
    assert len(expected) == 400
    assert sum(expected.values()) == pytest.approx(count)
    sampler = NativeSampler(model, END, PAD, slots=500)
    one = PromptBatch(prompt, torch.ones_like(prompt, dtype=torch.bool))
    rollout = sampler.sample(one, Sampling(max_new_tokens=3), torch.Generator().manual_seed(0), count)
    found = Counter(
        tuple(word[mask].tolist())
        for word, mask in zip(rollout.input_ids[:, -3:], rollout.response_mask, strict=True)
    )
    often = {word: n for word, n in expected.items() if n >= 5}
    rest = count - sum(often.values())
    cells = [(found[word], n) for word, n in often.items()]
    cells += [(count - sum(f for f, _ in cells), rest)] if rest >= 5 else []
    square = sum((f - n) ** 2 / n for f, n in cells)
    assert square < len(cells) - 1 + 5 * (2 * (len(cells) - 1)) ** 0.5


def test_a_token_is_drawn_as_often_as_it_is_probable_and_never_at_probability_zero():
    # 20,000 draws: the standard error of a share of 1/4 is sqrt(0.25 * 0.75 / 20000) = 0.003; 5 of them = 0.015.
    distribution = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]).log().expand(20_000, -1)
    drawn = draw(distribution, torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == (20_000,)
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]), atol=0.015, rtol=0)
    assert shares[[0, 2, 4]].tolist() == [0.0, 0.0, 0.0]


def test_an_adapted_policy_is_read_with_its_weights_merged_and_stays_as_it_was():
    model = tiny_llama()
    add_adapter(model, "actor", LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"), 0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rollout = drawn(NativeSampler(model, END, PAD), SETTINGS[1])
    expected = recomputed(model, rollout, SETTINGS[1])
    mask = rollout.response_mask
    torch.testing.assert_close(rollout.log_probs[mask], expected[mask], rtol=0, atol=ROUNDING)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_only_adapters_in_float32_are_merged_for_many_passes():
    model = tiny_llama()
    assert for_many_passes(model) is model
    add_adapter(model, "actor", LoraConfig(r=2, target_modules="all-linear"), 0)
    merged = for_many_passes(model)
    assert not [name for name, _ in merged.named_modules() if "lora" in name]
    assert merged.get_input_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert for_many_passes(model.to(torch.bfloat16)) is model  # 1 + a small step is 1 there
