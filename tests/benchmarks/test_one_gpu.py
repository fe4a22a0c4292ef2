"""Two PPO-Lag steps of six roles on one base fit the recipe's GPU, and take what was planned.

The same body runs with 8 B parameters on a GPU and with a small model on a CPU.
"""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from equipoise.models.backbone import load_causal_lm

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL: dict[str, Any] = {"size": "small", "prompt": 16, "response": 16, "device": "cpu", "precision": "float32"}
FEW: dict[str, Any] = {"batch_size": 4, "ptx_batch_size": 4, "micro_tokens": 64, "hardware": {"threads": 1}}
QUANT = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra `quant` is not installed")
RECIPES = ["1x80", pytest.param("1x24", marks=QUANT)]
ON_A_CPU = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a peak is read from /proc")


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    for module in ("common", "one_gpu"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return importlib.import_module("one_gpu")


def check(module: Any, run: Any, changes: dict[str, Any], bar: float) -> None:
    """A run stays within the memory of its recipe's GPU, and so near to what was planned."""
    found = module.measure(run, changes)
    assert found.fits, found
    assert abs(found.off_by) < bar, found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("recipe", RECIPES)
def test_8b_parameters_and_512_tokens_each_way_fit_the_gpu(one_gpu: Any, tmp_path: Path, recipe: str) -> None:
    check(one_gpu, one_gpu.Run(tmp_path, recipe), {}, bar=0.15)


@ON_A_CPU
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_runs_through_with_a_small_model_on_a_cpu(
    one_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """So small that what libraries take for themselves is most of it: of the plan nothing is learned."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed is given back
    check(one_gpu, one_gpu.Run(tmp_path, recipe, **SMALL), FEW, bar=1.0)


def test_weights_are_written_layer_by_layer_and_load_as_any_model(one_gpu: Any, tmp_path: Path) -> None:
    run = one_gpu.Run(tmp_path, "1x80", **{**SMALL, "precision": "bfloat16"})
    one_gpu.make_world(run, one_gpu.settings(run, FEW))
    model = load_causal_lm(tmp_path / "policy", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.detach().float().std().item() == pytest.approx(0.02, rel=0.1)
    found = set()
    for file in (tmp_path / "policy").glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            layers = {name.split(".")[2] if ".layers." in name else name for name in tensors.keys()}  # noqa: SIM118
        assert len(layers) == 1
        found |= layers
    assert found == {"0", "1", "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"}
    assert not list((tmp_path / "reward").glob("model*.safetensors"))
