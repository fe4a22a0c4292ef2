"""The rules of CONTRIBUTING.md that a machine can check, over the source as it is written."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
SOURCES = sorted(SRC.rglob("*.py"))
ALL_PYTHON = [*SOURCES, *sorted(p for folder in ("tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))]

# A module imports only what stands before it; packages in one set do not import each other.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"", "errors", "records", "config", "chat_model", "artefact", "runlog", "stats"}),
    frozenset({"data", "algos"}),
    frozenset({"annotate"}),
    frozenset({"tokens"}),
    frozenset({"models"}),
    frozenset({"rollout"}),
    frozenset({"train"}),
    frozenset({"redteam", "evaluate"}),
    frozenset({"report"}),
    frozenset({"playground", "rounds", "plan", "ship"}),
    frozenset({"cli"}),
)
VOCABULARY = LAYERS[0]
TORCH_FREE_PACKAGES = VOCABULARY | {"data", "annotate", "report", "ship", "cli"}
TORCH_FREE_MODULES = {
    "equipoise.evaluate.elo",
    "equipoise.evaluate.known.run",
    "equipoise.evaluate.certificate",
    "equipoise.evaluate.evaluate",
    "equipoise.rollout.stored_config",
    "equipoise.rollout.pairs",
    "equipoise.rollout.select",
}
WITH_TORCH = {"equipoise.cli.chat", "equipoise.cli.__main__"}  # what a command runs, and what runs at import
TORCH_LIKE = {"torch", "transformers", "tokenizers", "accelerate", "peft", "safetensors"}

MATHS_IMPORTS = {"torch", "numpy", "scipy", "math", "typing", "dataclasses", "collections", "equipoise"}
QUIET_CALLS = {"re.compile", "math.log", "torch.device", "frozenset", "tuple", "dict", "set", "range", "enumerate"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

MAX_FILE, MAX_FUNCTION, MAX_LOOP, MAX_PARAMETERS = 400, 60, 150, 8


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    return [*module.split("."), ""][1]


MODULES = {module_name(path): path for path in SOURCES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions_in(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree_of(path)) if isinstance(n, FUNCTIONS))


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    a = function.args
    found = [
        *a.posonlyargs,
        *a.args,
        *a.kwonlyargs,
        *([a.vararg] if a.vararg else []),
        *([a.kwarg] if a.kwarg else []),
    ]
    return [arg for arg in found if arg.arg not in ("self", "cls")]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(nodes: Iterable[ast.AST], *, inside_functions: bool) -> set[str]:
    """Full names of what is imported; `from a import b` counts as `a.b`: a module, or a name in one."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not is_type_checking(node) and (inside_functions or not isinstance(node, FUNCTIONS)):
            found |= imports_of(ast.iter_child_nodes(node), inside_functions=inside_functions)
    return found


def is_torch_free(path: Path) -> bool:
    module = module_name(path)
    named = package_of(module) in TORCH_FREE_PACKAGES or module in TORCH_FREE_MODULES
    return (named or path.name == "config.py") and module not in WITH_TORCH


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(problems)


def test_nothing_happens_at_import() -> None:
    report([f"{p.relative_to(ROOT)}:{n.lineno}" for p in SOURCES for n in tree_of(p).body if not is_quiet(n)])


def test_no_two_test_files_share_a_name() -> None:
    """Without packages among the tests, pytest collects only one of them."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    report([name for name, count in names.items() if count > 1])


def is_quiet(node: ast.stmt) -> bool:
    """Whether a statement at the top of a module only defines: imports, names, functions, classes, docstrings."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(value=value) | ast.AnnAssign(value=value):
            return value is None or all(is_quiet_call(n) for n in ast.walk(value) if isinstance(n, ast.Call))
        case ast.If():
            return is_type_checking(node) or ast.unparse(node.test) == "__name__ == '__main__'"
    return False


def is_quiet_call(call: ast.Call) -> bool:
    """A call that only builds a value: a class (by its capital letter) or one of a short list."""
    name = ast.unparse(call.func)
    return name in QUIET_CALLS or name.rpartition(".")[2][:1].isupper()


