"""Engines against the sampler through `generate`, by fakes of vLLM: no real vLLM has answered here."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vllm import FakeLLM, fake_modules, serving
from peft import LoraConfig
from pydantic import TypeAdapter
from test_respond import answers, config_for
from transformers import PreTrainedModel

from equipoise.errors import ConfigError, EndpointError, ModelError
from equipoise.models.adapters import add_adapter
from equipoise.models.backbone import load_causal_lm, save_weights
from equipoise.records import Message
from equipoise.rollout import respond as respond_module
from equipoise.rollout.config import SamplerConfig, Sampling
from equipoise.rollout.hf import HfSampler
from equipoise.rollout.native import NativeSampler
from equipoise.rollout.opening import check_sampler, open_sampler
from equipoise.rollout.sampler import Engine, Sampler
from equipoise.tokens.batches import PromptBatch, Rollout
from equipoise.tokens.collate import collate_prompts
from equipoise.tokens.template import end_id, load_tokenizer
from equipoise.train.forward import actor_log_probs

TEXTS = ("ok", "how do i bake bread with water and flour", "bake it", "how do i help")
SETTINGS = [
    Sampling(max_new_tokens=6),
    Sampling(max_new_tokens=6, temperature=0.7, top_p=0.8),
    Sampling(max_new_tokens=6, temperature=1.3, repetition_penalty=1.4),
]
ROUNDING = 1e-4
Opened = Callable[[PreTrainedModel], Sampler]


def settings(**tree: Any) -> SamplerConfig:
    found: TypeAdapter[SamplerConfig] = TypeAdapter(SamplerConfig)
    return found.validate_python(tree)


@pytest.fixture
def vllm_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(params=["vllm", "vllm_server"])
def opened(request: pytest.FixtureRequest, policy_folder: Path, vllm_module: None) -> Iterator[Opened]:
    """Opens an engine of either kind, which starts from the tiny policy, for a model."""
    tokenizer = load_tokenizer(policy_folder)
    with serving(policy_folder) as server:
        tree = {"type": request.param} | ({"url": server.url} if request.param == "vllm_server" else {})
        yield lambda model: open_sampler(settings(**tree), model, tokenizer, length=64)


def asked(folder: Path) -> PromptBatch:
    turns = [(Message(role="user", content=text),) for text in TEXTS]
    return collate_prompts(load_tokenizer(folder), turns, 64).batch


def draw(sampler: Sampler, folder: Path, sampling: Sampling, samples: int = 1, seed: int = 0) -> Rollout:
    return sampler.sample(asked(folder), sampling, torch.Generator().manual_seed(seed), samples)


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The same model some steps of training later."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def log_probs_match(rollout: Rollout, model: PreTrainedModel, sampling: Sampling) -> bool:
    """Whether a rollout carries the log-probabilities of this model."""
    with torch.no_grad():
        own = actor_log_probs(model, rollout, sampling)
    return torch.allclose(own, rollout.log_probs, atol=ROUNDING)


def test_greedy_answers_are_those_of_generate(opened, policy_folder):
    model = load_causal_lm(policy_folder)
    tokenizer = load_tokenizer(policy_folder)
    sampling = Sampling(max_new_tokens=12, temperature=0.0)
    ours = draw(opened(model), policy_folder, sampling, samples=2)
    theirs = draw(HfSampler(model, end_id(tokenizer), tokenizer.pad_token_id), policy_folder, sampling, samples=2)
    for name in vars(ours):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("sampling", SETTINGS)
def test_a_rollout_carries_the_log_probabilities_that_its_tokens_were_drawn_with(opened, policy_folder, sampling):
    model = load_causal_lm(policy_folder)
    rollout = draw(opened(model), policy_folder, sampling, samples=3)
    assert len(rollout.input_ids) == 3 * len(TEXTS)
    assert rollout.response_mask.any(dim=1).all()
    assert rollout.log_probs[rollout.response_mask].mean() < -0.1
    assert log_probs_match(rollout, model, sampling)


def test_the_generator_decides_everything_and_no_two_rows_share_their_numbers(opened, policy_folder):
    sampler = opened(load_causal_lm(policy_folder))
    first, again, other = (draw(sampler, policy_folder, SETTINGS[0], 2, seed) for seed in (1, 1, 2))
    assert torch.equal(first.input_ids, again.input_ids)
    assert first.input_ids.shape != other.input_ids.shape or not torch.equal(first.input_ids, other.input_ids)
    one = asked(policy_folder)
    same = PromptBatch(one.input_ids[:1].repeat(8, 1), one.attention_mask[:1].repeat(8, 1))
    rows = sampler.sample(same, SETTINGS[0], torch.Generator().manual_seed(0), 2).input_ids
    assert len({tuple(row) for row in rows.tolist()}) > 8


@pytest.mark.parametrize("lora", [False, True])
def test_an_engine_draws_from_the_weights_that_it_was_last_given(opened, policy_folder, tmp_path, lora):
    model = load_causal_lm(policy_folder)
    if lora:
        add_adapter(model, "actor", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]), 0)
    sampler = opened(model)
    assert isinstance(sampler, Engine)
    for step in range(3):
        moved(model)
        assert not log_probs_match(draw(sampler, policy_folder, SETTINGS[0]), model, SETTINGS[0])
        folder = tmp_path / f"policy-{step}"
        folder.mkdir()
        save_weights(model, folder)
        assert (folder / "adapter_config.json").exists() == lora
        sampler.load(folder)
        assert log_probs_match(draw(sampler, policy_folder, SETTINGS[0]), model, SETTINGS[0])


def test_only_engines_have_weights_of_their_own(opened, policy_folder):
    model = load_causal_lm(policy_folder)
    assert isinstance(opened(model), Engine)
    assert not isinstance(NativeSampler(model, 2, 0), Engine)
    assert not isinstance(HfSampler(model, 2, 0), Engine)


def test_a_context_that_is_too_short_is_refused_before_sampling(opened, policy_folder):
    with pytest.raises(ModelError, match="the model has 64 positions"):
        draw(opened(load_causal_lm(policy_folder)), policy_folder, Sampling(max_new_tokens=62))


def test_a_server_with_too_short_a_context_is_refused_at_once(policy_folder):
    with (
        serving(policy_folder, context=40) as server,
        pytest.raises(ConfigError, match=r"41 tokens.* takes 40"),
    ):
        check_sampler(settings(type="vllm_server", url=server.url), 41)


def test_a_model_that_the_server_lacks_is_refused_with_those_it_has(policy_folder):
    with (
        serving(policy_folder) as server,
        pytest.raises(ConfigError, match=r"model other\.(.|\n)*model: base"),
    ):
        check_sampler(settings(type="vllm_server", url=server.url, model="other"), 10)


def test_a_server_that_is_not_there_is_named_after_the_attempts():
    nowhere = settings(type="vllm_server", url="http://127.0.0.1:9", retries=1)
    with pytest.raises(
        EndpointError, match=r"no vLLM server(.|\n)*127\.0\.0\.1:9(.|\n)*Connection(.|\n)*vllm serve"
    ):
        check_sampler(nowhere, 10)


def test_a_server_that_is_busy_is_asked_again(policy_folder):
    sampler_settings = {"type": "vllm_server", "retries": 1, "connections": 1}
    with serving(policy_folder) as server:
        model, tokenizer = load_causal_lm(policy_folder), load_tokenizer(policy_folder)
        sampler = open_sampler(settings(url=server.url, **sampler_settings), model, tokenizer, 64)
        server.busy_after = 3
        with pytest.raises(EndpointError, match=r"did not answer a prompt(.|\n)*503(.|\n)*last checkpoint"):
            draw(sampler, policy_folder, SETTINGS[0])
    assert len(server.asked) == 5
    assert server.asked[3] == server.asked[4]


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"token_ids": [5, 7], "logprobs": {"token_logprobs": [-1.0, -1.0]}}, "stopped after 2 tokens"),
        ({"token_ids": [], "logprobs": {"token_logprobs": []}}, "stopped after 0 tokens"),
        ({"token_ids": [5] * 7, "logprobs": {"token_logprobs": [-1.0] * 7}}, "stopped after 7 tokens"),
        ({"token_ids": [5] * 6, "logprobs": {"token_logprobs": [-1.0] * 5 + [None]}}, "no log-probability"),
        ({"token_ids": [5] * 6, "logprobs": {"token_logprobs": [-1.0] * 5}}, "no log-probability"),
        ({"token_ids": [5] * 6}, "not as documented(.|\n)*logprobs"),
        ({"logprobs": {"token_logprobs": [-1.0]}}, "not as documented(.|\n)*token_ids"),
        (None, "gave 0 responses, 1 were asked for"),
    ],
)
def test_an_answer_that_is_no_response_is_refused(policy_folder, choice, why):
    with serving(policy_folder) as server:
        model, tokenizer = load_causal_lm(policy_folder), load_tokenizer(policy_folder)
        sampler = open_sampler(settings(type="vllm_server", url=server.url), model, tokenizer, 64)
        server.reply = {"choices": [] if choice is None else [choice]}
        with pytest.raises(EndpointError, match=why):
            draw(sampler, policy_folder, SETTINGS[0])


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'equipoise\[vllm\]'"):
        check_sampler(settings(type="vllm"), 10)


def test_the_engine_of_a_process_sleeps_unless_it_samples(vllm_module, policy_folder, tmp_path):
    model = load_causal_lm(policy_folder, dtype=torch.bfloat16)
    sampler = open_sampler(settings(type="vllm"), model, load_tokenizer(policy_folder), 64)
    llm = FakeLLM.started
    assert llm is not None and llm.asleep and (llm.context, llm.dtype) == (64, "bfloat16")
    draw(sampler, policy_folder, SETTINGS[0])
    save_weights(model, tmp_path)
    assert isinstance(sampler, Engine)
    sampler.load(tmp_path)
    assert llm.asleep == {"kv_cache"}  # no room is taken for keys and values while weights arrive
    draw(sampler, policy_folder, SETTINGS[0])
    assert llm.asleep
    assert llm.history == ["sleep 1", "generate", "sleep 1", "reload", "generate", "sleep 1"]


@pytest.mark.parametrize(("rank", "largest"), [(4, 8), (16, 16), (20, 32)])
def test_the_engine_of_a_process_has_room_for_the_adapter(vllm_module, policy_folder, rank, largest):
    model = load_causal_lm(policy_folder)
    add_adapter(model, "actor", LoraConfig(r=rank, target_modules=["q_proj"]), 0)
    open_sampler(settings(type="vllm"), model, load_tokenizer(policy_folder), 64)
    assert FakeLLM.started is not None
    assert (FakeLLM.started.has_lora, FakeLLM.started.max_rank) == (True, largest)


@pytest.mark.parametrize("kind", ["vllm", "vllm_server"])
def test_respond_asks_an_engine_and_loads_no_weights_itself(
    vllm_module, policy_folder, tmp_path, monkeypatch, kind
):
    native = answers(config_for(tmp_path / "native", policy_folder))
    monkeypatch.setattr(respond_module, "load_causal_lm", lambda *_, **__: pytest.fail("weights were loaded"))
    with serving(policy_folder, context=96) as server:
        chosen = {"type": kind} | ({"url": server.url} if kind == "vllm_server" else {})
        found = answers(config_for(tmp_path / "engine", policy_folder, sampler=chosen))
        assert server.core.loaded == ([str(policy_folder.resolve())] if kind == "vllm_server" else [])
    assert found == native


def test_settings_of_one_sampler_are_unknown_to_another():
    assert settings(type="native", slots=3).slots == 3  # type: ignore[union-attr]
    for wrong in ({"type": "hf", "slots": 3}, {"type": "vllm", "url": "http://a"}, {"type": "vllm_server"}, {}):
        with pytest.raises(ValueError, match="validation error"):
            settings(**wrong)
