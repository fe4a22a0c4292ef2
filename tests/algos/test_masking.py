import math

import pytest
import torch

from equipoise.algos.masking import last_true, masked_mean, masked_sum, mean_of_sequences, position_ids


def bools(*rows: str) -> torch.Tensor:
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


def test_last_true_finds_the_last_real_token_on_either_side_of_padding() -> None:
    assert last_true(bools("1110", "1000", "0011", "1111", "0110")).tolist() == [2, 0, 3, 3, 2]


def test_last_true_refuses_a_sequence_without_real_tokens() -> None:
    with pytest.raises(ValueError, match="without a single real token"):
        last_true(bools("1110", "0000"))


def test_positions_count_real_tokens_only() -> None:
    assert position_ids(bools("0011", "1110", "1111")).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2], [0, 1, 2, 3]]


def test_masked_sum_and_mean_ignore_what_is_not_counted_even_nan() -> None:
    x = torch.tensor([[1.0, 2.0, math.nan], [6.0, math.inf, -1e9]])
    mask = bools("110", "100")
    assert masked_sum(x, mask).item() == 9.0
    assert masked_mean(x, mask).item() == 3.0


def test_mean_over_nothing_is_nan_and_not_zero() -> None:
    assert math.isnan(masked_mean(torch.ones(1, 2), bools("00")).item())
    assert math.isnan(mean_of_sequences(torch.ones(2, 2), bools("11", "00"), 2).item())


def test_each_sequence_weighs_the_same_however_long() -> None:
    # Rows average to (1 + 2 + 3)/3 = 2 and 10/1 = 10, so the mean of sequences is 6; that of tokens is 4.
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    mask = bools("111", "100")
    assert mean_of_sequences(x, mask, 2).item() == 6.0
    assert masked_mean(x, mask).item() == 4.0


def test_denominator_is_that_of_the_whole_batch() -> None:
    x = torch.tensor([[2.0, 4.0]])
    assert mean_of_sequences(x, bools("11"), 4).item() == 0.75


def test_masked_positions_get_no_gradient() -> None:
    x = torch.tensor([[1.0, math.nan]], requires_grad=True)
    mean_of_sequences(x, bools("10"), 1).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 0.0]]
