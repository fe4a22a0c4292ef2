import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from equipoise.cli import main as cli
from equipoise.cli.stages import STAGES, Stage
from equipoise.config import config_hash
from equipoise.errors import DataError
from equipoise.rounds.plan import make_plan
from equipoise.train.config import SftConfig

SFT = ["--model", "base", "--demonstrations", "a.jsonl", "--out", "runs/sft"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configs that stages were run with; no stage really runs."""
    configs: list[Any] = []

    def load_run(_: Stage) -> Any:
        return lambda config: configs.append(config) or config.out

    monkeypatch.setattr(Stage, "load_run", load_run)
    return configs


def test_help_is_quick_and_imports_no_heavy_package() -> None:
    code = (
        "import sys\nfrom equipoise.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 5  # it takes about 0.4 s; the bound is for a busy machine
    for stage in STAGES:
        assert stage.command[0] in done.stdout


def test_help_names_the_project_first_and_says_when_a_setting_of_a_group_is_required(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    cli.main(["annotate", "serve", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Usage: equipoise annotate serve PROJECT")
    of = {words[1]: line for line in lines if len(words := line.split()) > 2 and words[1].startswith("--")}
    assert {"--host", "--port", "--behind-proxy", "--policy.reward", "--policy.cost"} <= of.keys()
    assert "[not empty] [required with any --policy setting]" in of["--policy.model"]
    assert "[required]" in of["--project"]


def test_flags_reach_the_stage_as_its_config(ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sft", *SFT, "--optimizer.lr", "3e-4", "--epochs", "2", "--micro-batch", "none"]) == 0
    (config,) = ran
    assert isinstance(config, SftConfig)
    assert (config.optimizer.lr, config.epochs, config.micro_batch) == (3e-4, 2, None)
    assert config.optimizer.schedule == "cosine"
    assert config.demonstrations[0].path == "a.jsonl"
    assert capsys.readouterr().out.strip() == "runs/sft"


def test_a_setting_that_is_a_name_or_a_group_takes_either_as_flags(ran: list[Any]) -> None:
    words = ["evaluate", "--policies.sft", "runs/answers", "--out", "runs/evaluation"]
    assert cli.main([*words, "--verdict", "judges:verdicts"]) == 0
    assert cli.main([*words, "--verdict.cost.type", "model", "--verdict.cost.path", "runs/judge"]) == 0
    named, grouped = (config.verdict for config in ran)
    assert named == "judges:verdicts"
    assert grouped.cost.path == Path("runs/judge")


def test_recipes_are_layered_left_to_right_and_flags_are_on_top(ran: list[Any], tmp_path: Path) -> None:
    low, high = tmp_path / "low.toml", tmp_path / "high.toml"
    low.write_text("epochs = 1\nseed = 1\nbatch_size = 1\n[optimizer]\nlr = 0.1\nwarmup = 0.5\n")
    high.write_text("epochs = 2\nseed = 2\n[optimizer]\nlr = 0.2\n")
    assert cli.main(["sft", str(low), str(high), *SFT, "--seed", "3"]) == 0
    (config,) = ran
    assert (config.batch_size, config.epochs, config.seed) == (1, 2, 3)
    assert (config.optimizer.lr, config.optimizer.warmup) == (0.2, 0.5)


def test_a_recipe_for_several_stages_gives_each_its_table(ran: list[Any], tmp_path: Path) -> None:
    recipe = tmp_path / "all.toml"
    recipe.write_text("[sft]\nepochs = 5\n[ppo_lag]\nepochs = 7\n")
    assert cli.main(["sft", str(recipe), *SFT]) == 0
    assert ran[0].epochs == 5


def test_the_settings_of_a_stage_inside_a_run_are_flags_at_every_depth(ran: list[Any]) -> None:
    words = [
        "--ppo-lag.constraint.type",
        "mean",
        "--ppo-lag.batch-size",
        "7",
        "--sft.optimizer.betas",
        "[0.1, 0.2]",
    ]
    assert cli.main(["round", "playground", *words, "--reward", '{"epochs": 5}', "--cost.epochs", "3"]) == 0
    (config,) = ran
    steps = {step.name: step.config for step in make_plan(config)}
    assert (steps["round-1/policy"].batch_size, steps["sft"].optimizer.betas) == (7, (0.1, 0.2))
    assert (steps["sft"].optimizer.lr, steps["round-1/reward"].epochs, steps["round-1/cost"].epochs) == (
        3e-3,
        5,
        3,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ppo-lag.dual.lx", "1"], "did you mean 'lr'"),
        (["--ppo-lag.dual.lr", "1", "--ppo-lag.dual.lr", "2"], "specified multiple times"),
        (["--sft", "{broken"], "--sft"),
    ],
)
def test_a_wrong_flag_inside_a_run_is_answered(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["round", "playground", *words]) == 2
    assert said in capsys.readouterr().err


def test_lists_of_sources_take_paths_or_tables(ran: list[Any]) -> None:
    more = ["--demonstrations", '{"path": "b.jsonl", "limit": 5}']
    assert cli.main(["sft", *SFT, *more]) == 0
    assert [(s.path, s.limit) for s in ran[0].demonstrations] == [("a.jsonl", None), ("b.jsonl", 5)]


def test_a_dry_run_runs_nothing_and_prints_a_recipe_of_the_same_run(
    ran: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sft", *SFT, "--optimizer.lr", "3e-4", "--dry-run"]) == 0
    assert ran == []
    printed = capsys.readouterr().out
    recipe = tmp_path / "resolved.toml"
    recipe.write_text(printed)
    assert tomllib.loads(printed)["optimizer"]["lr"] == 3e-4
    assert cli.main(["sft", str(recipe)]) == 0
    assert config_hash(ran[0]) in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", *SFT, "--optimizer.lrr", "1"], "Did you mean --optimizer.lr?"),
        (["sft", *SFT, "--optimizer.lr", "fast"], "--optimizer.lr"),
        (["sft", *SFT, "--optimizer.lr", "-1"], "optimizer.lr: Input should be greater than 0 (got -1.0)"),
        (["sft", "--out", "x"], "model: required, but not given"),
        (["sft", "none.toml"], "no such recipe"),
        (["sft", "no-such-recipe"], "no recipe 'no-such-recipe'"),
        (["sfft"], 'Unknown command "sfft"'),
        (["data", "check", "none.jsonl"], "none.jsonl"),
    ],
)
def test_a_users_mistake_ends_with_status_2_and_words(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.replace("│", " ").split())
    assert captured.out == ""


def test_an_unknown_key_in_a_recipe_is_answered_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("epoch = 3\n")
    assert cli.main(["sft", str(recipe), *SFT]) == 2
    error = capsys.readouterr().err
    assert "epoch: unknown key; did you mean 'epochs'?" in error
    assert "mine.toml" in error


def test_an_error_of_ours_has_no_traceback_unless_debug_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_run(_: Stage) -> Any:
        def fail(_: Any) -> Path:
            raise DataError("The file is empty.", where="a.jsonl", fix="Fill it.")

        return fail

    monkeypatch.setattr(Stage, "load_run", load_run)
    assert cli.main(["sft", *SFT]) == 2
    assert capsys.readouterr().err == "DataError: The file is empty.\n  where: a.jsonl\n  fix: Fill it.\n"
    for words in (["--debug", "sft", *SFT], ["sft", *SFT, "--debug"]):
        with pytest.raises(DataError):
            cli.main(words)


def test_an_interrupted_command_says_so_and_ends_with_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_run(_: Stage) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "load_run", load_run)
    assert cli.main(["sft", *SFT]) == 130
    assert "The same command goes on" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "equipoise.train.sft", raising=False)
    assert cli.main(["sft", *SFT]) == 2
    assert "pip install 'equipoise[train]'" in capsys.readouterr().err
