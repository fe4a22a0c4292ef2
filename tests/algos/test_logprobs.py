import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from equipoise.algos.logprobs import nucleus, process_logits, response_log_probs, token_log_probs

B, P, R, V = 3, 4, 5, 11


def sequences(seed: int, vocabulary: int = V) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the R response positions and the whole token sequences."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, R, vocabulary, generator=generator)
    return logits, torch.randint(vocabulary, (B, P + R), generator=generator)


def processed_by_transformers(
    logits: torch.Tensor, input_ids: torch.Tensor, penalty: float, temperature: float, top_p: float
) -> torch.Tensor:
    """Position by position, as `generate` would have called its processors."""
    processors = [RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)]
    if top_p < 1.0:
        processors.append(TopPLogitsWarper(top_p))
    rows = []
    for t in range(R):
        row, so_far = logits[:, t], input_ids[:, : P + t]
        for processor in processors:
            row = processor(so_far, row)
        rows.append(row)
    return torch.stack(rows, dim=1)


def test_token_log_prob_hand_worked() -> None:
    # Logits ln 1, ln 2, ln 5 are probabilities 1/8, 2/8, 5/8; the second position is uniform over three.
    logits = torch.tensor([[[0.0, math.log(2), math.log(5)], [7.0, 7.0, 7.0]]])
    log_probs = token_log_probs(logits, torch.tensor([[2, 0]]))
    assert log_probs.tolist() == [pytest.approx([math.log(5 / 8), -math.log(3)])]


def test_half_precision_logits_are_read_in_float32() -> None:
    logits, input_ids = sequences(0)
    log_probs = token_log_probs(logits.bfloat16(), input_ids[:, -R:])
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, token_log_probs(logits.bfloat16().float(), input_ids[:, -R:]))


def test_token_log_probs_gradient_is_one_hot_minus_softmax() -> None:
    # d ln p_a / d z_v = 1[v = a] − p_v, with p = (1/4, 3/4).
    logits = torch.tensor([[[0.0, math.log(3)]]], requires_grad=True)
    token_log_probs(logits, torch.tensor([[0]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0.75, -0.75])


def test_processing_hand_worked() -> None:
    # Token 0 and 1 are seen, penalty 2, T = 0.5: 4 → 4/2/0.5 = 4;  −1 → −1·2/0.5 = −4;  unseen 3 → 3/0.5 = 6.
    processed = process_logits(
        torch.tensor([[[4.0, -1.0, 3.0]]]),
        torch.tensor([[0, 1, 1]]),
        torch.ones(1, 3, dtype=torch.bool),
        temperature=0.5,
        repetition_penalty=2.0,
    )
    assert processed.tolist() == [[[4.0, -4.0, 6.0]]]


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.2, 3.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.2])
@pytest.mark.parametrize("top_p", [0.4, 0.9, 1.0])
def test_all_positions_at_once_equal_transformers_position_by_position(
    penalty: float, temperature: float, top_p: float
) -> None:
    logits, input_ids = sequences(1)
    expected = processed_by_transformers(logits, input_ids, penalty, temperature, top_p)
    context = input_ids[:, :-1]
    actual = process_logits(
        logits,
        context,
        torch.ones_like(context, dtype=torch.bool),
        temperature=temperature,
        repetition_penalty=penalty,
        top_p=top_p,
    )
    torch.testing.assert_close(actual, expected)


def test_one_decoding_step_equals_the_same_row_of_all_positions() -> None:
    logits, input_ids = sequences(2)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    settings = {"temperature": 1.3, "repetition_penalty": 1.5, "top_p": 0.8}
    together = process_logits(logits, input_ids[:, :-1], mask[:, :-1], **settings)
    for t in range(R):
        step = process_logits(logits[:, t : t + 1], input_ids[:, : P + t], mask[:, : P + t], **settings)
        torch.testing.assert_close(step, together[:, t : t + 1])


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_left_padding_is_not_seen(seed: int, padding: int) -> None:
    logits, input_ids = sequences(seed)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    plain = response_log_probs(logits, input_ids, mask, temperature=1.2, repetition_penalty=1.7)
    # Padding with a token that may also occur in the text: only the mask tells them apart.
    padded_ids = torch.cat([torch.full((B, padding), 3), input_ids], dim=1)
    padded_mask = torch.cat([torch.zeros(B, padding, dtype=torch.bool), mask], dim=1)
    padded = response_log_probs(logits, padded_ids, padded_mask, temperature=1.2, repetition_penalty=1.7)
    assert torch.equal(plain, padded)