def test_maths_has_no_self_no_config_no_logging_and_no_io() -> None:
    problems = []
    for path in SOURCES:
        if package_of(module_name(path)) != "algos":
            continue
        for name in imports_of(tree_of(path).body, inside_functions=True):
            ours = name.startswith("equipoise") and not name.startswith(("equipoise.algos", "equipoise.errors"))
            if ours or name.split(".")[0] not in MATHS_IMPORTS:
                problems.append(f"{path.relative_to(ROOT)} imports {name}")
        problems += [
            f"{path.relative_to(ROOT)}:{f.lineno} {f.name} has self"
            for f in functions_in(path)
            if f.args.args and f.args.args[0].arg == "self"
        ]
    report(problems)


def test_every_parameter_and_return_is_annotated() -> None:
    report(
        [
            f"{path.relative_to(ROOT)}:{f.lineno} {f.name}"
            for path in SOURCES
            for f in functions_in(path)
            if f.returns is None or any(arg.annotation is None for arg in parameters_of(f))
        ]
    )


def test_files_are_at_most_400_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_PYTHON}
    report([f"{path.relative_to(ROOT)} has {n} lines" for path, n in lengths.items() if n > MAX_FILE])


def test_functions_are_at_most_60_lines_and_training_loops_150() -> None:
    problems = []
    for path in ALL_PYTHON:
        for function in functions_in(path):
            is_loop = path.parent.name == "train" and SRC in path.parents and function.name.startswith("train_")
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > (MAX_LOOP if is_loop else MAX_FUNCTION):
                problems.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name} has {lines} lines")
    report(problems)


def test_functions_have_at_most_8_parameters() -> None:
    report(
        [
            f"{path.relative_to(ROOT)}:{f.lineno} {f.name} has {len(parameters_of(f))} parameters"
            for path in SOURCES
            for f in functions_in(path)
            if len(parameters_of(f)) > MAX_PARAMETERS
        ]
    )


def test_every_module_stands_in_a_layer() -> None:
    known = frozenset().union(*LAYERS)
    report([str(p.relative_to(ROOT)) for p in SOURCES if package_of(module_name(p)) not in known])


def test_imports_only_go_down_the_layers() -> None:
    level = {package: n for n, packages in enumerate(LAYERS) for package in packages}
    problems = []
    for path in SOURCES:
        mine = package_of(module_name(path))
        for name in imports_of(tree_of(path).body, inside_functions=True):
            theirs = package_of(name) if package_of(name) in level else ""
            sideways = level[theirs] == level[mine] and theirs != mine and mine not in VOCABULARY
            if name.startswith("equipoise") and (level[theirs] > level[mine] or sideways):
                problems.append(f"{path.relative_to(ROOT)} imports {name}")
    report(problems)


def test_no_torch_free_module_reaches_torch_through_its_imports() -> None:
    report([route for path in SOURCES if is_torch_free(path) and (route := route_to_torch(module_name(path)))])


def route_to_torch(start: str) -> str:
    """How importing a module leads to torch, or nothing."""
    routes = {start: start}
    waiting = [start]
    while waiting:
        module = waiting.pop()
        for name in sorted(imported_by(module)):
            if name.split(".")[0] in TORCH_LIKE:
                return f"{routes[module]} → {name}"
            target = name if name in MODULES else name.rpartition(".")[0]
            if target in MODULES and target not in routes:
                routes[target] = f"{routes[module]} → {target}"
                waiting.append(target)
    return ""


@cache
def imported_by(module: str) -> frozenset[str]:
    """What importing a module imports, functions' own imports left out."""
    return frozenset(imports_of(tree_of(MODULES[module]).body, inside_functions=False))


def test_torch_free_modules_import_without_torch() -> None:
    modules = [module_name(path) for path in SOURCES if is_torch_free(path)]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name + ' imports torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_committed_text_names_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.<])/" + r"work(?![\w-])|/" + r"home/\w+/|/" + r"root/")
    problems = []
    for path in (ROOT / name for name in listed.stdout.splitlines()):
        text = path.read_text(encoding="utf-8", errors="ignore") if path.is_file() else ""
        problems += [f"{path.relative_to(ROOT)}: {match.group()}" for match in place.finditer(text)]
    report(problems)
