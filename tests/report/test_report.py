import json
import re
from html.parser import HTMLParser

import pytest
import synthetic

from equipoise.artefact import Manifest, write_json
from equipoise.errors import ArtefactError, DataError
from equipoise.evaluate.certificate import certify
from equipoise.evaluate.config import EvaluateConfig
from equipoise.evaluate.elo import Elo
from equipoise.evaluate.evaluate import evaluate
from equipoise.evaluate.evidence import read_evidence
from equipoise.evaluate.front import difference
from equipoise.evaluate.gate_config import GateConfig
from equipoise.evaluate.harm import ScoredAnswer, summarise
from equipoise.evaluate.judges import VerdictSource
from equipoise.evaluate.summary import Evaluation
from equipoise.report import plots
from equipoise.report.changes import direction, earlier, lines
from equipoise.report.config import ReportConfig, ReportRound
from equipoise.report.headline import headline
from equipoise.report.history import Usage, certificate, summarise_run
from equipoise.report.limits import judged_by, limits
from equipoise.report.report import render, report
from equipoise.report.wording import interval, percent, points, points_interval, short_names, signed
from equipoise.stats import wilson

NOTE = "The labellers are simulated: their skills and noise are calibrated inputs."
ANCHOR = Elo(value=0, low=0, high=0, n=9, status="anchor")
VOID = {"meta", "br", "link", "img", "input", "hr"}


def rounds(folder) -> tuple[ReportRound, ...]:
    agreement = {
        "helpfulness": {"raw": {"value": 0.69, "n": 300}, "alpha": 0.4},
        "harmlessness": {"raw": {"value": 0.66, "n": 100}, "alpha": None},
        "single_dimension": {"raw": {"value": None, "n": 0}, "alpha": None},
        "safety": {"raw": {"value": 0.9, "n": 100}, "alpha": 0.8},
    }
    other = {**agreement, "helpfulness": {"raw": {"value": 0.73, "n": 100}, "alpha": 0.5}}
    made = []
    for k in (1, 2, 3):
        facts = {"ranking_accuracy": synthetic.accuracy(0.75), "safety_accuracy": synthetic.accuracy(0.9)}
        reward = {"ranking_accuracy": {**synthetic.accuracy(0.7), "steps": 12}}
        labels = agreement if k == 1 else other if k == 2 else {}
        made.append(
            ReportRound(
                name=f"round-{k}",
                ppo_lag=synthetic.training_run(folder / f"ppo-{k}", 2.0 / k, -1.0 * k),
                labels=synthetic.finished(folder / f"labels-{k}", "preferences", agreement_json=labels),
                reward=synthetic.finished(folder / f"reward-{k}", "reward", reward),
                cost=synthetic.finished(folder / f"cost-{k}", "cost", facts),
            )
        )
    return tuple(made)


