import pytest
import torch

from equipoise.errors import ModelError
from equipoise.models.normalize import Normalizer, measure, normalize_costs, normalize_rewards

SCORES = torch.tensor([1.0, -3.0, 5.0])


def test_rewards_are_shifted_and_scaled():
    # (1 − 3) / 2 = −1, (−3 − 3) / 2 = −3, (5 − 3) / 2 = 1
    assert normalize_rewards(SCORES, Normalizer(True, 3.0, 2.0)).tolist() == [-1.0, -3.0, 1.0]


def test_costs_are_scaled_but_keep_their_zero():
    scaled = normalize_costs(SCORES, Normalizer(True, 3.0, 2.0))
    assert scaled.tolist() == [0.5, -1.5, 2.5]
    assert torch.equal(scaled.sign(), SCORES.sign())


def test_normalization_is_off_by_default():
    assert normalize_rewards(SCORES, Normalizer(mean=3.0, std=2.0)) is SCORES
    assert normalize_costs(SCORES, Normalizer(mean=3.0, std=2.0)) is SCORES


def test_measured_scores_become_standard():
    # mean of (1, −3, 5) is 1; deviations 0, −4, 4; variance 32 / 2 = 16
    normalizer = measure(SCORES)
    assert (normalizer.mean, normalizer.std) == (1.0, 4.0)
    assert normalize_rewards(SCORES, normalizer).tolist() == [0.0, -1.0, 1.0]


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0]])
def test_scores_without_spread_are_refused(scores):
    with pytest.raises(ModelError, match="without spread"):
        measure(torch.tensor(scores))
