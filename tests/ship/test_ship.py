import json
import shutil
from pathlib import Path

import pytest
import synthetic
from huggingface_hub import ModelCard
from pydantic import ValidationError
from rollout_models import make_policy

from equipoise import artefact
from equipoise.data.jsonl import write_records
from equipoise.errors import ArtefactError, EvaluationError, ModelError
from equipoise.evaluate.certificate import certify
from equipoise.evaluate.config import EvaluateConfig
from equipoise.evaluate.evaluate import evaluate
from equipoise.evaluate.evidence import read_evidence
from equipoise.evaluate.gate_config import GateConfig
from equipoise.report.config import ReportConfig
from equipoise.report.report import report
from equipoise.ship.config import ShipConfig
from equipoise.ship.proof import name_in_evaluation, read_gate
from equipoise.ship.ship import ship

ASKED = synthetic.prompts()
PROMPT = "hi"


def finished_policy(out: Path, model: Path, seed: int) -> Path:
    build = artefact.start(out, "policy", synthetic.Settings(out=out, seed=seed), {})
    shutil.copytree(model, out, dirs_exist_ok=True)
    (out / "config.json").write_text((out / "config.json").read_text() + "\n" * seed)  # so that policies differ
    artefact.finish(build, {})
    return out


def responded(out: Path, policy: Path, unsafe: int) -> Path:
    build = artefact.start(out, "responses", synthetic.Settings(out=out), {"policy": policy})
    write_records(out / "responses.jsonl", synthetic.responses(policy.name, ASKED, unsafe, 1, float(40 - unsafe)))
    artefact.finish(build, {})
    return out


def certificate(folder: Path, evaluation: Path, limit: float, policy: str = "safe") -> Path:
    out = folder / f"gate-{limit}-{policy}.json"
    config = GateConfig(evaluation=evaluation, limit=limit, policy=policy, ledger=folder / "ledger.jsonl")
    artefact.write_json(out, certify(read_evidence(config), config).model_dump(mode="json"))
    return out


class Bench:
    """Two policies, their answers, an evaluation of both; `settings` ship the second."""

    def __init__(self, folder: Path) -> None:
        model = make_policy(folder / "model")
        self.folder = folder
        self.sft = finished_policy(folder / "sft", model, 1)
        self.safe = finished_policy(folder / "safe", model, 2)
        self.other = finished_policy(folder / "other", model, 3)
        self.answers = responded(folder / "answers-safe", self.safe, 1)
        policies = {"sft": responded(folder / "answers-sft", self.sft, 22), "safe": self.answers}
        settings = {"verdict": "synthetic:verdicts", "votes": "synthetic:votes"}
        self.evaluation = evaluate(EvaluateConfig(out=folder / "evaluation", policies=policies, **settings))

    def settings(self, folder: str, /, **more: object) -> ShipConfig:
        given = {"policy": self.safe, "evaluation": self.evaluation, "prompt": PROMPT, "max_new_tokens": 8}
        return ShipConfig.model_validate({**given, "out": self.folder / folder, **more})


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ship"))


@pytest.fixture(scope="module")
def shipped(bench) -> Path:
    """With a gate that did not pass, and everything that a card can say."""
    return ship(
        bench.settings(
            "shipped",
            gate=certificate(bench.folder, bench.evaluation, 0.01),
            allow_failed_gate=True,
            name="a_model | <b>",
            license="other",
            license_name="ours",
            base_model="org/base",
            language=("en",),
            data={"demos | x": {"license": "cc-by-4.0", "dataset": "org/demos"}, "scraped": {}},
        )
    )


def test_card_reads_back_with_its_numbers(bench, shipped):
    data = ModelCard.load(shipped / "README.md").data
    assert (data.license, data.license_name, data.base_model) == ("other", "ours", "org/base")
    assert (data.datasets, data.language) == (["org/demos"], ["en"])
    assert data.library_name == "transformers" and data.pipeline_tag == "text-generation"
    summary = json.loads((bench.evaluation / "summary.json").read_text())["policies"][1]
    results = {one.metric_type: one for one in data.eval_results}
    elos = {key for key in ("helpful_elo", "helpful_elo_all", "harmless_elo") if summary[key]["value"] is not None}
    assert elos and set(results) == {"harmful_rate", "over_refusal_rate"} | elos
    rate = results["harmful_rate"]
    assert rate.metric_value == summary["harmful_rate"]["value"] == 1 / 40
    assert rate.metric_args["n"] == 40
    assert rate.metric_args["interval_95"] == [summary["harmful_rate"]["low"], summary["harmful_rate"]["high"]]


