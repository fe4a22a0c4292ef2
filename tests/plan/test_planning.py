"""What is planned is what is there: bytes of real networks, optimizers and caches, each counted once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from train_models import cost_model, make_policy, ppo, sft
from transformers import DynamicCache, LlamaConfig

from equipoise.cli import main as cli
from equipoise.cli.layering import find_recipe
from equipoise.config import merge, read_toml, validate
from equipoise.errors import ConfigError, ModelError
from equipoise.models.backbone import load_causal_lm
from equipoise.models.four_bit import quantized_layers
from equipoise.plan.config import GPUS, Options, chosen_gpus, fits
from equipoise.plan.memory import Role, fill_gradients
from equipoise.plan.plan import Plan, make_plan
from equipoise.plan.probe import shortened
from equipoise.plan.workload import Pass
from equipoise.rollout.config import Sampling
from equipoise.train.config import LoraSettings, OptimizerSettings, SftConfig
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.setup import apply_gradients, make_optimizer, train_adapter

NO_OPTIONS = Options()


def planned(stage: str, config: Any) -> Plan:
    return make_plan(stage, config, NO_OPTIONS)


def plan_sft(world: Path, **settings: Any) -> Plan:
    given = {"model": world / "policy", "demonstrations": [str(world / "demonstrations.jsonl")], **settings}
    return planned("sft", sft(world / "out", **given))


def ppo_settings(world: Path, reward: str, cost: str, **settings: Any) -> PpoLagConfig:
    judges = {"reward": {"type": "model", "path": world / reward}, "cost": {"type": "model", "path": world / cost}}
    return ppo(world / "out", world, **judges, reward_critic=None, cost_critic=None, **settings)


def roles(plan: Plan) -> dict[str, Role]:
    return {role.name: role for role in plan.memory.roles}


def bytes_of(tensors: Any) -> int:
    return sum(t.untyped_storage().nbytes() for t in {id(t): t for t in tensors}.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_gradients_and_optimizer_are_those_of_the_real_model(world: Path, precision: str) -> None:
    hardware = {"device": "cpu", "precision": precision}
    role = roles(plan_sft(world, hardware=hardware))["policy"]
    model = load_causal_lm(world / "policy", dtype=getattr(torch, precision))
    adam = make_optimizer(model, OptimizerSettings())
    fill_gradients(model)
    gradients = bytes_of(p.grad for p in model.parameters())
    apply_gradients(model, adam, OptimizerSettings(), 1e-3)
    states = bytes_of(t for state in adam.state.values() for t in state.values())
    assert role.weights == bytes_of([*model.parameters(), *model.buffers()])
    assert role.gradients == gradients
    assert role.optimizer == states
    assert role.trained == sum(p.numel() for p in model.parameters())


def test_the_cache_is_as_large_as_the_real_one(world: Path) -> None:
    config = ppo_settings(world, "reward", "cost", sampling={"max_new_tokens": 6})
    plan = planned("ppo-lag", config)
    model = load_causal_lm(world / "policy")
    cache = DynamicCache(config=model.config)
    read = plan.work.tokens["prompts"].longest + 6 - 1  # the last token drawn is never read
    model(torch.zeros(config.batch_size, read, dtype=torch.int64), past_key_values=cache)
    real = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert plan.memory.parts["KV cache"] == real


@pytest.mark.parametrize("stage", ["sft", "ppo-lag"])
def test_a_plan_leaves_nothing_behind(world: Path, stage: str) -> None:
    before = set(world.iterdir())
    rl = ppo_settings(world, "reward", "cost")
    plan = plan_sft(world) if stage == "sft" else planned("ppo-lag", rl)
    assert set(world.iterdir()) == before
    assert plan.memory.peak > sum(role.weights + role.optimizer for role in plan.memory.roles)


def test_a_shared_base_and_each_adapter_are_counted_once(world: Path) -> None:
    whole = roles(planned("ppo-lag", ppo_settings(world, "reward", "cost")))
    shared = roles(planned("ppo-lag", ppo_settings(world, "lora-reward", "lora-cost", lora={"r": 4})))
    model = load_causal_lm(world / "policy")
    # untied: q, k, v, o of 16×16, gate, up, down between 16 and 32; A and B of rank 4
    adapter = 4 * (4 * (16 + 16) + 3 * (16 + 32)) * 4
    head = 4 * (16 + 1)
    assert shared["base"].weights == whole["actor"].weights == bytes_of([*model.parameters(), *model.buffers()])
    assert shared["ref"].weights == 0
    assert shared["actor"].gradients == adapter
    assert shared["reward_critic"].gradients == shared["cost_critic"].gradients == adapter + head
    for name in ("actor", "reward", "cost", "reward_critic", "cost_critic"):
        rotary = shared[name].weights - adapter - (0 if name == "actor" else head)
        assert 0 <= rotary <= 256  # each network has a table of rotation frequencies of its own
    assert whole["ref"].weights == whole["actor"].weights


def test_a_published_scorer_on_another_base_is_whole_and_said_to_be(world: Path) -> None:
    mixed = roles(planned("ppo-lag", ppo_settings(world, "published", "lora-cost", lora={"r": 4})))
    alone = roles(planned("ppo-lag", ppo_settings(world, "published", "cost")))
    assert mixed["reward"].weights == alone["reward"].weights
    assert "loaded whole" in mixed["reward"].note
    assert mixed["reward_critic"].weights < mixed["reward"].weights  # an adapter on the scorer's own weights
    assert mixed["cost"].note == "adapter"


def test_more_passes_take_less_for_activations(world: Path) -> None:
    one, four = (plan_sft(world, batch_size=16, micro_batch=size) for size in (None, 4))
    assert four.memory.parts["activations"] < one.memory.parts["activations"] / 3
    assert (one.work.passes, four.work.passes) == (1, 4)


def test_micro_tokens_limit_a_pass(world: Path) -> None:
    """Prompts have 6 to 8 tokens with their role's and the first, so all sequences at most 14."""
    whole, parts = (planned("ppo-lag", ppo_settings(world, "reward", "cost", micro_tokens=n)) for n in (None, 42))
    assert (whole.work.largest.rows, whole.work.passes) == (8, 1)
    assert parts.work.largest.cells <= 42
    assert parts.work.largest.rows == 3
    assert parts.work.passes == 3
    assert parts.memory.parts["activations"] < whole.memory.parts["activations"] / 2
    cost = {"model": world / "policy", "pairs": [str(world / "pairs.jsonl")]}
    scorer = planned("cost", cost_model(world / "out", **cost, micro_tokens=42))
    assert scorer.work.largest.cells <= 42