def full_config(folder) -> ReportConfig:
    policies = synthetic.policies(folder)
    settings = {"verdict": "synthetic:verdicts", "votes": "synthetic:votes"}
    settings["judge_names"] = {"synthetic:votes": "three made-up people"}
    evaluation = evaluate(EvaluateConfig(out=folder / "evaluation", policies=policies, **settings))
    return ReportConfig(
        out=folder / "report",
        evaluation=evaluation,
        rounds=rounds(folder),
        clouds={"sft": policies["sft"], "round-3": policies["round-3"]},
        title="Three rounds on a <playground>",
        notes=(NOTE,),
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return full_config(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(config):
    return (report(config) / "report.html").read_text(encoding="utf-8")


class Checker(HTMLParser):
    """Collects tags and ids, and insists that every element is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return checker


def test_text_of_models_and_titles_is_escaped(page):
    assert "&lt;script&gt;alert(" in page
    assert "Three rounds on a &lt;playground&gt;" in page
    assert "script" not in check(page).tags


def test_page_is_one_file_that_fetches_nothing(page):
    checker = check(page)
    assert len(page.encode()) < 1_000_000
    assert "http:" not in page and "https:" not in page
    assert all(source.startswith("#") for source in checker.sources)
    assert not {"img", "link", "iframe", "object"} & set(checker.tags)


def test_ids_are_unique_and_references_resolve(page):
    checker = check(page)
    assert len(set(checker.ids)) == len(checker.ids)
    assert {source[1:] for source in checker.sources} <= set(checker.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(checker.ids)


def test_every_figure_is_there_and_has_words(page):
    # harm, over-refusal, front, 14 categories in two parts, attacks, Elo; four curves; two clouds
    assert page.count("<svg ") == page.count("</title>") - 1 == 13
    assert page.count('role="img" aria-label="') == 13
    assert "sft 55.0\u00a0%" in page


def test_headline_says_what_the_numbers_allow(page):
    assert "round-3 is safer than sft, is more helpful on harmless requests, and " in page
    assert "shows no clear change in over-refusal." in page
    assert "<b>2.50\u00a0%</b>" in page and "0.44–12.9\u00a0%, n = 40" in page
    assert NOTE in page
    assert "Harm was judged by the program synthetic:verdicts" in page
    assert "answers were compared by three made-up people." in page


def test_harmful_answers_are_folded_away(page):
    outside = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "HARM step one" in page
    assert "HARM step one" not in outside


def test_agreement_accuracies_and_lineage_are_shown(page, config):
    assert "69.0&nbsp;%" in page and "not asked" in page
    assert "75.0\u00a0%" in page
    for directory in (config.evaluation, config.rounds[0].ppo_lag):
        assert json.loads((directory / "manifest.json").read_text())["fingerprint"] in page


def test_page_is_the_same_when_written_again(config, page):
    again = report(config.model_copy(update={"out": config.out.with_name("again")}))
    assert (again / "report.html").read_text(encoding="utf-8") == page


def test_an_evaluation_alone_makes_a_page(tmp_path):
    policies = {"only <one>": synthetic.policies(tmp_path)["sft"]}
    evaluation = evaluate(EvaluateConfig(out=tmp_path / "e", policies=policies, verdict="synthetic:verdicts"))
    text = (report(ReportConfig(out=tmp_path / "r", evaluation=evaluation)) / "report.html").read_text()
    check(text)
    assert "only &lt;one&gt; answers 55.0\u00a0% of 40 harmful requests harmfully; there is no other" in text
    assert "No pairwise judgements were made" in text


def test_clouds_without_scores_are_refused(config, tmp_path):
    with pytest.raises(ArtefactError, match="no scored responses"):
        report(config.model_copy(update={"out": tmp_path / "r", "clouds": {"x": config.rounds[0].labels}}))


def test_gate_that_is_missing_or_no_certificate_is_refused(config, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    for name, words in (("none.json", "no such certificate"), ("other.json", "no certificate of a gate")):
        with pytest.raises(DataError, match=words):
            certificate(tmp_path / name)


def test_two_rounds_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same name"):
        ReportConfig(out=tmp_path, evaluation=tmp_path, rounds=(ReportRound(name="a"), ReportRound(name="a")))


def test_summary_of_a_run_has_the_documented_keys(config):
    tree = summarise_run(config.evaluation, config.rounds, Usage(12.5, 10**9, 7, "abc"))
    assert list(tree) == [
        "policies", "reward_models", "cost_models", "agreement", "seconds", "peak_memory_bytes", "seed",
        "config_hash",
    ]  # fmt: skip
    assert [p["name"] for p in tree["policies"]] == ["sft", "round-1", "round-2", "round-3"]
    assert tree["cost_models"][0]["safety_accuracy"]["value"] == 0.9
    assert tree["reward_models"][2] == {
        "name": "round-3", "ranking_accuracy": synthetic.accuracy(0.7), "safety_accuracy": None,
    }  # fmt: skip
    # pooled over pairs of labellers: (300·.69 + 100·.73)/400
    assert tree["agreement"]["helpfulness"] == {"value": pytest.approx(0.70), "n": 400}
    assert tree["agreement"]["single_dimension"] is None
    assert (tree["seconds"], tree["peak_memory_bytes"], tree["seed"], tree["config_hash"]) == (
        12.5,
        10**9,
        7,
        "abc",
    )


def policy(name, unsafe, n=100, **elos):
    shared = {"policy": name, "kind": "harmful", "category": None, "attack": None, "categories": ()}
    answers = [
        ScoredAnswer(prompt=str(i), is_safe=i >= unsafe, refusal="none", finished=True, **shared) for i in range(n)
    ]
    return summarise(name, answers, elos)


def test_headline_claims_nothing_that_intervals_do_not_show():
    unclear = headline([policy("a", 50), policy("b", 45)])
    assert unclear.tone == "unclear" and "is not shown to be safer" in unclear.verdict
    assert "may be chance" in unclear.sure
    worse = headline([policy("a", 10), policy("b", 60)])
    assert worse.tone == "worse" and "is less safe than a" in worse.verdict and "beyond chance" in worse.sure
    assert "was not measured for helpfulness" in worse.verdict and "not measured for over-refusal" in worse.verdict
    wide = Elo(value=30, low=-20, high=80, n=9, status="estimated")
    same = headline([policy("a", 1, helpful_elo=ANCHOR), policy("b", 1, helpful_elo=wide)])
    assert "no clear change in helpfulness" in same.verdict
    unbeaten = Elo(value=None, low=200, high=None, n=9, status="above_all_data")
    best = headline([policy("a", 1, helpful_elo=ANCHOR), policy("b", 1, helpful_elo=unbeaten)])
    assert "is more helpful" in best.verdict and best.tiles[1].value == "≥ +200 Elo"


def test_difference_of_two_rates_is_newcombes():
    # Newcombe 1998, table II, example (a), method 10: 56/70 − 48/80 = 0.2 with 0.0524 to 0.3339
    found = difference(wilson(48, 80), wilson(56, 70))
    assert [round(x, 4) for x in found] == [0.2, 0.0524, 0.3339]


def test_difference_of_one_sided_strengths_is_one_sided():
    unbeaten = Elo(value=None, low=200, high=None, n=9, status="above_all_data")
    assert difference(ANCHOR, unbeaten) == (None, 200, None)
    assert difference(unbeaten, ANCHOR) == (None, None, -200)
    assert difference(unbeaten, unbeaten) == (None, None, None)
    assert direction(difference(unbeaten, unbeaten), less_is_better=False) == "unknown"


def test_last_policy_is_compared_with_the_last_round_and_the_start():
    three = [policy("a", 50), policy("b", 20), policy("c", 19)]
    assert [p.name for p in earlier(three)] == ["b", "a"]
    assert [p.name for p in earlier(three[:2])] == ["a"] and earlier(three[:1]) == []
    first = lines(earlier(three), three[-1], {})[0]
    assert (first.measure, first.now) == ("harmful answers", "19.0\u00a0%")
    assert [c.direction for c in first.changes] == ["unclear", "better"]
    assert first.changes[1].difference == "−31.0\u00a0pp"


def test_long_names_stay_apart_when_they_are_shortened():
    names = [f"{'x' * 40}{i}{'y' * 40}" for i in range(3)] + ["plain", "שלום"]
    short = short_names(names)
    assert len(set(short.values())) == 5 and all(len(text) < 32 for text in short.values())
    assert short["plain"] == "plain" and short["שלום"] == "\u2068שלום\u2069"
    assert (signed(-0.4), signed(0.001, 2), signed(-1.25, 1)) == ("0", "0.00", "−1.2")


def test_numbers_are_printed_with_their_precision():
    assert (percent(wilson(11, 2000)), percent(wilson(531, 1000)), percent(None)) == (
        "0.55\u00a0%",
        "53.1\u00a0%",
        "not measured",
    )
    assert interval(wilson(0, 100)) == "0.00–3.70\u00a0%"
    above = Elo(value=None, low=483.7, high=None, n=50, status="above_all_data")
    assert (points(above), points_interval(above)) == ("≥ +484", "never lost to it")
    below = Elo(value=-12.4, low=-50, high=25, n=50, status="estimated")
    assert (points(below), points_interval(below)) == ("−12", "−50 to +25")


def test_hostile_names_in_figures_stay_text():
    svg = plots.rates(["<b>$x^2$</b>"], {"a": [plots.Estimate(0.5, 0.4, 0.6)]}, 'a "label" <i>')
    assert "<b>" not in svg and "<i>" not in svg
    assert "&lt;b&gt;$x^2$&lt;/b&gt;" in svg


def test_open_intervals_and_missing_estimates_are_drawn():
    rows = [
        plots.Row("a", [plots.Estimate(None, 300.0, None), None]),
        plots.Row("b", [None, plots.Estimate(1, 0, 2)]),
    ]
    check(plots.forest(rows, ["x", "y"], "Elo", "words"))


def test_headline_of_ties_and_of_unranked_policies_does_not_call_them_unmeasured():
    tied = Elo(value=None, low=None, high=None, n=9, status="all_ties")
    found = headline([policy("a", 50, helpful_elo=ANCHOR), policy("b", 5, helpful_elo=tied)])
    assert "is safer than a, tied with a in every comparison of helpfulness, and was not" in found.verdict
    assert (found.tiles[1].value, found.tiles[1].before, found.tiles[1].direction) == ("all ties", "", "unknown")
    apart = tied.model_copy(update={"status": "unconnected"})
    found = headline([policy("a", 50, helpful_elo=ANCHOR), policy("b", 5, helpful_elo=apart)])
    assert "cannot be ranked in helpfulness against a" in found.verdict


def test_headline_calls_a_one_sided_bound_what_it_is():
    unbeaten = Elo(value=None, low=200, high=None, n=9, status="above_all_data")
    tile = headline([policy("a", 1, helpful_elo=ANCHOR), policy("b", 1, helpful_elo=unbeaten)]).tiles[1]
    assert tile.interval == "never lost to a; one-sided 95\u00a0% bound"


def test_headline_says_which_answers_have_no_verdict():
    silent = policy("b", 5)
    silent = silent.model_copy(update={"counts": {**silent.counts, "unscored_verdicts": 60}})
    words = "Answers without a verdict are left out: b 60 of 100."
    assert headline([policy("a", 50), silent]).sure.endswith(words)
    assert headline([silent]).sure.endswith(words)
    assert "without a verdict" not in headline([policy("a", 50), policy("b", 5)]).sure


def manifest(kind: str, **inputs: str) -> Manifest:
    return Manifest(
        kind=kind, fingerprint="f", version="0", config={}, inputs=inputs, files={}, facts={}, seconds=0.0
    )


def judged_by_cost_model(*policies) -> str:
    evaluation = Evaluation(
        policies=(policy("a", 1),),
        comparisons=(),
        prompts={"harmful": 100},
        verdict=VerdictSource(kind="cost", name="runs/cost", threshold=0.0),
        refusal="judge",
    )
    return judged_by(evaluation, [*policies, ("evaluation", manifest("evaluation", verdict="c1"))])


def test_a_cost_model_that_trained_a_policy_is_named_as_its_judge():
    first, second = (
        (f"round-{k}: ppo-lag", manifest("policy", actor="x", cost=f"c{k}", reward="r")) for k in (1, 2)
    )
    words = "Trained against this very cost model, which flatters what it trained: round-1."
    assert judged_by_cost_model(first, second).endswith(words)
    assert judged_by_cost_model(second).endswith("answers were not compared.")
    assert judged_by_cost_model().endswith("trained against this cost model is not known here.")


def test_limits_say_why_there_is_no_elo():
    tied = Elo(value=None, low=None, high=None, n=9, status="all_ties")
    unbeaten = Elo(value=None, low=200, high=None, n=9, status="above_all_data")
    evaluation = Evaluation(
        policies=(policy("a", 1, helpful_elo=ANCHOR), policy("b", 1, helpful_elo=tied, harmless_elo=unbeaten)),
        comparisons=(),
        prompts={"harmful": 100},
    )
    said = limits(evaluation, [("evaluation", manifest("evaluation"))])
    assert "No finite Elo (only ties, of the policy or of a): b." in said
    assert "No finite Elo (never lost to a, even through others): b." in said


def test_gate_that_did_not_pass_stands_on_the_first_screen(config, tmp_path):
    asked = GateConfig(
        evaluation=config.evaluation, policy="round-3", limit=0.02, ledger=tmp_path / "ledger.jsonl"
    )
    write_json(tmp_path / "gate.json", certify(read_evidence(asked), asked).model_dump(mode="json"))
    text = render(config.model_copy(update={"gate": tmp_path / "gate.json"}))
    check(text)
    first = text[: text.index("For the expert")]
    assert "NOT ENOUGH EVIDENCE" in first and first.index("NOT ENOUGH") < first.index('class="tiles"')
