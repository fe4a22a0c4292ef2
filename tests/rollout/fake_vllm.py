"""What vLLM does, small and slow: one token at a time by a plain forward pass, behind HTTP or as a module.

It has those of vLLM's documented endpoints, methods and arguments that are used here, and refuses all others.
What it cannot show is whether a real vLLM does the same.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from local_http import Handler, start
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    n: int
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    detokenize: bool = True


Written = tuple[list[int], list[float]]  # tokens and their log-probabilities


class Core:
    """A model with adapters beside it."""

    def __init__(self, folder: Path, noise: float = 0.0) -> None:
        self.folder, self.noise = folder, noise
        self.adapters: dict[str, Any] = {}
        self.loaded: list[str] = []  # what was handed over, in order
        self.is_stale = False  # blocks of older weights are cached
        self.reload(folder)
        self.loaded.clear()

    def reload(self, folder: Path | str) -> None:
        assert list(Path(folder).glob("*.safetensors"))
        weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = self.disturbed(weights)
        self.loaded.append(str(folder))
        self.is_stale = True

    def add_adapter(self, name: str, folder: str) -> None:
        assert name not in self.adapters
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        shape = json.loads((Path(folder) / "adapter_config.json").read_text())
        low = load_file(Path(folder) / "adapter_model.safetensors")
        for key in [key for key in low if key.endswith(".lora_A.weight")]:
            stem = key.removesuffix(".lora_A.weight")
            weight = model.get_parameter(stem.removeprefix("base_model.model.") + ".weight")
            b = low.pop(f"{stem}.lora_B.weight")
            weight.data += shape["lora_alpha"] / shape["r"] * b @ low.pop(key)
        assert not low
        self.adapters[name] = self.disturbed(model)
        self.loaded.append(folder)

    @torch.no_grad()
    def disturbed(self, model: Any) -> Any:
        """As if other kernels had computed it."""
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            weight.mul_(1 + self.noise * torch.randn(weight.shape, generator=generator))
        return model.eval()

    def write(
        self, name: str | None, prompt: list[int], params: SamplingParams
    ) -> list[tuple[list[int], list[float]]]:
        assert not self.is_stale, "the prefix cache holds blocks of other weights"
        assert params.top_k == 0 and params.min_p == 0.0 and params.ignore_eos
        model = self.adapters[name] if name else self.model
        seeds = [params.seed + i for i in range(params.n)]
        return [write_one(model, prompt, params, torch.Generator().manual_seed(seed)) for seed in seeds]


@torch.no_grad()
def write_one(model: Any, prompt: list[int], params: SamplingParams, generator: torch.Generator) -> Written:
    """Penalty, temperature, nucleus, draw; the end token is part of the response."""
    tokens, log_probs = list(prompt), []
    for _ in range(params.max_tokens):
        logits = model(torch.tensor([tokens])).logits[0, -1].float()
        for seen in set(tokens):
            factor = params.repetition_penalty
            logits[seen] = logits[seen] * factor if logits[seen] < 0 else logits[seen] / factor
        if params.temperature > 0:
            logits = logits / params.temperature
        p, order = logits.softmax(-1).sort(descending=True)
        outside = order[(p.cumsum(-1) - p) >= params.top_p] if params.top_p < 1 else order[:0]
        logits[outside] = -torch.inf
        found = logits.log_softmax(-1)
        drawn = found.exp().multinomial(1, generator=generator) if params.temperature > 0 else found.argmax()
        tokens.append(int(drawn))
        log_probs.append(float(found[int(drawn)]))
        if tokens[-1] in params.stop_token_ids:
            break
    return tokens[len(prompt) :], log_probs


class FakeServer:
    """`vllm serve`, with --enable-lora and in development mode."""

    def __init__(self, core: Core, context: int) -> None:
        self.core, self.context = core, context
        self.asked: list[dict[str, Any]] = []
        self.busy_after: int | None = None  # completions after which it answers 503
        self.reply: Any = None  # what every completion is, if a test says so
        self.lock = threading.Lock()
        server = self

        class Reply(Handler):
            def get(self) -> tuple[int, Any]:
                return server.get(self.path)

            def post(self, body: Any) -> tuple[int, Any]:
                with server.lock:
                    return server.post(self.path, body)

        self.http, self.url = start(Reply)

    def get(self, path: str) -> tuple[int, Any]:
        if path != "/v1/models":
            return 404, {"error": path}
        base = {"id": "base", "max_model_len": self.context, "parent": None}
        adapters = [{"id": name, "max_model_len": None, "parent": "base"} for name in self.core.adapters]
        return 200, {"object": "list", "data": [base, *adapters]}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        match path:
            case "/v1/completions":
                return self.complete(body)
            case "/collective_rpc":
                assert body.keys() == {"method", "kwargs"} and body["method"] == "reload_weights"
                self.core.reload(**{"folder": body["kwargs"].pop("weights_path"), **body["kwargs"]})
                return 200, {"results": [None]}
            case "/reset_prefix_cache":
                self.core.is_stale = False
                return 200, ""
            case "/v1/load_lora_adapter":
                if body["lora_name"] in self.core.adapters:
                    return 400, {"error": {"message": "The lora adapter has already been loaded."}}
                self.core.add_adapter(body["lora_name"], body["lora_path"])
                return 200, "Success: LoRA adapter added successfully."
            case "/v1/unload_lora_adapter":
                del self.core.adapters[body["lora_name"]]
                return 200, "Success: LoRA adapter removed successfully."
        return 404, {"error": path}

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(dict(body))
        if self.busy_after is not None and len(self.asked) > self.busy_after:
            return 503, {"error": "the engine is dead"}
        if self.reply is not None:
            return 200, self.reply
        name, prompt = body.pop("model"), body.pop("prompt")
        assert body.pop("return_token_ids") is True
        if name != "base" and name not in self.core.adapters:
            return 404, {"error": f"The model {name} does not exist."}
        found = self.core.write(None if name == "base" else name, prompt, SamplingParams(**body))
        choices = [
            {"index": i, "text": "…", "token_ids": tokens, "logprobs": {"token_logprobs": log_probs}}
            for i, (tokens, log_probs) in enumerate(found)
        ]
        return 200, {"id": "cmpl-1", "object": "text_completion", "model": name, "choices": choices}


@contextmanager
def serving(folder: Path, *, context: int = 64, noise: float = 0.0) -> Iterator[FakeServer]:
    server = FakeServer(Core(folder, noise), context)
    server.core.is_stale = False
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class FakeLLM:
    """`vllm.LLM` with the arguments that are used here; asleep it refuses what a sleeping engine cannot do."""

    started: "FakeLLM | None" = None

    def __init__(
        self, *, model: str, dtype: str, max_model_len: int, gpu_memory_utilization: float,
        enable_sleep_mode: bool, logprobs_mode: str, enable_lora: bool = False, max_loras: int = 1,
        max_lora_rank: int = 16,
    ) -> None:  # fmt: skip
        assert enable_sleep_mode and logprobs_mode == "processed_logprobs"
        self.core = Core(Path(model))
        self.core.is_stale = False
        self.has_lora, self.max_rank, self.context, self.dtype = enable_lora, max_lora_rank, max_model_len, dtype
        self.asleep: set[str] = set()
        self.ids: dict[int, str] = {}
        self.history: list[str] = []
        FakeLLM.started = self

    def sleep(self, level: int = 1) -> None:
        self.asleep = {"weights", "kv_cache"}
        self.history.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        if set(tags) <= self.asleep:  # else it only warns
            self.asleep -= set(tags)

    def collective_rpc(self, method: str, *, kwargs: dict[str, str]) -> None:
        assert method == "reload_weights" and "weights" not in self.asleep
        self.core.reload(kwargs["weights_path"])
        self.history.append("reload")

    def reset_prefix_cache(self) -> None:
        self.core.is_stale = False

    def generate(
        self, prompts: list[dict[str, list[int]]], params: list[SamplingParams], *, use_tqdm: bool,
        lora_request: LoRARequest | None,
    ) -> list[Any]:  # fmt: skip
        assert not self.asleep and not use_tqdm
        if lora_request is not None and lora_request.lora_int_id not in self.ids:
            assert self.has_lora
            self.ids[lora_request.lora_int_id] = lora_request.lora_name
            self.core.add_adapter(lora_request.lora_name, lora_request.lora_path)
        self.history.append("generate")
        name = self.ids[lora_request.lora_int_id] if lora_request else None
        return [
            SimpleNamespace(
                outputs=[output(*one) for one in self.core.write(name, p["prompt_token_ids"], settings)]
            )
            for p, settings in zip(prompts, params, strict=True)
        ]


def output(tokens: list[int], log_probs: list[float]) -> Any:
    """As vLLM's `CompletionOutput`."""
    rows = [{token: SimpleNamespace(logprob=p, rank=1)} for token, p in zip(tokens, log_probs, strict=True)]
    return SimpleNamespace(token_ids=tuple(tokens), logprobs=rows)


def fake_modules() -> dict[str, ModuleType]:
    """What `import vllm` and `import vllm.lora.request` find in sys.modules."""
    names = ("vllm", "vllm.lora", "vllm.lora.request")
    vllm, lora, request = (ModuleType(name) for name in names)
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    lora.request, vllm.lora = request, lora  # type: ignore[attr-defined]
    vllm.LLM, vllm.SamplingParams = FakeLLM, SamplingParams  # type: ignore[attr-defined]
    return dict(zip(names, (vllm, lora, request), strict=True))
