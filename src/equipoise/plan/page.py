"""A plan as tables in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from equipoise.plan.config import GPUS, RESERVE
from equipoise.plan.memory import Memory
from equipoise.plan.plan import Plan, gib


def show(plan: Plan, console: Console) -> None:
    """Print memory, fits, tokens, the probe, and examples."""
    on = "a GPU" if plan.machine.gpu else "a CPU, where it runs (hardware.device)"
    if plan.machine.processes > 1:
        on = f"each of {plan.machine.processes} processes on {on}"
    console.print(f"equipoise {plan.stage}, planned for {on}; nothing was loaded\n", highlight=False)
    console.print(_roles(plan.memory))
    console.print(_phases(plan))
    for name, fits in plan.fits.items():
        gpu = next(gpu for gpu in GPUS if gpu.name == name)
        size = f"{gpu.sold_as} GB, {RESERVE:.0%} of {gpu.memory:g} GiB kept free"
        console.print(f"{'fits' if fits else 'does not fit':>12}  {name:8} {size}", highlight=False)
    console.print()
    console.print(_work(plan))
    _show_probe(plan, console)
    if plan.work.examples:
        console.print("\nTrained, scored or sampled between ⟦ and ⟧", highlight=False)
    for text in plan.work.examples:
        console.print(f"--\n{escape(text)}", highlight=False)


def _roles(memory: Memory) -> Table:
    table = Table("role", "weights", "gradients", "optimizer", "trained", "", box=None, pad_edge=False)
    for role in memory.roles:
        sizes = (gib(role.weights), gib(role.gradients), gib(role.optimizer))
        table.add_row(role.name, *sizes, f"{role.trained:,}", role.note)
    sums = [gib(sum(getattr(r, key) for r in memory.roles)) for key in ("weights", "gradients", "optimizer")]
    table.add_row("together", *sums, f"{sum(role.trained for role in memory.roles):,}", "", end_section=True)
    return table


def _phases(plan: Plan) -> Table:
    memory = plan.memory
    table = Table("\nphase", "\npeak", "", box=None, pad_edge=False)
    for name, size in memory.phases.items():
        table.add_row(name, gib(size), "← the most" if size == max(memory.phases.values()) else "")
    if memory.libraries:
        table.add_row("libraries", gib(memory.libraries), "at any time; malloc keeps more: docs/plan.md")
    for name, size in memory.parts.items():
        table.add_row(f"of it {name}", gib(size), "")
    return table


def _work(plan: Plan) -> Table:
    work = plan.work
    table = Table(show_header=False, box=None, pad_edge=False)
    if work.prompts is not None:
        table.add_row("prompts", f"{work.prompts:,}")
    if work.steps is not None:
        table.add_row("optimizer steps", f"{work.steps:,}")
    if work.tokens_per_epoch is not None:
        table.add_row("tokens per epoch", f"{work.tokens_per_epoch:,}")
    for name, found in work.tokens.items():
        words = (
            f"mean {found.mean:.1f}, median {found.median:g}, 95th percentile {found.p95}, longest {found.longest}"
        )
        table.add_row(f"tokens of {name}", words)
    for note in work.notes:
        table.add_row("note", escape(note))
    return table


def _show_probe(plan: Plan, console: Console) -> None:
    if plan.probed is None:
        return
    off = plan.memory.peak / plan.probed.peak - 1
    console.print(
        f"\nprobe of {plan.probed.steps} steps: peak {gib(plan.probed.peak)} (predicted {off:+.1%}), "
        f"{plan.probed.seconds_per_step:.2f} s per step",
        highlight=False,
    )
    if plan.hours is not None:
        price = "" if plan.price is None else f", {plan.price:.2f} at {plan.price_per_hour:g} per hour"
        console.print(f"the whole stage: {plan.hours:.2f} hours{price}", highlight=False)
