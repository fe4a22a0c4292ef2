import random

import pytest

from equipoise.data.dedupe import reading_key, unique, without_prompts_of
from equipoise.data.load import load_prompts
from equipoise.data.mixture import WeightedSource, allot, load_mixture, mix
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


def test_prompts_that_read_the_same_are_kept_apart_from_evaluation():
    mine = [Prompt.from_text("How do I kill a process?"), Prompt.from_text("How do I sew?")]
    theirs = [Prompt.from_text("how do i  kill a process")]
    assert reading_key(mine[0]) == reading_key(theirs[0])
    assert without_prompts_of(mine, theirs) == mine[1:]


def test_shares_add_up_by_largest_remainder():
    assert allot([1, 1, 1], 10) == [4, 3, 3]
    # 7 · (.5, .3, .2) = 3.5, 2.1, 1.4: the one left over goes to the .5
    assert allot([5, 3, 2], 7) == [4, 2, 1]
    assert allot([0, 1], 3) == [0, 3]


def test_a_mixture_holds_its_shares_and_repeats_only_what_is_exhausted():
    mixed = mix([["a", "b"], list(range(100))], weights=[1, 3], size=20, rng=random.Random(0))
    letters = [x for x in mixed if isinstance(x, str)]
    assert sorted(letters) == ["a", "a", "a", "b", "b"] or sorted(letters) == ["a", "a", "b", "b", "b"]
    assert len(set(mixed)) == 2 + 15


def test_a_mixture_depends_on_its_generator_alone():
    parts, weights = [list(range(50)), list(range(50, 100))], [1.0, 1.0]
    once, again, other = (mix(parts, weights, 30, random.Random(seed)) for seed in (0, 0, 1))
    assert once == again != other


def test_impossible_mixtures_are_refused():
    for parts, weights in ([[[], [1]], [1, 1]], [[[1]], [1, 2]], [[], []], [[[1]], [0]]):
        with pytest.raises(DataError):
            mix(parts, weights, 4, random.Random(0))


def test_sources_are_mixed_by_weight(write):
    a, b = (str(write(f"{name}.json", [f"{name} {i}" for i in range(9)])) for name in "ab")
    sources = [WeightedSource(path=a, weight=2), WeightedSource(path=b)]
    mixed = load_mixture(sources, load_prompts, size=9, seed=0)
    assert sum(prompt.text.startswith("a") for prompt in mixed) == 6
