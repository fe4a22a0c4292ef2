"""The command line: which subcommands there are, and how a run ends.

Only what the given command needs is imported; `--help` imports neither torch nor pandas.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from equipoise import __version__
from equipoise.cli.plan import PLANNED, plan_command
from equipoise.cli.stages import STAGES, Stage
from equipoise.errors import EquipoiseError

USER_ERROR = 2
INTERRUPTED = 130

OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("data", "check"), "equipoise.cli.data:check", "Read a data file: counts, balance, bad rows, examples."),
    (("data", "split"), "equipoise.cli.data:split", "Prompts → those to train on and those to evaluate on."),
    (("data", "convert"), "equipoise.cli.data:convert", "Other tools' reports → prompts or labels, and back."),
    (("convert",), "equipoise.cli.convert:convert", "Published Beaver score models ↔ this package's layout."),
    (("annotate", "import"), "equipoise.cli.annotate:import_files", "Files → a project's items and answers."),
    (("annotate", "invite"), "equipoise.cli.annotate:invite", "A personal link for somebody, valid once."),
    (("annotate", "status"), "equipoise.cli.annotate:status", "How far a project and its people are."),
    (("annotate", "backup"), "equipoise.cli.annotate:backup", "A project → one file, while people go on working."),
    (("annotate", "restore"), "equipoise.cli.annotate:restore", "A backup → a project in a new directory."),
    (("annotate", "erase"), "equipoise.cli.annotate:erase", "Replace a person's name by a pseudonym for good."),
    (("doctor",), "equipoise.cli.doctor:doctor", "Versions, devices, memory, disk, known-bad pairs."),
)
GROUPS = {
    "annotate": "Collect labels.",
    "data": "Look at data files, and make training data of responses.",
    "plan": "What a stage will take, before anything loads: memory, tokens, examples; time by --probe.",
    "playground": "The offline world.",
}


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        tokens: The arguments; those of the process unless given.

    Returns:
        The exit status: 0 or what the command decided, 2 for an error of the user's, 130 when interrupted.
    """
    tokens = sys.argv[1:] if tokens is None else list(tokens)
    # OpenMP's threads spin while they wait: beside other work on the same cores that costs an order of magnitude.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "" not in sys.path:  # functions that settings name may lie where the command is run
        sys.path.append("")
    app = build_app()

    @app.meta.default
    def launch(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        debug: Annotated[
            bool, Parameter(negative=(), show_default=False, help="Show the traceback of an error.")
        ] = False,
    ) -> int:
        try:
            return app(words, exit_on_error=False) or 0
        except CycloptsError:
            return USER_ERROR
        except EquipoiseError as error:
            if debug:
                raise
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return USER_ERROR
        except KeyboardInterrupt:
            if debug:
                raise
            print("Interrupted. The same command goes on from what is finished and saved.", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    attach_stage(app, tokens)
    return int(app.meta(tokens) or 0)


def build_app() -> App:
    """All commands by name and one-line help, with nothing behind the stages yet."""
    app = App(
        name="equipoise",
        help="Safe RLHF for any causal language model. Start with: equipoise round playground --out runs/demo",
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative_iterable=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, text in GROUPS.items():
        app.command(App(name=name, help=text))
    for stage in STAGES:
        usage = f"Usage: equipoise {stage.name} {stage.place.upper()} [RECIPES] [OPTIONS]" if stage.place else None
        _parent(app, stage.command).command(App(name=stage.command[-1], help=stage.help, usage=usage))
        if stage.name in PLANNED:
            app["plan"].command(App(name=stage.name, help=f"Plan `{stage.name}`."))
    for command, function, text in OTHERS:
        _parent(app, command).command(function, name=command[-1], help=text)
    return app


def attach_stage(app: App, words: Sequence[str]) -> None:
    """Give the stage that `words` name its flags; the others' settings stay unimported."""
    command = app.parse_commands(words)[0]
    for stage in STAGES:
        if command[: len(stage.command)] == stage.command:  # `--help` may follow it
            found = _parent(app, stage.command)[stage.command[-1]]
            found.default(stage_command(stage))
        elif command[:2] == ("plan", *stage.command) and stage.name in PLANNED:
            app["plan"][stage.name].default(plan_command(stage))


def stage_command(stage: Stage) -> Callable[..., int]:
    """The command of one stage, with a flag per setting."""
    from equipoise.cli.flags import flags_type

    def command(*recipes: str, settings: Any = None, dry_run: bool = False) -> int:
        from equipoise.cli.layering import resolve, to_toml
        from equipoise.config import config_hash

        files, tree = list(recipes), dict(settings or {})
        if stage.place and files and not files[0].endswith(".toml"):
            tree[stage.place] = files.pop(0)
        config = resolve(stage, files, tree)
        if dry_run:
            print(f"# equipoise {stage.name}, settings {config_hash(config)}")
            print(to_toml(config.model_dump(mode="json", by_alias=True)))
            return 0
        result = stage.load_run()(config)
        if isinstance(result, int):
            return result
        if result is not None:
            print(result)
        return 0

    command.__doc__ = stage.help
    help = "TOML files, or names of shipped ones; later ones win."
    if stage.place:
        help = f"First the {stage.place}, if --{stage.place} is not given; then TOML files, later ones win."
    command.__annotations__ |= {
        "recipes": Annotated[str, Parameter(help=help)],
        "settings": Annotated[flags_type(stage.load_config()) | None, Parameter(name="*")],
        "dry_run": Annotated[
            bool, Parameter(negative=(), show_default=False, help="Print the resolved settings; run nothing.")
        ],
    }
    return command


def _parent(app: App, command: tuple[str, ...]) -> App:
    return app if len(command) == 1 else app[command[0]]
