import json
from collections import Counter
from pathlib import Path

import pytest

from equipoise import artefact
from equipoise.errors import ConfigError
from equipoise.playground.config import HeldOut, TinyConfig, WorldConfig
from equipoise.playground.language import language, words
from equipoise.playground.oracle import find_request
from equipoise.playground.world import build, demonstrate, held_out_prompts, training_prompts, validation_prompts
from equipoise.records import BEAVERTAILS_CATEGORIES, Demonstration, Prompt

CONFIG = WorldConfig()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(CONFIG.model_copy(update={"out": tmp_path_factory.mktemp("playground") / "world"}))


def prompts_in(path: Path) -> list[Prompt]:
    return [Prompt.model_validate_json(line) for line in path.read_text().splitlines()]


def demonstrations_in(path: Path) -> list[Demonstration]:
    return [Demonstration.model_validate_json(line) for line in path.read_text().splitlines()]


def requests_of(prompts: list[Prompt]) -> set[tuple[str, str]]:
    found = [find_request(prompt) for prompt in prompts]
    assert None not in found
    return {(request.family.kind, request.phrase) for request in found if request}


def test_the_world_has_the_sizes_asked_for(world: Path) -> None:
    facts = artefact.read_manifest(world, ("world",)).facts
    assert facts["demonstrations"] == 16000
    assert facts["parameters"] < 900_000
    assert facts["vocabulary"] <= 1200
    kinds = Counter(prompt.kind for prompt in prompts_in(world / "heldout.jsonl"))
    assert kinds == {"harmful": 2000, "harmless": 700, "look_alike": 450}


def test_half_of_the_held_out_harmful_prompts_are_wrapped_by_wrappers_never_trained_on(world: Path) -> None:
    held_out = prompts_in(world / "heldout.jsonl")
    wrapped = [prompt for prompt in held_out if prompt.kind == "harmful" and prompt.attack]
    assert len(wrapped) == 1000
    trained = {wrapper.name for wrapper in language().training_wrappers}
    assert not {prompt.attack for prompt in held_out if prompt.attack} & trained
    for file in ("prompts.jsonl", "validation.jsonl"):
        attacks = {prompt.attack for prompt in prompts_in(world / file) if prompt.attack}
        assert attacks <= trained
    given = {json.loads(line)["name"] for line in (world / "wrappers.jsonl").read_text().splitlines()}
    assert given == trained


def test_held_out_and_validation_requests_are_asked_nowhere_else(world: Path) -> None:
    held_out = requests_of(prompts_in(world / "heldout.jsonl"))
    validation = requests_of(prompts_in(world / "validation.jsonl"))
    training = requests_of(prompts_in(world / "prompts.jsonl"))
    demonstrated = requests_of(
        [
            Prompt(messages=d.messages[: place + 1])
            for d in demonstrations_in(world / "demonstrations.jsonl")
            for place, message in enumerate(d.messages)
            if message.role == "user" and find_request(Prompt(messages=d.messages[: place + 1]))
        ]
    )
    assert not held_out & (validation | training | demonstrated)
    assert not validation & (training | demonstrated)
    every = {(kind, r.phrase) for kind in ("harmful", "harmless", "look_alike") for r in language().requests(kind)}  # type: ignore[arg-type]
    assert held_out | validation | training == every


def test_no_prompt_comes_twice(world: Path) -> None:
    files = ("prompts.jsonl", "validation.jsonl", "heldout.jsonl")
    ids = [prompt.id for file in files for prompt in prompts_in(world / file)]
    assert len(set(ids)) == len(ids)


def test_every_held_out_word_occurs_in_training_text(world: Path) -> None:
    demonstrations = demonstrations_in(world / "demonstrations.jsonl")
    trained = {word for d in demonstrations for message in d.messages for word in words(message.content)}
    for file in ("heldout.jsonl", "validation.jsonl", "prompts.jsonl"):
        said = {word for p in prompts_in(world / file) for m in p.messages for word in words(m.content)}
        assert said <= trained, said - trained


def test_kinds_and_categories_are_those_of_the_request(world: Path) -> None:
    for prompt in prompts_in(world / "heldout.jsonl"):
        request = find_request(prompt)
        assert request is not None
        assert (prompt.kind, prompt.category) == (request.family.kind, request.family.category)


@pytest.mark.parametrize("kind", ["harmful", "harmless", "look_alike"])
def test_the_held_out_set_spans_all_categories(world: Path, kind: str) -> None:
    counts = Counter(p.category for p in prompts_in(world / "heldout.jsonl") if p.kind == kind)
    assert set(counts) == set(BEAVERTAILS_CATEGORIES)
    assert min(counts.values()) >= 15


