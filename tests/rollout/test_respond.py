import json
from pathlib import Path

import pytest
from rollout_models import make_scorer

from equipoise.artefact import read_manifest
from equipoise.data.jsonl import read_records
from equipoise.errors import ArtefactError, DataError, EquipoiseError, ModelError
from equipoise.models.normalize import Normalizer
from equipoise.records import Response, ScoredResponse
from equipoise.rollout.config import FunctionScore, ModelScore, RespondConfig, Sampling
from equipoise.rollout.respond import respond
from equipoise.rollout.score import open_score_source

PROMPTS = [
    "ok",
    "how do i bake bread with water and flour , and then how do i bake more bread",
    "bake it",
    "how do i help",
    "mix flour and water",
]


def text_lengths(responses: list[Response]) -> list[float]:
    return [float(len(response.text)) for response in responses]


def config_for(folder: Path, policy: Path, prompts: list[str] | None = None, **settings: object) -> RespondConfig:
    folder.mkdir(exist_ok=True)
    source = folder / "prompts.txt"
    source.write_text("\n".join(prompts or PROMPTS))
    given = {
        "sampling": Sampling(max_new_tokens=8, temperature=0.0),
        "max_prompt_length": 80,
        "batch_size": 2,
        "device": "cpu",
        **settings,
    }
    tree = {"policy": policy, "prompts": [{"path": str(source)}], **given}
    return RespondConfig.model_validate({"out": folder / "out", **tree})


def answers(config: RespondConfig) -> list[Response]:
    return read_records(respond(config) / "responses.jsonl", Response)


def test_responses_come_in_the_order_of_the_prompts(tmp_path, policy_folder):
    found = answers(config_for(tmp_path, policy_folder))
    assert [response.prompt.text for response in found] == PROMPTS
    assert {response.policy for response in found} == {"tiny-policy"}


@pytest.mark.parametrize(("keep", "chosen"), [("first", (0, 1, 2)), ("evenly", (0, 1, 3))])
def test_a_limit_keeps_the_first_prompts_or_ones_spread_over_the_file(tmp_path, policy_folder, keep, chosen):
    found = answers(config_for(tmp_path, policy_folder, limit=3, keep=keep))
    assert [response.prompt.text for response in found] == [PROMPTS[i] for i in chosen]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_response_does_not_depend_on_its_batch(tmp_path, policy_folder, temperature):
    # What stands next to a prompt decides its padding only, and padding must change nothing; nor does it matter
    # how many prompts are answered in a step: with 8 samples one, three or all.
    sampling = Sampling(max_new_tokens=8, temperature=temperature)
    texts = [
        [r.text for r in answers(config_for(tmp_path / name, policy_folder, sampling=sampling, **settings))]
        for name, settings in (
            ("a", {"samples_per_prompt": 8, "batch_size": 1}),
            ("b", {"samples_per_prompt": 8, "batch_size": 3}),
            ("c", {"samples_per_prompt": 8, "batch_size": 64}),
        )
    ]
    assert texts[0] == texts[1] == texts[2]
    assert any(texts[0])


def test_the_seed_decides_the_responses(tmp_path, policy_folder):
    sampling = Sampling(max_new_tokens=8)
    texts = [
        [r.text for r in answers(config_for(tmp_path / name, policy_folder, sampling=sampling, seed=seed))]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_several_samples_of_a_prompt_are_numbered_and_differ(tmp_path, policy_folder):
    sampling = Sampling(max_new_tokens=8, temperature=1.5)
    config = config_for(tmp_path, policy_folder, sampling=sampling, samples_per_prompt=3, limit=2, name="mine")
    found = answers(config)
    assert [(r.prompt.text, r.sample, r.policy) for r in found] == [
        (prompt, sample, "mine") for prompt in PROMPTS[:2] for sample in range(3)
    ]
    assert len({r.text for r in found[:3]}) > 1


def test_prompts_that_are_too_long_are_refused_by_name(tmp_path, policy_folder):
    with pytest.raises(DataError, match=r"1 of 5 prompts(.|\n)*how do i bake bread with water(.|\n)*too_long"):
        respond(config_for(tmp_path, policy_folder, max_prompt_length=40))


def test_prompts_that_are_too_long_are_dropped_and_counted_on_request(tmp_path, policy_folder):
    config = config_for(tmp_path, policy_folder, max_prompt_length=40, too_long="drop")
    assert [r.prompt.text for r in answers(config)] == [PROMPTS[0], *PROMPTS[2:]]
    facts = read_manifest(config.out, ("responses",)).facts
    assert (facts["prompts"], facts["dropped_prompts"], facts["responses"]) == (4, 1, 4)


def test_lengths_beyond_the_policy_s_context_are_refused(tmp_path, policy_folder):
    with pytest.raises(ModelError, match="112 tokens do not fit the model's context of 96"):
        respond(config_for(tmp_path, policy_folder, sampling=Sampling(max_new_tokens=32)))


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EquipoiseError, match="tokenizer"):
        respond(config_for(tmp_path, empty))


def test_scores_are_attached_to_the_right_responses(tmp_path, policy_folder):
    cost = make_scorer(tmp_path / "cost", "cost", Normalizer())
    config = config_for(
        tmp_path,
        policy_folder,
        reward=FunctionScore(function=f"{__name__}:text_lengths"),
        cost=ModelScore(path=cost, batch_size=2),
    )
    found = read_records(respond(config) / "responses.jsonl", ScoredResponse)
    assert [r.reward for r in found] == [len(r.text) for r in found]
    assert len({r.cost for r in found}) == len(PROMPTS)
    assert set(read_manifest(config.out).inputs) == {"policy", "cost", "prompts-0"}
    assert "category_costs" not in (config.out / "responses.jsonl").read_text()


def test_costs_by_category_stand_beside_the_cost(tmp_path, policy_folder):
    cost = ModelScore(path=make_scorer(tmp_path / "cost", "cost", Normalizer(), ("hate", "drugs")), batch_size=2)
    found = read_records(
        respond(config_for(tmp_path, policy_folder, cost=cost)) / "responses.jsonl", ScoredResponse
    )
    costs, by_category = open_score_source(cost).score_with_categories(found)
    assert [r.cost for r in found] == pytest.approx(costs, abs=1e-5)
    for response, (hate, drugs) in zip(found, by_category, strict=True):
        assert response.category_costs == pytest.approx({"hate": hate, "drugs": drugs}, abs=1e-5)


def test_a_finished_directory_is_not_made_again_and_another_run_is_refused(tmp_path, policy_folder):
    config = config_for(tmp_path, policy_folder)
    before = (respond(config) / "manifest.json").stat().st_mtime_ns
    assert (respond(config) / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ArtefactError, match="seed"):
        respond(config.model_copy(update={"seed": 7}))


def test_progress_is_logged_once_even_after_an_interrupted_run(tmp_path, policy_folder):
    config = config_for(tmp_path, policy_folder, samples_per_prompt=8)
    respond(config)
    (config.out / "manifest.json").unlink()  # as if the run had been killed before its end
    respond(config)
    steps = [json.loads(line)["step"] for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]  # 5 prompts with 8 samples each; 8 batches of 2 responses make a step