def test_padding_seen_as_transformers_sees_it_when_the_mask_says_so() -> None:
    logits, input_ids = sequences(3)
    input_ids[0, :2] = 0  # left padding of the first row
    expected = processed_by_transformers(logits, input_ids, 1.6, 1.0, 1.0)
    context = input_ids[:, :-1]
    everything = torch.ones_like(context, dtype=torch.bool)
    torch.testing.assert_close(process_logits(logits, context, everything, repetition_penalty=1.6), expected)


def test_log_probs_are_those_of_the_processed_logits() -> None:
    logits, input_ids = sequences(4)
    expected = processed_by_transformers(logits, input_ids, 1.2, 1.2, 1.0).log_softmax(dim=-1)
    expected = expected.gather(-1, input_ids[:, -R:].unsqueeze(-1)).squeeze(-1)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    actual = response_log_probs(logits, input_ids, mask, temperature=1.2, repetition_penalty=1.2)
    torch.testing.assert_close(actual, expected)
    unprocessed = token_log_probs(logits, input_ids[:, -R:])
    assert (unprocessed - actual).abs().max() > 0.1


def test_nucleus_hand_worked() -> None:
    # Probabilities .5, .3, .15, .05: .5 alone is short of .6, .5 + .3 is not; of .4 the first alone is enough.
    logits = torch.tensor([[[0.3, 0.5, 0.05, 0.15]]]).log()
    assert nucleus(logits, 0.6).tolist() == [[[True, True, False, False]]]
    assert nucleus(logits, 0.4).tolist() == [[[False, True, False, False]]]
    assert nucleus(logits, 1e-9).tolist() == [[[False, True, False, False]]]


def test_a_nucleus_of_many_tokens_is_found_beside_one_of_few() -> None:
    # 200 tokens of .005 each: the mass before the 100th is .495, before the 101st .5. The second row needs one.
    flat, peaked = torch.zeros(200), torch.zeros(200)
    peaked[7] = 20.0
    kept = nucleus(torch.stack([flat, peaked]).unsqueeze(0), 0.4975)
    assert kept.sum(dim=-1).tolist() == [[100, 1]]
    assert kept[0, 1, 7]


def test_a_token_that_left_the_nucleus_keeps_a_finite_log_prob_and_a_gradient() -> None:
    # Probabilities .7, .2, .1 with top_p .6 keep the first only; token 2 was taken, so it stays: .1/(.7 + .1).
    logits = torch.tensor([[[0.7, 0.2, 0.1]]]).log().requires_grad_()
    input_ids, mask = torch.tensor([[0, 2]]), torch.ones(1, 2, dtype=torch.bool)
    log_probs = response_log_probs(logits, input_ids, mask, top_p=0.6)
    assert log_probs.item() == pytest.approx(math.log(0.1 / 0.8), rel=1e-5)
    log_probs.sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-7 / 8, 0.0, 7 / 8], rel=1e-5)


def test_the_nucleus_of_sampling_and_learning_agree_on_tokens_that_were_sampled() -> None:
    logits, input_ids = sequences(5)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    drawn_from = process_logits(logits[:, :1], input_ids[:, :P], mask[:, :P], top_p=0.7)
    token = drawn_from.argmax(dim=-1)
    whole = torch.cat([input_ids[:, :P], token], dim=1)
    learned = response_log_probs(logits[:, :1], whole, torch.ones_like(whole, dtype=torch.bool), top_p=0.7)
    torch.testing.assert_close(learned, token_log_probs(drawn_from, token))