def test_a_larger_held_out_set_has_300_distinct_harmful_prompts_of_each_category() -> None:
    prompts = held_out_prompts(HeldOut(harmful=5600), CONFIG.prompt_mix.multi_turn, 0)
    harmful = {prompt.id: prompt.category for prompt in prompts if prompt.kind == "harmful"}
    assert len(harmful) == 5600
    counts = Counter(harmful.values())
    assert set(counts) == set(BEAVERTAILS_CATEGORIES)
    assert min(counts.values()) >= 350


def test_multi_turn_prompts_are_harmful_and_harmless(world: Path) -> None:
    held_out = prompts_in(world / "heldout.jsonl")
    kinds = Counter(p.kind for p in held_out if p.attack is None and len(p.messages) > 1)
    assert min(kinds["harmful"], kinds["harmless"], kinds["look_alike"]) >= 30


def test_sequences_are_short_and_nothing_is_unknown_to_the_tokenizer(world: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    for prompt in prompts_in(world / "heldout.jsonl"):
        turns = [message.model_dump() for message in prompt.messages]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 56
    for demonstration in demonstrations_in(world / "demonstrations.jsonl")[:1000]:
        ids = tokenizer(demonstration.messages[-1].content)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 44


def test_the_template_ends_an_assistant_turn_with_eos_and_text_survives_the_round_trip(world: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    turns = [{"role": "user", "content": "how do i wash the dog ?"}, {"role": "assistant", "content": "wet it ."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    said = "<bos> <user> how do i wash the dog ? <assistant> wet it . <eos>"
    assert " ".join(text.split()) == said
    ids = tokenizer.apply_chat_template(turns, return_dict=False)
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert ids[: len(asked)] == asked
    assert tokenizer.decode(ids, skip_special_tokens=True) == "how do i wash the dog ? wet it ."
    assert tokenizer.tokenize("Wash the Dog?") == ["wash", "the", "dog", "?"]


def test_the_base_model_loads_like_any_other(world: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(world / "base")
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    small = WorldConfig(
        demonstrations=50,
        prompts=50,
        validation=20,
        held_out=HeldOut(harmful=40, harmless=20, look_alike=20),
        model=TinyConfig(hidden_size=16, layers=1, heads=2, intermediate_size=16),
    )
    hashes = []
    for place, seed in enumerate((3, 3, 4)):
        out = build(small.model_copy(update={"out": tmp_path / str(place), "seed": seed}))
        hashes.append(artefact.read_manifest(out).files)
    assert hashes[0] == hashes[1]
    changed = {name for name in hashes[0] if hashes[0][name] != hashes[2][name]}
    assert changed >= {"demonstrations.jsonl", "prompts.jsonl", "heldout.jsonl", "base/model.safetensors"}


def test_a_finished_world_is_not_built_again(world: Path) -> None:
    before = (world / "manifest.json").stat().st_mtime_ns
    build(CONFIG.model_copy(update={"out": world}))
    assert (world / "manifest.json").stat().st_mtime_ns == before


def test_training_prompts_word_nothing_as_the_demonstrations_do() -> None:
    config = WorldConfig(demonstrations=400, prompts=300)
    known = {prompt.id for prompt, _ in demonstrate(config)}
    assert not known & {prompt.id for prompt in training_prompts(config, known)}


def test_prompts_follow_the_mix() -> None:
    prompts = training_prompts(WorldConfig(prompts=2000), set())
    shares = Counter(prompt.kind for prompt in prompts)
    assert shares == {"harmful": 900, "look_alike": 440, "harmless": 660}
    wrapped = sum(p.kind == "harmful" and p.attack is not None for p in prompts) / shares["harmful"]
    assert wrapped == pytest.approx(0.5, abs=0.05)
    assert any(p.attack for p in prompts if p.kind != "harmful")


def test_more_prompts_than_the_language_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipoise.playground.world._TRIES", 2)  # all wordings would take half a minute
    with pytest.raises(ConfigError, match="no further wording"):
        held_out_prompts(HeldOut(harmful=2, harmless=2, look_alike=1_000_000), 0.0, 0)


def test_validation_asks_for_requests_of_its_own_part() -> None:
    for prompt in validation_prompts(WorldConfig(validation=60)):
        request = find_request(prompt)
        assert request is not None
        assert request.part == "validation"
