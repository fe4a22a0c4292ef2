"""Tensors without contents, and a ledger of the memory that they would take.

Inside `nothing_loaded` torch knows shape and type of every tensor and computes nothing (its fake tensors, on the
meta device). The package's own forward passes, backward passes and optimizer steps run on them; the ledger counts
each storage from its first use until it is freed. So there is no formula per architecture. What a kernel takes for
itself, and what an allocator wastes, is not seen.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in the library
    """Bytes of all storages that are alive, and the most there were in each phase."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in the library
        self.live = 0
        self.peak = 0
        self.phases: dict[str, int] = {}
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and enter what it made."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._enter, result)
        return result

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the most that is alive at once inside."""
        self.peak = self.live
        yield
        self.phases[name] = max(self.peak, self.phases.get(name, 0))

    def _enter(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._leave, key, size)
        return tensor

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def nothing_loaded() -> Iterator[Ledger]:
    """Make every tensor inside one without contents, and count them."""
    apply = nn.Module._apply
    nn.Module._apply = _convert  # type: ignore[method-assign]
    try:
        with FakeTensorMode(), torch.random.fork_rng(devices=[]), Ledger() as ledger:
            yield ledger
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


def _convert(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `module.to(…)` does, with new parameters: torch cannot swap the contents of fake ones."""
    for child in module.children() if recurse else ():
        _convert(child, change)
    for name, weight in module._parameters.items():
        if weight is not None:
            module._parameters[name] = nn.Parameter(change(weight.detach()), weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module
