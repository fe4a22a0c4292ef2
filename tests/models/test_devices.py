import pytest
import torch

from equipoise.errors import ConfigError
from equipoise.models.devices import pick_device, pick_dtype


def test_the_best_device_that_is_there_is_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device().type == "cuda"
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="no device 'cuda:2'"):
        pick_device("cuda:2")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="no device 'cuda'"):
        pick_device("cuda")


def test_a_word_that_is_no_device_is_refused():
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        pick_device("gpu")


def test_the_cpu_computes_in_float32_unless_told():
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(ConfigError, match="no precision 'fp8'"):
        pick_dtype("fp8", torch.device("cpu"))