def test_recomputed_layers_keep_less(world: Path) -> None:
    for precision in ("float32", "bfloat16"):
        hardware = {"device": "cpu", "precision": precision}
        kept, again = (
            plan_sft(world, hardware={**hardware, "gradient_checkpointing": on}).memory.parts["activations"]
            for on in (False, True)
        )
        assert again < kept / 2


def test_gradients_of_networks_trained_before_are_there(world: Path) -> None:
    plan = planned("ppo-lag", ppo_settings(world, "reward", "cost"))
    found, phases = roles(plan), plan.memory.phases
    assert phases["cost_critic"] - phases["reward_critic"] == found["reward_critic"].gradients


def test_work_is_that_of_the_data(world: Path) -> None:
    plan = plan_sft(world, batch_size=8, held_out=0.0, epochs=2)
    assert (plan.work.prompts, plan.work.steps) == (40, 10)
    assert all("⟦yes" in text for text in plan.work.examples)
    assert len(plan.work.examples) == 3
    cost = planned("cost", cost_model(world / "out", model=world / "policy", pairs=[str(world / "pairs.jsonl")]))
    assert cost.work.largest.rows == 2 * 16
    assert len(cost.work.examples) == 3


def test_several_samples_of_a_prompt_without_critics_are_planned_by_hand(world: Path) -> None:
    one = planned("ppo-lag", ppo_settings(world, "reward", "cost"))
    group = planned(
        "ppo-lag",
        ppo_settings(world, "reward", "cost", samples_per_prompt=4, batch_size=2, advantage={"type": "rloo"}),
    )
    assert set(roles(one)) - set(roles(group)) == {"reward_critic", "cost_critic"}
    assert one.work.largest.rows == group.work.largest.rows == 8  # 8 · 1 and 2 · 4 responses at a time
    assert group.work.tokens_per_epoch == 4 * one.work.tokens_per_epoch
    assert group.work.largest.prompts == 2
    assert group.work.largest.together == group.work.largest.length + 3 * 6  # three more answers of 6 tokens
    both = {"type": "gae", "shared_trunk": True}
    trunk = roles(planned("ppo-lag", ppo_settings(world, "reward", "cost", advantage=both)))
    assert trunk.keys() == roles(one).keys() - {"reward_critic", "cost_critic"} | {"critic"}
    head = 4 * (16 + 1)  # float32 weights and bias of a second head
    assert trunk["critic"].weights == roles(one)["reward_critic"].weights + head


