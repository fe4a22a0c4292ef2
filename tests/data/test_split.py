import pytest

from equipoise.data.dedupe import overlap, reading_key, unique
from equipoise.data.split import fold_of, split_by_prompt
from equipoise.errors import DataError
from equipoise.records import Prompt, SafetyLabel

PROMPTS = [Prompt.from_text(f"question {i}") for i in range(2000)]


def test_all_records_of_a_prompt_fall_on_one_side():
    labels = [SafetyLabel(prompt=p, response=f"{k}", is_safe=True) for p in PROMPTS[:200] for k in range(3)]
    split = split_by_prompt(labels, held_out=0.3, seed=0)
    assert len(split.train) + len(split.held_out) == 600
    assert not {r.prompt.id for r in split.train} & {r.prompt.id for r in split.held_out}


def test_growing_the_set_moves_no_prompt():
    small, large = (split_by_prompt(PROMPTS[:n], held_out=0.2, seed=1) for n in (500, 2000))
    assert {p.id for p in small.held_out} <= {p.id for p in large.held_out}


def test_the_share_held_out_is_near_what_was_asked_and_depends_on_the_seed():
    first, second = (split_by_prompt(PROMPTS, held_out=0.25, seed=seed).held_out for seed in (0, 1))
    # binomial: standard deviation √(2000 · ¼ · ¾) ≈ 19.4; five of them
    assert abs(len(first) - 500) < 97
    assert first != second


def test_the_ends_of_the_share_hold_out_nothing_and_everything():
    assert split_by_prompt(PROMPTS, held_out=0, seed=0).held_out == []
    assert split_by_prompt(PROMPTS, held_out=1, seed=0).train == []
    with pytest.raises(DataError, match="share"):
        split_by_prompt(PROMPTS, held_out=1.5, seed=0)


def test_folds_share_the_prompts_about_evenly():
    sizes = [sum(fold_of(p.id, 3, seed=0) == fold for p in PROMPTS) for fold in range(3)]
    assert sum(sizes) == 2000
    assert min(sizes) > 560  # 667 ± 5 · 21


def test_unique_keeps_the_first_of_each_key_in_order():
    assert unique(["b1", "a1", "b2"], key=lambda s: s[0]) == ["b1", "a1"]


def test_prompts_that_read_the_same_overlap():
    mine = [Prompt.from_text("How do I kill a process?"), Prompt.from_text("How do I sew?")]
    theirs = [Prompt.from_text("how do i  kill a process")]
    assert reading_key(mine[0]) == reading_key(theirs[0])
    assert overlap(mine, theirs) == mine[:1]
