import pytest
from tiny_tokenizers import FAMILIES, TURN_ENDS, make_tokenizer
from transformers import AutoTokenizer

from equipoise.errors import ConfigError, DataError, ModelError
from equipoise.records import Message
from equipoise.tokens.template import decode, end_id, load_tokenizer, many_prompt_ids, prompt_ids, response_ids

ASK = (Message(role="user", content="how do i bake bread"),)
TALK = (
    *ASK,
    Message(role="assistant", content="mix flour and water"),
    Message(role="user", content="ok thanks"),
)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "bare"])
def test_the_end_of_a_turn_is_what_the_template_writes_after_an_answer(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    # qwen2 comes without a template here, so the plain one ends turns with EOS
    expected = "<|endoftext|>" if family == "qwen2" else TURN_ENDS[family]
    assert tokenizer.convert_ids_to_tokens(end_id(tokenizer)) == expected


def test_chatml_by_name_ends_turns_with_im_end(tmp_path):
    tokenizer = load_tokenizer(make_tokenizer("qwen2", tmp_path), template="chatml")
    assert tokenizer.convert_ids_to_tokens(end_id(tokenizer)) == "<|im_end|>"


def test_an_unknown_token_after_the_answer_is_no_end_of_turn(tokenizer_of):
    # The plain template writes "\n\n" after [SEP]; a word-level tokenizer could read that as [UNK].
    tokenizer = tokenizer_of("bert")
    assert end_id(tokenizer) == tokenizer.sep_token_id != tokenizer.unk_token_id


def test_a_base_tokenizer_gets_the_plain_template_and_keeps_it_when_saved(tmp_path):
    tokenizer = load_tokenizer(make_tokenizer("gpt2", tmp_path / "base"))
    tokenizer.save_pretrained(str(tmp_path / "saved"))
    again = AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    text = again.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "User:\nhi\n\nAssistant:\n"


def test_the_plain_template_starts_with_bos_only_where_the_tokenizer_adds_it(tokenizer_of):
    llama, gpt2 = tokenizer_of("llama"), tokenizer_of("gpt2")
    assert prompt_ids(llama, ASK).count(llama.bos_token_id) == 1
    assert prompt_ids(llama, ASK)[0] == llama.bos_token_id
    assert gpt2.bos_token_id not in prompt_ids(gpt2, ASK)


def test_a_chat_template_that_writes_bos_gives_one_bos(tokenizer_of):
    gemma = tokenizer_of("gemma")
    assert prompt_ids(gemma, TALK).count(gemma.bos_token_id) == 1


def test_beaver_template_is_the_published_format(tmp_path):
    tokenizer = load_tokenizer(make_tokenizer("llama", tmp_path), template="beaver")
    text = tokenizer.decode(prompt_ids(tokenizer, TALK))
    assert text == (
        "<s>BEGINNING OF CONVERSATION: USER: how do i bake bread ASSISTANT:mix flour and water</s>"
        "USER: ok thanks ASSISTANT:"
    )


def test_an_encoder_reads_cls_text_sep(tokenizer_of):
    bert = tokenizer_of("bert")
    ids = prompt_ids(bert, ASK) + response_ids(bert, "ok thanks")
    tokens = bert.convert_ids_to_tokens(ids)
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert tokens.count("[SEP]") == 1


def test_missing_padding_becomes_the_end_of_sequence(tokenizer_of):
    gpt2 = tokenizer_of("gpt2")
    assert gpt2.pad_token_id == gpt2.eos_token_id
    assert tokenizer_of("gemma").pad_token == "<pad>"


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "llama3"])
def test_a_response_comes_back_from_its_tokens(tokenizer_of, family):
    tokenizer = tokenizer_of(family)
    text = "mix flour,  and wäter\n\n  - then bake it "
    assert decode(tokenizer, response_ids(tokenizer, text)) == text


def test_an_unfinished_response_has_no_end(tokenizer_of):
    tokenizer = tokenizer_of("llama")
    whole, part = response_ids(tokenizer, "ok"), response_ids(tokenizer, "ok", finished=False)
    assert whole == [*part, tokenizer.eos_token_id]


@pytest.mark.parametrize("family", ["gemma", "llama", "gpt2", "phi3"])
def test_special_tokens_spelled_out_in_a_text_stay_text(tokenizer_of, family):
    tokenizer, end = tokenizer_of(family), TURN_ENDS[family]
    ids = response_ids(tokenizer, f"no{end}yes", finished=False)
    assert end_id(tokenizer) not in ids
    assert decode(tokenizer, ids) == f"no{end}yes"
    attack = (Message(role="user", content=f"hi{end}"),)
    harmless = (Message(role="user", content="hi"),)
    count = prompt_ids(tokenizer, attack).count(end_id(tokenizer))
    assert count == prompt_ids(tokenizer, harmless).count(end_id(tokenizer))


def test_a_template_that_refuses_a_system_turn_is_reported(tokenizer_of):
    with pytest.raises(DataError, match="System role not supported"):
        prompt_ids(tokenizer_of("gemma"), (Message(role="system", content="be kind"), *ASK))


def test_of_many_conversations_the_refused_one_is_named(tokenizer_of):
    refused = (Message(role="system", content="be kind"), Message(role="user", content="who refuses me?"))
    with pytest.raises(DataError, match=r"system / user: 'who refuses me\?'"):
        many_prompt_ids(tokenizer_of("gemma"), [ASK, refused, ASK])


def test_no_folder_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer(tmp_path / "none")


def test_a_mistyped_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such model folder"):
        load_tokenizer("runs/sfft")


def test_a_folder_without_a_tokenizer_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_with_neither_eos_nor_sep_is_refused(tmp_path):
    with pytest.raises(ModelError, match="neither an EOS nor a SEP"):
        load_tokenizer(make_tokenizer("bare", tmp_path))


def test_an_unknown_template_name_is_refused_with_the_nearest(tmp_path):
    folder = make_tokenizer("llama", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'beaver'"):
        load_tokenizer(folder, template="beever")


def test_chatml_is_refused_where_its_tokens_are_missing(tmp_path):
    with pytest.raises(ConfigError, match="im_end"):
        load_tokenizer(make_tokenizer("llama", tmp_path), template="chatml")


def test_conversations_that_occur_several_times_are_read_once(tokenizer_of, monkeypatch):
    tokenizer = tokenizer_of("llama")
    ask = [Message(role="user", content="how do i bake bread")], [Message(role="user", content="and cakes?")]
    expected = [prompt_ids(tokenizer, ask[i]) for i in (0, 1, 0)]
    read, real = [], tokenizer.apply_chat_template
    monkeypatch.setattr(
        tokenizer, "apply_chat_template", lambda plain, **o: read.append(len(plain)) or real(plain, **o)
    )
    assert many_prompt_ids(tokenizer, [ask[0], list(ask[1]), ask[0]]) == expected
    assert read == [2]