def test_a_cost_per_category_is_planned_with_its_head(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "cost", tmp_path / "cost")
    settings = tmp_path / "cost" / "score_head.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"categories": ["theft", "drugs"]}))
    plain, split = (
        roles(planned("ppo-lag", ppo_settings(world, "reward", str(cost)))) for cost in ("cost", tmp_path / "cost")
    )
    assert split["cost"].weights == plain["cost"].weights + 2 * 4 * (16 + 1)
    assert split["cost_critic"].weights == plain["cost_critic"].weights  # it has the score's head alone


def test_without_data_the_limits_stand_in(world: Path) -> None:
    plan = plan_sft(world, demonstrations=["nowhere.jsonl"], batch_size=8, max_length=20)
    assert plan.work.largest == Pass(8, 20, 8 * 19)
    assert plan.work.steps is None
    assert "nowhere.jsonl" in plan.work.notes[0]


def test_a_folder_without_config_is_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "policy", tmp_path / "broken")
    (tmp_path / "broken" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        plan_sft(world, model=tmp_path / "broken", demonstrations=["nowhere.jsonl"])


def test_a_context_too_short_for_prompt_and_response_is_refused(world: Path) -> None:
    with pytest.raises(ModelError, match="context of 32"):
        planned("ppo-lag", ppo_settings(world, "reward", "cost", sampling={"max_new_tokens": 30}))


def test_an_unknown_gpu_is_refused_with_those_known() -> None:
    with pytest.raises(ConfigError, match="h100"):
        chosen_gpus("gtx-970")
    smallest, largest = GPUS[0], GPUS[-1]
    assert fits(largest, 100 * 2**30)
    assert not fits(smallest, 21 * 2**30)


def test_an_optimizer_step_takes_no_copies_of_weights(world: Path) -> None:
    plan = plan_sft(world)
    role = roles(plan)["policy"]
    kept = role.weights + role.gradients + role.optimizer
    assert kept <= plan.memory.phases["update"] <= 1.01 * kept


def test_loading_and_saving_are_phases_on_a_cpu_alone(world: Path) -> None:
    config = sft(world / "out", model=world / "policy", demonstrations=[str(world / "demonstrations.jsonl")])
    cpu, gpu = (make_plan("sft", config, Options(gpu=name)) for name in (None, "h100"))
    assert not cpu.machine.gpu
    assert gpu.fits == {"h100": True}
    assert set(cpu.memory.phases) - set(gpu.memory.phases) == {"load"}
    assert (cpu.memory.libraries > 0, gpu.memory.libraries) == (True, 0)


def test_a_probe_runs_the_first_steps_only(world: Path, tmp_path: Path) -> None:
    plan = plan_sft(world, batch_size=8, held_out=0.0, epochs=2)
    config = sft(world / "out", model=world / "policy", demonstrations=["x"], epochs=2)
    assert shortened(config, 3, plan.work, tmp_path)["epochs"] == pytest.approx(2 * 2.5 / 10)
    rl = shortened(ppo_settings(world, "reward", "cost"), 3, plan.work, tmp_path)
    assert (rl["steps"], rl["validation"]) == (3, None)
    assert SftConfig.model_validate(shortened(config, 3, plan.work, tmp_path)).out == tmp_path


def test_the_command_prints_tables_or_json(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "sft", "--model", str(world / "policy"), "--max-length", "24", "--batch-size", "8"]
    words += ["--demonstrations", str(world / "demonstrations.jsonl")]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    for word in ("policy", "weights", "update", "fits", "h200", "tokens per epoch", "⟦"):
        assert word in said
    assert cli.main([*words, "--json", "--hardware.device", "cpu"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["device"] == "cpu"
    assert tree["memory"]["peak"] == max(tree["memory"]["phases"].values()) + tree["memory"]["libraries"]
    assert cli.main([*words, "--gpu", "gtx-970"]) == 2
    assert "ConfigError" in capsys.readouterr().err


@pytest.mark.slow
def test_a_probe_measures(world: Path) -> None:
    config = sft(world / "out", model=world / "policy", demonstrations=[str(world / "demonstrations.jsonl")])
    plan = make_plan("sft", config, Options(probe=2, price_per_hour=2.0))
    assert plan.probed is not None
    assert plan.probed.steps == 2
    assert plan.price == pytest.approx(2 * plan.hours)


def test_a_sampling_limit_is_planned_in_full(world: Path) -> None:
    short, long = (
        planned("ppo-lag", ppo_settings(world, "reward", "cost", sampling=Sampling(max_new_tokens=n).model_dump()))
        for n in (2, 12)
    )
    assert short.memory.parts["KV cache"] < long.memory.parts["KV cache"]


def test_a_base_of_4_bits_takes_half_a_byte_for_each_weight_and_its_scales(world: Path, tmp_path: Path) -> None:
    make_policy(tmp_path / "policy", width=64)
    given = {"model": tmp_path / "policy", "hardware": {"device": "cpu", "precision": "bfloat16"}}
    full, packed = (
        roles(plan_sft(world, **given, lora={"r": 4, "quantize": kind}))["policy"] for kind in (None, "nf4")
    )
    model = load_causal_lm(tmp_path / "policy", dtype=torch.bfloat16)
    linear = [m.weight.numel() for m in model.modules() if type(m) is torch.nn.Linear and m is not model.lm_head]
    assert len(linear) == 7
    # a byte for 64 weights, 4 for 256 of those bytes, and tables of 16 and 256 float32
    scales = sum(n // 64 + 4 * -(-n // 64 // 256) + 4 * (16 + 256) for n in linear)
    assert full.weights - packed.weights == 2 * sum(linear) - sum(linear) // 2 - scales
    assert (packed.trained, packed.optimizer) == (full.trained, full.optimizer)


def test_the_planned_base_of_4_bits_is_as_large_as_the_real_one(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    make_policy(tmp_path / "policy", width=64)
    given = {
        "model": tmp_path / "policy",
        "demonstrations": ["nowhere.jsonl"],
        "lora": {"r": 4, "quantize": "nf4"},
    }
    role = roles(plan_sft(world, **given))["policy"]
    model = load_causal_lm(tmp_path / "policy", quantize="nf4")
    train_adapter(model, "policy", LoraSettings(r=4, quantize="nf4"), 0)
    states = [layer.quant_state for _, layer in quantized_layers(model)]
    constants = [t for s in states for t in (s.absmax, s.code, s.state2.absmax, s.state2.code)]
    assert role.weights == bytes_of([*model.parameters(), *model.buffers(), *constants])


@pytest.mark.slow
def test_rl_of_8b_parameters_by_the_recipe_for_24_gb_fits_in_4_bits_alone(tmp_path: Path) -> None:
    shape = {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}
    for role in ("actor", "reward", "cost"):
        LlamaConfig(**shape, **heads, tie_word_embeddings=False).save_pretrained(str(tmp_path / role))
    for role in ("reward", "cost"):
        head = {"kind": role, "pooling": "last", "normalizer": {}}
        (tmp_path / role / "score_head.json").write_text(json.dumps(head), encoding="utf-8")
        (tmp_path / role / "score_head.safetensors").touch()
        LoraConfig(r=16, target_modules="all-linear").save_pretrained(str(tmp_path / role / "adapter"))
        base = json.dumps({"path": "actor", "fingerprint": ""})
        (tmp_path / role / "adapter" / "base.json").write_text(base, encoding="utf-8")
    judges = {role: {"path": str(tmp_path / role)} for role in ("reward", "cost")}
    given = {"out": "o", "actor": str(tmp_path / "actor"), "prompts": ["nowhere.jsonl"], **judges}
    recipe = read_toml(find_recipe("1x24"))["ppo_lag"]
    found = []
    for quantize in ("nf4", None):
        config = validate(PpoLagConfig, merge([recipe, given, {"lora": {"quantize": quantize}}]), where="1x24")
        found.append(make_plan("ppo-lag", config, Options(gpu="a10")).fits["a10"])
    assert found == [True, False]
