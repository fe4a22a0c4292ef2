import pytest
import torch

from equipoise.errors import DataError
from equipoise.records import Demonstration, Message, PreferencePair, Prompt, SafetyLabel
from equipoise.tokens.collate import (
    collate_costs,
    collate_prompts,
    collate_rewards,
    collate_scores,
    collate_sft,
    many_sft_examples,
    sft_examples,
)
from equipoise.tokens.render import render_with_mask
from equipoise.tokens.template import end_id, prompt_ids, response_ids

ASK = Prompt.from_text("how do i bake bread")
LONG = Prompt.from_text("how do i bake bread " * 20)


def user(text):
    return Message(role="user", content=text)


def assistant(text):
    return Message(role="assistant", content=text)


def real(batch, row):
    return batch.input_ids[row][batch.attention_mask[row]].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "llama3", "bert"])
def test_every_scored_row_ends_with_the_end_token(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    batch, cut = collate_scores(tokenizer, [(ASK.messages, "ok"), (ASK.messages, "mix flour and water")], 200)
    for row in range(2):
        assert real(batch, row)[-1] == end_id(tokenizer)
    assert cut == (0, 0)
    assert real(batch, 0) == prompt_ids(tokenizer, ASK.messages) + response_ids(tokenizer, "ok")


def test_end_of_sequence_survives_when_it_is_also_padding(tokenizer_of):
    gpt2 = tokenizer_of("gpt2")
    assert gpt2.eos_token_id == gpt2.pad_token_id == gpt2.unk_token_id
    batch, _ = collate_scores(gpt2, [(ASK.messages, "ok"), (ASK.messages, "mix flour and water")], 200)
    assert real(batch, 0)[-1] == gpt2.eos_token_id
    examples = sft_examples(gpt2, Demonstration(messages=(*ASK.messages, assistant("ok"))), 200)
    sft = collate_sft(gpt2, examples * 2)
    assert sft.input_ids[0][sft.target_mask[0]].tolist()[-1] == gpt2.eos_token_id


def test_a_response_too_long_to_score_loses_its_tail_but_not_its_end(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    prompt = prompt_ids(tokenizer, ASK.messages)
    limit = len(prompt) + 4
    batch, cut = collate_scores(tokenizer, [(ASK.messages, "mix flour and water , then bake it")], limit)
    text = response_ids(tokenizer, "mix flour and water , then bake it", finished=False)
    assert real(batch, 0) == [*prompt, *text[:3], end_id(tokenizer)]  # 4 places: three tokens and the end
    assert cut == (0, 1)


def test_a_response_that_just_fits_is_not_cut(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    whole = prompt_ids(tokenizer, ASK.messages) + response_ids(tokenizer, "ok thanks")
    batch, cut = collate_scores(tokenizer, [(ASK.messages, "ok thanks")], len(whole))
    assert real(batch, 0) == whole
    assert cut == (0, 0)


def test_an_empty_response_is_scored_at_its_end(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    batch, cut = collate_scores(tokenizer, [(ASK.messages, "")], 100)
    assert real(batch, 0) == [*prompt_ids(tokenizer, ASK.messages), end_id(tokenizer)]
    assert cut == (0, 0)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_prompt_too_long_to_score_is_refused_or_loses_its_oldest_tokens(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    answered = [(LONG.messages, "ok thanks")]
    with pytest.raises(DataError, match="does not fit"):
        collate_scores(tokenizer, answered, 30)
    batch, cut = collate_scores(tokenizer, answered, 30, too_long="cut_left")
    whole, row = prompt_ids(tokenizer, LONG.messages), real(batch, 0)
    assert len(row) == 30
    assert row[0] == whole[0]  # BOS or CLS stays in front
    assert row[1:28] == whole[-27:]
    assert row[29] == end_id(tokenizer)
    assert cut.prompts == 1


def test_prompts_are_padded_on_the_left(tokenizer_of):
    tokenizer = tokenizer_of("gpt2")
    conversations = [ASK.messages, (user("ok"),)]
    batch, cut = collate_prompts(tokenizer, conversations, 100)
    assert bool(batch.attention_mask[:, -1].all())
    assert [real(batch, row) for row in range(2)] == [prompt_ids(tokenizer, c) for c in conversations]
    assert cut == (0, 0)


def test_a_prompt_longer_than_the_context_is_refused_or_cut_as_stated(tokenizer_of):
    tokenizer = tokenizer_of("gemma")
    with pytest.raises(DataError, match="room for 20"):
        collate_prompts(tokenizer, [LONG.messages], 20)
    batch, cut = collate_prompts(tokenizer, [LONG.messages, ASK.messages], 20, too_long="cut_left")
    whole = prompt_ids(tokenizer, LONG.messages)
    assert real(batch, 0) == [whole[0], *whole[-19:]]
    assert cut.prompts == 1 + (len(prompt_ids(tokenizer, ASK.messages)) > 20)


def test_a_demonstration_gives_one_example_per_assistant_turn(tokenizer_of):
    tokenizer = tokenizer_of("gemma")
    turns = (user("how do i bake bread"), assistant("mix flour"), user("ok thanks"), assistant("bake it"))
    first, second = sft_examples(tokenizer, Demonstration(messages=turns), 200)
    assert first.ids[first.target_from :] == response_ids(tokenizer, "mix flour")
    assert second.ids[: second.target_from] == prompt_ids(tokenizer, turns[:3])
    assert second.ids[second.target_from :] == response_ids(tokenizer, "bake it")


def test_targets_are_the_answers_tokens_with_the_end(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    short = Demonstration(messages=(user("ok"), assistant("thanks")))
    long = Demonstration(messages=(*ASK.messages, assistant("mix flour and water")))
    batch = collate_sft(tokenizer, sft_examples(tokenizer, short, 200) + sft_examples(tokenizer, long, 200))
    for row, text in enumerate(("thanks", "mix flour and water")):
        assert batch.input_ids[row][batch.target_mask[row]].tolist() == response_ids(tokenizer, text)
    assert not bool((batch.target_mask & ~batch.attention_mask).any())


def test_a_demonstration_cut_at_the_limit_does_not_teach_to_stop_there(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    demonstration = Demonstration(messages=(*ASK.messages, assistant("mix flour and water , then bake it")))
    limit = len(prompt_ids(tokenizer, ASK.messages)) + 3
    (example,) = sft_examples(tokenizer, demonstration, limit)
    assert example.cut
    assert len(example.ids) == limit
    assert end_id(tokenizer) not in example.ids[example.target_from :]


def test_a_long_demonstration_prompt_always_leaves_a_target(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    demonstration = Demonstration(messages=(*LONG.messages, assistant("ok")))
    (example,) = sft_examples(tokenizer, demonstration, 12)
    assert len(example.ids) == 12
    assert example.target_from == 11
    with pytest.raises(DataError, match="does not fit"):
        sft_examples(tokenizer, demonstration, 12, too_long="refuse")


def test_the_trained_part_is_marked_when_rendered(tokenizer_of):
    tokenizer = tokenizer_of("gemma")
    (example,) = sft_examples(tokenizer, Demonstration(messages=(user("ok"), assistant("thanks"))), 100)
    assert render_with_mask(tokenizer, example) == (
        "<bos><start_of_turn>user\nok<end_of_turn>\n<start_of_turn>model\n⟦thanks<end_of_turn>⟧"
    )


def pair(first, second, **fields):
    return PreferencePair(prompt=ASK, responses=(first, second), **fields)


def test_a_response_in_several_reward_pairs_is_computed_once(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    pairs = [
        pair("ok", "thanks", more_helpful=0),
        pair("thanks", "bread", more_helpful=1),
        pair("ok", "bread", more_helpful=1),
    ]
    batch, _ = collate_rewards(tokenizer, pairs, 100)
    # rows in order of appearance: 0 ok, 1 thanks, 2 bread
    assert batch.responses.input_ids.shape[0] == 3
    assert batch.winners.tolist() == [0, 2, 2]
    assert batch.losers.tolist() == [1, 1, 0]
    assert real(batch.responses, 2)[-2:] == response_ids(tokenizer, "bread")[-2:]


def test_the_cost_winner_is_the_more_harmful_and_unsafe_is_plus_one(tokenizer_of):
    pairs = [pair("ok", "thanks", safer=0, is_safe=(True, False))]
    labels = [
        SafetyLabel(prompt=ASK, response="ok", is_safe=True),
        SafetyLabel(prompt=ASK, response="bread", is_safe=False),
    ]
    batch, _ = collate_costs(tokenizer_of("llama"), pairs, labels, 100)
    # rows: 0 ok (safe), 1 thanks (unsafe), 2 bread (unsafe); the first label is row 0 again
    assert (batch.winners.tolist(), batch.losers.tolist()) == ([1], [0])
    assert batch.signs.tolist() == [-1.0, 1.0, 1.0]
    assert batch.singles.tolist() == [0, 2]


def test_a_response_labelled_both_ways_has_a_row_for_each_sign(tokenizer_of):
    labels = [SafetyLabel(prompt=ASK, response="ok", is_safe=is_safe) for is_safe in (True, False, True)]
    batch, _ = collate_costs(tokenizer_of("llama"), [], labels, 100)
    assert batch.signs.tolist() == [-1.0, 1.0]
    assert batch.singles.tolist() == [0, 1, 0]


def test_category_signs_are_plus_one_where_named_and_unknown_where_the_label_does_not_say(tokenizer_of):
    pairs = [pair("ok", "thanks", safer=0, is_safe=(True, False), categories=((), ("drugs",)))]
    labels = [
        SafetyLabel(prompt=ASK, response="bread", is_safe=False),
        SafetyLabel(prompt=ASK, response="thanks", is_safe=False, categories=("hate", "other")),
        SafetyLabel(prompt=ASK, response="flour", is_safe=True, categories=("hate",)),  # at odds with itself
    ]
    batch, _ = collate_costs(tokenizer_of("llama"), pairs, labels, 100, categories=("hate", "drugs"))
    # rows: 0 ok, 1 thanks by its first label, 2 bread, 3 thanks by its second label, 4 flour
    assert batch.category_known.tolist() == [True, True, False, True, False]
    assert batch.category_signs[batch.category_known].tolist() == [[-1, -1], [-1, 1], [1, -1]]
    assert batch.singles.tolist() == [2, 3, 4]


def test_without_categories_the_labels_names_split_no_rows(tokenizer_of):
    labels = [
        SafetyLabel(prompt=ASK, response="ok", is_safe=False, categories=named) for named in ((), ("drugs",))
    ]
    batch, _ = collate_costs(tokenizer_of("llama"), [], labels, 100)
    assert batch.signs.tolist() == [1.0]
    assert batch.category_signs.shape == (1, 0)


def test_labels_alone_make_a_cost_batch_without_pairs(tokenizer_of):
    labels = [SafetyLabel(prompt=ASK, response="ok", is_safe=True)]
    batch, _ = collate_costs(tokenizer_of("llama"), [], labels, 100)
    assert batch.winners.shape == batch.losers.shape == (0,)
    assert batch.signs.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("fields", "missing"),
    [({"is_safe": (True, False)}, "no safer"), ({"safer": 0, "is_safe": (True, None)}, "no is_safe")],
)
def test_a_cost_pair_without_its_labels_is_refused_by_field(tokenizer_of, fields, missing):
    with pytest.raises(DataError, match=missing):
        collate_costs(tokenizer_of("llama"), [pair("ok", "thanks", **fields)], [], 100)


def test_a_reward_pair_without_a_helpfulness_label_is_refused(tokenizer_of):
    with pytest.raises(DataError, match="no more_helpful"):
        collate_rewards(tokenizer_of("llama"), [pair("ok", "thanks", safer=0)], 100)


def test_masks_are_bool_and_ids_are_int64(tokenizer_of):
    batch, _ = collate_scores(tokenizer_of("llama"), [(ASK.messages, "ok")], 100)
    assert batch.attention_mask.dtype == torch.bool
    assert batch.input_ids.dtype == torch.int64


def test_many_demonstrations_give_the_examples_of_each(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    several = [
        Demonstration(messages=(*ask, assistant(text)))
        for ask, text in ((Prompt.from_text("hi").messages, "yes"), (Prompt.from_text("and now ?").messages, "no"))
    ]
    one_by_one = [example for each in several for example in sft_examples(tokenizer, each, 60)]
    assert many_sft_examples(tokenizer, several, 60) == one_by_one