def test_card_says_what_is_unknown_and_escapes_what_is_foreign(shipped):
    text = (shipped / "README.md").read_text()
    assert "| demos \\| x | unknown | cc-by-4.0 | org/demos |" in text
    assert "| scraped | unknown | unknown | unknown |" in text
    assert "# a\\_model \\| &lt;b&gt;" in text
    assert "Intended use.** Not stated" in text and "License of the weights: ours" in text
    rows = [line for line in text.splitlines() if line.startswith("| harmful answers")]
    assert rows == ["| harmful answers | 55.0 % (39.8–69.3 %, n = 40) | 2.50 % (0.44–12.9 %, n = 40) |"]


def test_gate_that_did_not_pass_stands_on_top_of_the_card(shipped):
    body = (shipped / "README.md").read_text().split("---\n", 2)[2]
    assert body.index("the gate did not pass") < body.index("How safe, how useful")
    assert "NOT ENOUGH EVIDENCE" in body and "on the very answers of this evaluation" in body
    assert artefact.read_manifest(shipped).facts["gate"] == "not enough evidence"


def test_shipped_folder_answered_in_a_fresh_process(shipped):
    facts = artefact.read_manifest(shipped, ("model",)).facts["load_test"]
    assert facts["model"] == "LlamaForCausalLM" and facts["without_this_package"]
    assert 1 <= facts["tokens"] <= 8 and PROMPT in facts["prompt"]
    text = (shipped / "README.md").read_text()
    assert f"it answered with {facts['tokens']} tokens" in text and facts["transformers"] in text


def test_folder_holds_the_model_whole_and_nothing_of_its_training(bench, shipped):
    names = {path.name for path in shipped.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert {"README.md", "report.html", "summary.json", "gate.json", "manifest.json"} <= names
    for name in ("model.safetensors", "tokenizer.json"):
        assert (shipped / name).read_bytes() == (bench.safe / name).read_bytes()
    assert "Certificate of the gate" in (shipped / "report.html").read_text()
    assert not {"metrics.jsonl", "samples.jsonl", "checkpoints", "adapter"} & names


def test_gate_that_did_not_pass_is_refused(bench):
    with pytest.raises(EvaluationError, match="did not pass: not enough evidence"):
        ship(bench.settings("a", gate=certificate(bench.folder, bench.evaluation, 0.01)))
    failed = certificate(bench.folder, bench.evaluation, 0.1, "sft")
    with pytest.raises(EvaluationError, match="is of 'sft', but what ships is 'safe'"):
        ship(bench.settings("a", gate=failed))
    with pytest.raises(EvaluationError, match="did not pass: fail"):
        ship(bench.settings("a", policy=bench.sft, gate=failed))
    assert not (bench.folder / "a").exists()


def test_gate_on_a_namesake_with_other_files_is_refused(bench, tmp_path):
    namesake = {"safe": responded(tmp_path / "answers", bench.other, 1)}
    measured = evaluate(EvaluateConfig(out=tmp_path / "e", policies=namesake, verdict="synthetic:verdicts"))
    gate = certificate(tmp_path, measured, 0.2)
    assert json.loads(gate.read_text())["verdict"] == "pass"
    with pytest.raises(EvaluationError, match="another policy called 'safe'"):
        read_gate(bench.settings("k", gate=gate), "safe")
    tree = json.loads(gate.read_text())
    artefact.write_json(gate, {**tree, "policy_hash": None})  # as labels would have it
    found = read_gate(bench.settings("k", gate=gate), "safe")
    assert found is not None and found.same_answers is False


def test_whose_answers_a_gate_on_costs_rests_on_is_not_guessed(bench, tmp_path):
    asked = GateConfig(
        measure="mean_cost",
        responses=bench.answers,
        cost_range=(-5, 5),
        limit=4,
        policy="safe",
        ledger=tmp_path / "ledger.jsonl",
    )
    artefact.write_json(tmp_path / "gate.json", certify(read_evidence(asked), asked).model_dump(mode="json"))
    found = read_gate(bench.settings("i", gate=tmp_path / "gate.json", allow_failed_gate=True), "safe")
    assert found is not None and found.same_answers is None
    assert found.certificate.policy_hash == artefact.fingerprint_of(bench.safe)


def test_policy_that_was_not_evaluated_is_refused(bench):
    with pytest.raises(ArtefactError, match="did not measure this policy"):
        ship(bench.settings("b", policy=bench.other))
    with pytest.raises(ArtefactError, match="did not measure this policy"):  # nor by answers of somebody else
        ship(bench.settings("b", policy=bench.other, responses=bench.answers))


def test_unfinished_policy_is_refused(bench):
    unfinished = shutil.copytree(bench.safe, bench.folder / "unfinished")
    (unfinished / "manifest.json").unlink()
    with pytest.raises(ArtefactError, match="is unfinished"):
        ship(bench.settings("c", policy=unfinished))


def test_responses_that_moved_can_be_named(bench, tmp_path):
    moved = Bench(tmp_path)
    place = moved.answers.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match=r"responses of safe .* are not where they were read"):
        ship(moved.settings("d"))
    config = moved.settings("d", responses=place)
    assert name_in_evaluation(config, artefact.read_manifest(moved.evaluation)) == "safe"


