"""Tensors without contents, and a ledger of the memory that they would take.

Inside `nothing_loaded` torch knows shape and type of every tensor and computes nothing (its fake tensors, on the
meta device). The package's own forward passes, backward passes and optimizer steps run on them; the ledger counts
each storage from its first use until it is freed. So there is no formula per architecture. Where the code looks at
contents, the ledger answers: masks pick as many positions as it was told, and what is checked is right. What a
kernel takes for itself, and what an allocator wastes, is not seen.
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
from transformers.utils import import_utils

aten: Any = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in the library
    """Bytes of all storages that are alive, and the most there were in each phase."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in the library
        self.live = 0
        self.peak = 0
        self.phases: dict[str, int] = {}
        self.picked, self.longest = 0, 0  # True in a mask of positions; the number that is read from a tensor
        self._known: dict[int, int] = {}  # storage → its bytes

    def __torch_dispatch__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and enter what it made."""
        result = self._run(func, args, kwargs or {})
        tree_map_only(Tensor, self._enter, result)
        return result

    def _run(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation itself, or what it would give if the contents were those that are taken for granted."""
        if func is aten.allclose.default:
            return True
        if func is aten._local_scalar_dense.default and not args[0].is_floating_point():
            return True if args[0].dtype == torch.bool else self.longest
        if func is aten.nonzero.default:
            return args[0].new_empty(self.picked, args[0].ndim, dtype=torch.int64)
        if func in INDEXED:
            args = (args[0], [long for index in args[1] for long in self._as_numbers(index)], *args[2:])
        return func(*args, **kwargs)

    def _as_numbers(self, index: Tensor | None) -> list[Tensor | None]:
        """A mask as the row and column numbers of what it picks; any other index as it is."""
        if index is None or index.dtype != torch.bool:
            return [index]
        return [index.new_empty(self.picked, dtype=torch.int64) for _ in range(index.ndim)]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the most that is alive at once inside."""
        self.peak = self.live
        yield
        self.phases[name] = max(self.peak, self.phases.get(name, 0))

    @contextmanager
    def reading(self, picked: int, longest: int) -> Iterator[None]:
        """Say what the code inside finds in tensors.

        Args:
            picked: How many positions every mask picks that something is indexed with.
            longest: Every number: the tokens of the longest sequence.
        """
        before, (self.picked, self.longest) = (self.picked, self.longest), (picked, longest)
        yield
        self.picked, self.longest = before

    def _enter(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = size
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._leave, key)
        return tensor

    def leave_out(self, tensor: Tensor) -> None:
        """Count a tensor no longer: it is only there to compute with."""
        key = tensor.untyped_storage()._cdata
        self.live -= self._known[key]
        self._known[key] = 0

    def _leave(self, key: int) -> None:
        self.live -= self._known.pop(key)


@contextmanager
def nothing_loaded() -> Iterator[Ledger]:
    """Make every tensor inside one without contents, and count them.

    transformers takes such tensors for a graph being recorded, for which it makes masks that a real pass does not
    need: inside it takes them for real ones.
    """
    apply, is_fake = nn.Module._apply, import_utils.is_fake_tensor
    nn.Module._apply = _convert  # type: ignore[method-assign]
    import_utils.is_fake_tensor = lambda _: False  # type: ignore[assignment]
    try:
        with FakeTensorMode(), torch.random.fork_rng(devices=[]), Ledger() as ledger:
            yield ledger
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]
        import_utils.is_fake_tensor = is_fake


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
