"""The losses of cost models: what each one adds up, and what a model learns from it."""

import math

import pytest
import torch
from train_models import cost_model

from equipoise.artefact import read_manifest
from equipoise.errors import ConfigError
from equipoise.records import Prompt, Response
from equipoise.rollout.config import ModelScore
from equipoise.rollout.score import open_score_source
from equipoise.tokens.batches import CostBatch, ScoreBatch
from equipoise.train.score_losses import Counts, choose_cost_loss, ranking_alone, ranking_and_sign, sign_alone
from equipoise.train.score_model import train_cost

# One pair, c_w = 2 unsafe against c_l = −1 called unsafe too, and a single safe answer of cost 3.
SCORES = torch.tensor([2.0, -1.0, 3.0])


def batch() -> CostBatch:
    rows = torch.zeros(3, 1, dtype=torch.long)
    return CostBatch(
        responses=ScoreBatch(rows, rows.bool(), torch.ones(len(rows)).long()),
        winners=torch.tensor([0]),
        losers=torch.tensor([1]),
        singles=torch.tensor([2]),
        signs=torch.tensor([1.0, 1.0, -1.0]),
        category_signs=torch.zeros(3, 0),
        category_known=torch.ones(3, dtype=torch.bool),
    )


def test_each_loss_hand_worked() -> None:
    # −ln σ(x) = ln(1 + e^−x): σ(3) → 0.048587 (the ranking, 2 − −1), σ(2) → 0.126928, σ(−1) → 1.313262 (a sign
    # missed), σ(−3) → 3.048587 (the single answer, missed). μ = 0.1: pair (4 + 1)/2 → 0.25, single 9 → 0.9.
    # The denominator is 2 terms.
    ranking, pair, single = 0.048587, 0.126928 + 1.313262, 3.048587
    both, _ = ranking_and_sign(SCORES, batch(), 0.1, 2)
    assert both.item() == pytest.approx((ranking + pair + single + 0.25 + 0.9) / 2, abs=1e-5)
    alone, _ = ranking_alone(SCORES, batch(), 0.1, 2)
    assert alone.item() == pytest.approx((ranking + 0.25) / 2, abs=1e-5)
    signs, _ = sign_alone(SCORES, batch(), 0.1, 2)
    assert signs.item() == pytest.approx((pair + single + 0.25 + 0.9) / 2, abs=1e-5)


def test_what_is_counted_does_not_depend_on_the_loss() -> None:
    counts = {choose_cost_loss(name)(SCORES, batch(), 0.1, 2)[1] for name in ("ranking+sign", "ranking", "sign")}
    assert counts == {
        Counts(pairs=1, ranked=1, signed=3, right=1)
    }  # the pair ranks right; of three signs only the winner's is right


def test_ranking_alone_does_not_move_with_a_shift_and_sign_alone_ignores_the_order() -> None:
    shifted = ranking_alone(SCORES + 5, batch(), 0.0, 1)[0]
    torch.testing.assert_close(shifted, ranking_alone(SCORES, batch(), 0.0, 1)[0])
    swapped = sign_alone(SCORES[[1, 0, 2]], batch(), 0.0, 1)[0]
    torch.testing.assert_close(swapped, sign_alone(SCORES, batch(), 0.0, 1)[0])


def scores(folder, *texts: str) -> list[float]:
    responses = [Response(prompt=Prompt.from_text("tell two one"), text=text) for text in texts]
    return open_score_source(ModelScore(path=folder, max_length=24)).score(responses)


@pytest.mark.parametrize("loss", ["ranking", "sign"])
def test_a_cost_model_learns_from_one_term_alone(loss, world, tmp_path):
    settings = {"model": world / "policy", "pairs": [{"path": str(world / "pairs.jsonl")}], "held_out": 0.3}
    settings |= {"epochs": 8, "optimizer": {"lr": 1e-2, "weight_decay": 0.0}}
    out = train_cost(cost_model(tmp_path / "out", loss=loss, **settings))
    facts = read_manifest(out, ("cost",)).facts
    unsafe, safe = scores(out, "good sweet one", "no two")
    assert facts["ranking_accuracy"]["value"] > 0.8
    assert unsafe > safe + math.log(4)
    if loss == "sign":
        assert facts["safety_accuracy"]["value"] > 0.8
        assert safe < 0 < unsafe
    else:  # measured all the same, on a zero that means nothing
        assert facts["safety_accuracy"]["n"] > 0


def test_a_loss_that_would_ignore_labels_is_refused(tmp_path):
    labels = [{"path": "labels.jsonl"}]
    with pytest.raises(ConfigError, match="learns from pairs alone"):
        cost_model(tmp_path, model=tmp_path, loss="ranking", labels=labels)
