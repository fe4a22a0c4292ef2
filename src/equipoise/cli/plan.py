"""`equipoise plan STAGE RECIPE…`: what a stage will take, from the same recipes and flags as the stage itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from equipoise.cli.flags import flags_type
from equipoise.cli.stages import Stage, needs_extra

PLANNED = ("sft", "reward", "cost", "ppo-lag")
NOWHERE = Path("planned")
"""The `out` of a stage that is only planned, where none is given."""


def plan_command(stage: Stage) -> Callable[..., int]:
    """The command that plans one stage, with a flag per setting of the stage."""

    def command(
        *recipes: str,
        settings: Any = None,
        gpu: str | None = None,
        probe: int = 0,
        price_per_hour: float | None = None,
        processes: int = 1,
        as_json: bool = False,
    ) -> int:
        from equipoise.cli.layering import resolve
        from equipoise.config import merge
        from equipoise.plan.config import Options, check_options

        options = check_options(Options(gpu, probe, price_per_hour, processes))
        config = resolve(stage, recipes, merge([{"out": NOWHERE}, settings or {}]))
        with needs_extra(f"plan {stage.name}"):
            from equipoise.plan.plan import make_plan
        plan = make_plan(stage.name, config, options)
        if as_json:
            print(json.dumps(plan.tree(), indent=2, ensure_ascii=False))
        else:
            from rich.console import Console

            from equipoise.plan.page import show

            show(plan, Console())
        return 0

    command.__doc__ = f"What `{stage.name}` will take, before anything loads: memory, tokens, examples."
    command.__annotations__ |= {
        "recipes": Annotated[str, Parameter(help="TOML files, or names of shipped ones; later ones win.")],
        "settings": Annotated[flags_type(stage.load_config()) | None, Parameter(name="*")],
        "gpu": Annotated[str | None, Parameter(help="Only this type of GPU: a10, a100-40, l40s, h100, h200.")],
        "probe": Annotated[int, Parameter(help="Run this many real steps, at least 2, and measure them.")],
        "price_per_hour": Annotated[
            float | None, Parameter(help="Of the machine; with --probe: the stage's price.")
        ],
        "processes": Annotated[int, Parameter(help="How many the launcher starts; the plan is of one of them.")],
        "as_json": Annotated[
            bool, Parameter(name="json", negative=(), show_default=False, help="JSON, sizes in bytes.")
        ],
    }
    return command
