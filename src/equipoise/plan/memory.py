"""How much memory a stage takes: its networks by role, and the most that is alive in each of its phases.

The order of events is that of the stage's loop from its second step on, when optimizer states exist: for
`ppo-lag` sample, score, train one network after the other, update. Every response is as long as the limit. Of
several processes each takes this much; whole networks keep the gradients that they exchange a second time.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from equipoise.models.adapters import adapted_layers
from equipoise.models.backbone import is_encoder
from equipoise.models.lm_head import LOGITS
from equipoise.models.sharing import pays, takes_any_mask
from equipoise.plan.config import Machine
from equipoise.plan.four_bit import full_size
from equipoise.plan.ledger import Ledger
from equipoise.plan.parts import Parts, divide
from equipoise.plan.workload import Pass, largest_of
from equipoise.tokens.batches import SftBatch
from equipoise.train.config import Hardware, OptimizerSettings
from equipoise.train.forward import target_log_probs
from equipoise.train.setup import apply_gradients, make_optimizer

FIRST_USE = 24 * 2**20
"""Bytes that libraries take on a CPU at their first use (BLAS, autograd, tokenizer); measured, docs/plan.md."""


@dataclass
class Role:
    """What one network keeps for itself, in bytes; weights that roles share stand with the first of them."""

    name: str
    weights: int
    trained: int = 0  # parameters
    gradients: int = 0  # of several processes with those that they exchange
    optimizer: int = 0  # Adam's two moments, and float32 copies of weights in lower precision
    note: str = ""


@dataclass
class Memory:
    """Bytes. `phases` are peaks of everything that is alive; `parts` are what they are made of."""

    roles: list[Role] = field(default_factory=list)
    phases: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    libraries: int = 0

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.phases.values()) + self.libraries


class Tally:
    """The memory of one stage, written down while its steps are gone through."""

    def __init__(self, ledger: Ledger, machine: Machine, hardware: Hardware) -> None:
        self.ledger, self.gpu, self.processes = ledger, machine.gpu, machine.processes
        self.shard = hardware.shard and machine.processes > 1
        self.memory = Memory(phases=ledger.phases)
        self.parts: dict[nn.Module, Parts] = {}
        self.trained: dict[str, nn.Module] = {}  # of a network in parts what this process keeps
        self.optimizers: dict[str, Optimizer] = {}
        self.messages: list[Tensor] = []

    @contextmanager
    def role(self, name: str, note: str = "") -> Iterator[None]:
        """Enter what is made inside as one role's."""
        before = self.ledger.live
        yield
        self.memory.roles.append(Role(name, self.ledger.live - before, note=note))

    def divide(self, network: nn.Module) -> None:
        """Put a network into parts, if the settings say so."""
        if self.shard:
            self.parts[network] = divide(network, self.processes, self.ledger)

    @contextmanager
    def gathered(self, network: nn.Module | None, *, training: bool = False) -> Iterator[None]:
        """What of a network in parts is whole inside: all of it, or what a training pass needs at a time."""
        if network not in self.parts:
            yield
            return
        parts = self.parts[network]
        size = parts.in_training if training else parts.whole
        self.part("gathered weights", size)
        held = torch.empty(size, dtype=torch.uint8)
        yield
        del held

    def part(self, name: str, size: int) -> None:
        """Keep the largest of what is called so."""
        self.memory.parts[name] = max(size, self.memory.parts.get(name, 0))

    def start_training(self, networks: Mapping[str, nn.Module], settings: Mapping[str, OptimizerSettings]) -> None:
        """Give the trained networks optimizers that have taken a step.

        Args:
            networks: Role → network.
            settings: Role → optimizer.
        """
        for name, whole in networks.items():
            network = self.parts[whole].kept if whole in self.parts else whole
            self.trained[name] = network
            before = self.ledger.live
            self.optimizers[name] = adam = make_optimizer(network, settings[name])
            fill_gradients(network)
            gradients = sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
            apply_gradients(network, adam, settings[name], settings[name].lr)
            role = next(role for role in self.memory.roles if role.name == name)
            role.gradients, role.optimizer = gradients, self.ledger.live - before
            if self.processes > 1 and whole not in self.parts:
                self.messages.append(torch.empty(gradients, dtype=torch.uint8))
                role.gradients += gradients
            role.trained = sum(p.numel() for p in network.parameters() if p.requires_grad)

    def update(self, settings: Mapping[str, OptimizerSettings]) -> None:
        """The optimizer steps, one network after the other, when all have their gradients."""
        for network in self.trained.values():
            fill_gradients(network)
        with self.ledger.phase("update"):
            for name, network in self.trained.items():
                apply_gradients(network, self.optimizers[name], settings[name], settings[name].lr)

    def learn(self, phase: str, network: nn.Module, loss_of: Callable[[], Tensor], passes: int) -> None:
        """Forward and backward passes of one step.

        Args:
            phase: Name of the phase.
            network: Which one is trained.
            loss_of: Function without arguments that goes forward and returns a loss with its graph.
            passes: Micro-batches; from the second on the gradients of the first are there.
        """
        with self.ledger.phase(phase), self.gathered(network, training=True):
            for _ in range(min(2, passes)):
                before = self.ledger.live
                loss = loss_of()
                self.part("activations", self.ledger.live - before)
                loss.backward()  # type: ignore[no-untyped-call]  # untyped in the library
                del loss

    def files(self, saved: nn.Module) -> None:
        """Loading and saving, which take memory of the CPU: mapped files, and merged adapters."""
        if self.gpu:
            return
        packed = full_size(saved)
        self.memory.libraries = FIRST_USE + packed  # embeddings stay in the mapped file, and it with them
        largest = 0 if packed else max(role.weights for role in self.memory.roles)
        if self.parts:  # each is loaded whole before it is divided
            largest = 2 * max(parts.whole for parts in self.parts.values())
        self.memory.phases["load"] = sum(role.weights for role in self.memory.roles) + largest
        merged = sum(cast("Tensor", layer.get_base_layer().weight).nbytes for _, layer in adapted_layers(saved))
        if packed:  # read again, from a file that is mapped, and merged beside it
            merged = 2 * packed + self.memory.roles[0].weights
        if merged:
            self.memory.phases["save"] = self.ledger.live + merged


