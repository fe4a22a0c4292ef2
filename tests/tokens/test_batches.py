import itertools

import torch

from equipoise.tokens.batches import (
    PromptBatch,
    Rollout,
    ScoredRollout,
    Shape,
    aligned,
    by_length,
    families,
    on_device,
    parts_by_length,
    prompt_lengths,
    rows,
    trim,
)


def scored():
    rollout = Rollout(
        input_ids=torch.arange(12).reshape(3, 4),
        attention_mask=torch.ones(3, 4, dtype=torch.bool),
        response_mask=torch.ones(3, 2, dtype=torch.bool),
        log_probs=torch.zeros(3, 2),
        finished=torch.tensor([True, False, True]),
    )
    return ScoredRollout(rollout, torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0]), *[torch.zeros(3)] * 3)


def test_rows_are_taken_from_every_tensor_however_deep():
    part = rows(scored(), torch.tensor([2, 0]))
    assert part.rewards.tolist() == [3.0, 1.0]
    assert part.rollout.input_ids.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert rows(scored(), slice(1, 2)).rollout.finished.tolist() == [False]


def test_a_batch_moves_with_everything_in_it():
    moved = scored().to("meta")
    assert moved.rollout.log_probs.device.type == moved.costs.device.type == "meta"
    assert isinstance(on_device(PromptBatch(torch.zeros(1), torch.ones(1)), "cpu"), PromptBatch)


def test_parts_hold_every_item_once_within_the_tokens_and_little_padding():
    draw = torch.Generator().manual_seed(0)
    shapes = [Shape(*sizes) for sizes in torch.randint(1, 40, (50, 2), generator=draw).tolist()]
    parts = parts_by_length(shapes, None, 1000)
    assert sorted(number for part in parts for number in part) == list(range(50))
    for part in parts:
        some = [shapes[number] for number in part]
        padded = sum(s.rows for s in some) * max(s.length for s in some)
        assert padded <= 1000 or len(part) == 1
    assert len(parts) < 45
    lengths = [[shapes[number].length for number in part] for part in parts]
    assert all(max(a) <= min(b) for a, b in itertools.pairwise(lengths))


def test_parts_of_a_rollout_are_as_large_as_they_may_be():
    column, prompt = torch.arange(12), torch.tensor([[5], [2], [1], [4]])
    response = torch.tensor([[1], [7], [3], [3]])
    seen = (column >= 5 - prompt) & (column < 5 + response)
    rollout = Rollout(torch.zeros(4, 12).long(), seen, seen[:, 5:], torch.zeros(4, 7), seen[:, 5])
    # sorted by length: 1 + 3, 5 + 1, 4 + 3, 2 + 7; the first two are 2·6 with their padding, three 3·7
    parts = by_length(rollout, None, 12)
    assert [part.tolist() for part in parts] == [[2, 0], [3], [1]]
    assert [aligned(trim(rows(rollout, part))).input_ids.numel() for part in parts] == [12, 7, 9]
    assert [part.tolist() for part in by_length(rollout, None, 21)] == [[2, 0, 3], [1]]
    assert [part.tolist() for part in by_length(rollout, None, 1)] == [[2], [0], [3], [1]]


def test_aligned_sequences_have_their_padding_behind_them():
    seen = torch.tensor(
        [[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]
    ).bool()  # prompts of 1 and 2, responses of 2 and 3
    ids = torch.tensor([[9, 9, 1, 2, 3, 9], [9, 4, 5, 6, 7, 8]])
    rollout = Rollout(ids, seen, seen[:, 3:], torch.zeros(2, 3), seen[:, 5])
    found = aligned(rollout)
    assert found.input_ids[found.attention_mask].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found.attention_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert found.before.int().tolist() == [[1, 1, 0, 0, 0], [0, 1, 1, 1, 0]]


def test_families_stay_together_and_go_by_their_longest_member():
    shapes = [Shape(1, 4, 7), Shape(1, 9, 8), Shape(1, 6), Shape(1, 8, 7), Shape(1, 2, 8), Shape(1, 1)]
    # alone 1 and 6, family 7 with 4 and 8, family 8 with 9 and 2
    assert parts_by_length(shapes, 2) == [[5, 2], [0, 3], [1, 4]]
    assert parts_by_length(shapes, None, 18) == [[5, 2, 0], [3, 1], [4]]  # 3·6, 2·9, 3·9 would be 27


def test_neighbours_with_the_same_prompt_are_a_family():
    ids = torch.tensor([[1, 2, 9, 9], [1, 2, 8, 8], [1, 2, 8, 8], [1, 3, 8, 8], [1, 2, 9, 9]])
    assert families(ids, torch.tensor([2, 2, 3, 2, 2])).tolist() == [0, 0, 1, 2, 3]
    assert families(ids[:1], torch.tensor([2])).tolist() == [0]


def test_the_responses_to_a_prompt_are_in_one_part_of_a_rollout():
    seen = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1]]).bool()
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 8, 7], [0, 6, 9, 0], [0, 6, 8, 9]])
    rollout = Rollout(ids, seen, seen[:, 2:], torch.zeros(4, 2), seen[:, 3])
    assert [part.tolist() for part in by_length(rollout, 2)] == [[2, 3], [0, 1]]


def test_prompts_end_where_the_first_logits_of_a_response_stand():
    before = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]).bool()
    assert prompt_lengths(before).tolist() == [2, 1, 4]
