"""AdamW whose two moments have 8 bits, by bitsandbytes; imported where `bits = 8` is set, which needs the library.

Left out: which weights it trains, and float32 copies of them (`setup`); whether the library is there
(`processes`).
"""

from typing import Any

from bitsandbytes.optim import AdamW8bit
from torch.optim import Optimizer

MAPS = {"qmap1": "dynamic", "qmap2": "udynamic"}
"""Entries of a weight's state that are tables of the 256 values of a byte, the same for all weights."""


class EightBitAdamW(AdamW8bit):  # type: ignore[misc]  # untyped in the library
    """bitsandbytes' AdamW8bit whose state is saved and loaded as that of torch's optimizers.

    The library hides what is quantised from who gathers states, does not call hooks when it loads, and saves its
    tables with each weight.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state without the tables."""
        tree: dict[str, Any] = Optimizer.state_dict(self)
        found = tree["state"].items()
        tree["state"] = {n: {name: x for name, x in state.items() if name not in MAPS} for n, state in found}
        return tree

    def load_state_dict(self, state_dict: dict[str, Any], move_to_device: bool = True) -> None:
        """Take over what `state_dict` gave; the number of steps may be a tensor."""
        state = {n: {**entries, "step": int(entries["step"])} for n, entries in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state}, move_to_device)
        for weight, entries in self.state.items():
            if "absmax1" in entries:  # few entries: 32 bits
                entries |= {name: self.name2qmap[table].to(weight.device) for name, table in MAPS.items()}
        for restore in self._optimizer_load_state_dict_post_hooks.values():
            restore(self)