def fill_gradients(network: nn.Module) -> None:
    """A gradient for every trained weight that has none."""
    for weight in network.parameters():
        if weight.requires_grad and weight.grad is None:
            weight.grad = torch.zeros_like(weight)


def target_loss(model: PreTrainedModel, work: Pass, tally: Tally) -> Tensor:
    """The forward pass of a loss on demonstrations."""
    ids, mask = blank(work.rows, work.length)
    tally.part("logits", logits_size(model, work.targets))
    with tally.ledger.reading(work.targets, work.length):
        return -target_log_probs(model, SftBatch(ids, mask, mask)).sum()


def as_read(model: PreTrainedModel, parts: Collection[Pass]) -> Pass:
    """The largest of some passes as a causal model reads it: a prompt once for all its answers, where that pays.

    The mask that this takes is not counted: a byte for each two tokens of a row, which is little beside what
    layers keep.
    """
    any_mask = not is_encoder(model) and takes_any_mask(model, max(one.length for one in parts))

    def read(one: Pass) -> Pass:
        together = (one.prompts, one.together)
        if not any_mask or one.prompts in (0, one.rows) or not pays(model, (one.rows, one.length), together):
            return one
        return one._replace(rows=one.prompts, length=one.together)

    return largest_of(map(read, parts))


def logits_size(model: PreTrainedModel, positions: int) -> int:
    """Bytes in float32 of the logits that `from_logits` computes at once."""
    vocabulary: int = model.config.get_text_config().vocab_size
    return 4 * vocabulary * min(positions, max(1, LOGITS // vocabulary))


def blank(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """(B, L) token numbers, and a (B, L) mask in which all are real."""
    return torch.zeros(rows, length, dtype=torch.int64), torch.ones(rows, length, dtype=torch.bool)
