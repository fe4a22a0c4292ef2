"""Reward and cost models train from the export of a labelling project as it is."""

from train_models import cost_model, reward_model

from equipoise.annotate.config import ExportConfig, ProjectConfig
from equipoise.annotate.files.export import export
from equipoise.annotate.files.imports import import_files
from equipoise.annotate.store.project import create_project
from equipoise.artefact import read_manifest
from equipoise.train.score_model import train_cost, train_reward

FAST = {"lr": 1e-2, "weight_decay": 0.0}


def test_both_models_learn_from_an_export(world, tmp_path):
    create_project(tmp_path / "project", ProjectConfig(), 1.0)
    import_files(tmp_path / "project", [world / "pairs.jsonl"], labels_as="ann")
    out = export(ExportConfig(project=tmp_path / "project", out=tmp_path / "preferences"))
    common = {"model": world / "policy", "held_out": 0.3, "epochs": 8, "optimizer": FAST}
    for name in (out, out / "pku_safe_rlhf.jsonl"):
        pairs = [{"path": str(name)}]
        config = cost_model(tmp_path / f"cost-{name.name}", pairs=pairs, **common)
        facts = read_manifest(train_cost(config), ("cost",)).facts
        assert facts["prompts"] + facts["held_out_prompts"] == 48
        assert facts["ranking_accuracy"]["value"] > 0.8
        assert facts["safety_accuracy"]["value"] > 0.8
    config = reward_model(tmp_path / "reward", pairs=[{"path": str(out)}], **common)
    assert read_manifest(train_reward(config)).facts["ranking_accuracy"]["value"] > 0.9