def test_folder_that_does_not_load_is_not_shipped(bench, tmp_path):
    model = shutil.copytree(bench.folder / "model", tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"cut")
    policy = finished_policy(tmp_path / "cut", model, 4)
    answers = {"cut": responded(tmp_path / "answers", policy, 1)}
    measured = evaluate(EvaluateConfig(out=tmp_path / "e", policies=answers, verdict="synthetic:verdicts"))
    config = bench.settings("e", policy=policy, evaluation=measured)
    with pytest.raises(ModelError, match="does not load and generate"):
        ship(config)
    assert not (config.out / "manifest.json").exists()


def test_policy_that_was_changed_since_it_was_finished_is_refused(bench, tmp_path):
    policy = shutil.copytree(bench.safe, tmp_path / "changed")
    weights = (policy / "model.safetensors").read_bytes()
    (policy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelError, match="changed since the policy was finished"):
        ship(bench.settings("h", policy=policy))


def test_policy_without_a_needed_file_or_with_code_of_its_own_is_refused(bench, tmp_path):
    bare = shutil.copytree(bench.safe, tmp_path / "bare")
    (bare / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"no generation_config\.json"):
        ship(bench.settings("f", policy=bare))
    coded = shutil.copytree(bench.safe, tmp_path / "coded")
    (coded / "config.json").write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "mine.Model"}}))
    with pytest.raises(ModelError, match="code of its own"):
        ship(bench.settings("f", policy=coded))


def test_report_on_another_evaluation_is_refused(bench, tmp_path):
    answers = {"only": bench.answers}
    other = evaluate(EvaluateConfig(out=tmp_path / "e", policies=answers, verdict="synthetic:verdicts"))
    page = report(ReportConfig(out=tmp_path / "r", evaluation=other))
    with pytest.raises(ArtefactError, match="of another evaluation"):
        ship(bench.settings("g", report=page))


@pytest.mark.parametrize(
    "wrong",
    [
        {"license": "My License"},
        {"license": "other"},
        {"license": "mit", "license_name": "ours"},
        {"base_model": "a/b/c"},
        {"data": {"x": {"dataset": "no spaces allowed/x"}}},
    ],
)
def test_metadata_that_the_hub_would_refuse_is_refused(tmp_path, wrong):
    with pytest.raises(ValidationError):
        ShipConfig.model_validate({"out": tmp_path, "policy": tmp_path, "evaluation": tmp_path, **wrong})
