import torch

from equipoise.tokens.batches import PromptBatch, Rollout, ScoredRollout, on_device, rows


def scored():
    rollout = Rollout(
        input_ids=torch.arange(12).reshape(3, 4),
        attention_mask=torch.ones(3, 4, dtype=torch.bool),
        response_mask=torch.ones(3, 2, dtype=torch.bool),
        log_probs=torch.zeros(3, 2),
        finished=torch.tensor([True, False, True]),
    )
    return ScoredRollout(rollout, torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))


def test_rows_are_taken_from_every_tensor_however_deep():
    part = rows(scored(), torch.tensor([2, 0]))
    assert part.rewards.tolist() == [3.0, 1.0]
    assert part.rollout.input_ids.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert rows(scored(), slice(1, 2)).rollout.finished.tolist() == [False]


def test_a_batch_moves_with_everything_in_it():
    moved = scored().to("meta")
    assert moved.rollout.log_probs.device.type == moved.costs.device.type == "meta"
    assert isinstance(on_device(PromptBatch(torch.zeros(1), torch.ones(1)), "cpu"), PromptBatch)
