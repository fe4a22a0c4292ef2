"""The `ship` stage: a finished policy and an evaluation of it → a model folder to hand over or upload.

Copies the weights (merged: a policy with an adapter is saved so), the tokenizer with its chat template and the
settings of generation; tries the folder in a fresh process; writes README.md, report.html, summary.json. Uploads
nothing and needs no network.
"""

import json
import shutil
from pathlib import Path

from equipoise.artefact import Manifest, fingerprint_of, finish, read_manifest, start, write_text
from equipoise.errors import ArtefactError, ModelError
from equipoise.evaluate.summary import read_evaluation
from equipoise.report.config import ReportConfig
from equipoise.report.report import PAGE, render
from equipoise.ship.card import Subject, write_card
from equipoise.ship.config import ShipConfig
from equipoise.ship.proof import facts_of, name_in_evaluation, read_gate, try_folder

CARD = "README.md"
SUMMARY = "summary.json"
CERTIFICATE = "gate.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
NEEDED = ("config.json", "generation_config.json", "tokenizer_config.json")
MODEL_FILES = (
    *WEIGHTS,
    *NEEDED,
    "tokenizer.json",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def ship(config: ShipConfig) -> Path:
    """Check that it may ship, copy, try it, and write the card.

    Returns:
        The directory, of kind "model".

    Raises:
        ArtefactError: The policy is unfinished, the evaluation did not measure it, the report is of another
            evaluation, or `out` holds another run.
        EvaluationError: The gate did not pass, or is of another policy.
        ModelError: The policy lacks a file or needs code of its own, or the folder does not load and generate.
    """
    policy = read_manifest(config.policy, ("policy",))
    evaluation = read_manifest(config.evaluation, ("evaluation",))
    name = name_in_evaluation(config, evaluation)
    gate = read_gate(config, name)
    _check_report(config)
    files = _model_files(config.policy, policy)
    build = start(config.out, "model", config, _inputs(config))
    if build.is_finished:
        return config.out
    for file in files:
        shutil.copyfile(file, config.out / file.name)
    trial = try_folder(config.out, config)
    shutil.copyfile(config.evaluation / SUMMARY, config.out / SUMMARY)
    if config.gate:
        shutil.copyfile(config.gate, config.out / CERTIFICATE)
    write_text(config.out / PAGE, _page(config))
    made: list[tuple[str, Manifest]] = [("policy", policy), ("evaluation", evaluation)]
    subject = Subject(config.name or config.out.name, name, read_evaluation(config.evaluation), made, gate, trial)
    write_text(config.out / CARD, str(write_card(config, subject)))
    finish(build, {"policy": name, **facts_of(gate, trial)})
    return config.out


def _inputs(config: ShipConfig) -> dict[str, Path]:
    given = {
        "policy": config.policy,
        "evaluation": config.evaluation,
        "gate": config.gate,
        "report": config.report,
    }
    return {key: path for key, path in given.items() if path is not None}


def _model_files(policy: Path, made: Manifest) -> list[Path]:
    """What a model folder needs of a policy's.

    Raises:
        ModelError: A file is missing or not the one that was finished, or the model needs code that is not in
            transformers.
    """
    files = sorted({file for pattern in MODEL_FILES for file in policy.glob(pattern)})
    names = {file.name for file in files}
    has_weights = any(name.endswith(".safetensors") for name in names)
    missing = [name for name in NEEDED if name not in names] + ([] if has_weights else ["model.safetensors"])
    if missing:
        raise ModelError(
            f"The policy has no {missing[0]}.",
            where=str(policy),
            why="a model folder that anybody can load needs it",
            fix="Train the policy again with this version, or convert it with `equipoise convert`.",
        )
    tokenizer = json.loads((policy / "tokenizer_config.json").read_text(encoding="utf-8"))
    if "chat_template.jinja" not in names and "chat_template" not in tokenizer:
        raise ModelError("The tokenizer has no chat template.", where=str(policy))
    if "auto_map" in json.loads((policy / "config.json").read_text(encoding="utf-8")):
        raise ModelError(
            "The model needs code of its own.",
            where=str(policy),
            why="config.json has an auto_map, and none ships",
        )
    changed = [file.name for file in files if fingerprint_of(file) != made.files.get(file.name)]
    if changed:
        raise ModelError(
            f"{changed[0]} was changed since the policy was finished.",
            where=str(policy),
            why="what ships must be what was evaluated",
            fix="Restore the file, or train and evaluate again.",
        )
    return files


def _check_report(config: ShipConfig) -> None:
    if config.report is None:
        return
    report = read_manifest(config.report, ("report",))
    if report.inputs.get("evaluation") != fingerprint_of(config.evaluation):
        raise ArtefactError("The report is of another evaluation.", where=str(config.report))


def _page(config: ShipConfig) -> str:
    if config.report is not None:
        return (config.report / PAGE).read_text(encoding="utf-8")
    title = config.name or config.out.name
    return render(ReportConfig(out=config.out, evaluation=config.evaluation, gate=config.gate, title=title))
