import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from local_http import Handler, start
from pydantic import TypeAdapter, ValidationError
from rollout_models import make_guard, make_scorer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from equipoise.errors import ConfigError, EndpointError, EvaluationError, ModelError
from equipoise.models.normalize import Normalizer
from equipoise.models.score_head import HEAD_FILE
from equipoise.records import Message, Prompt, Response
from equipoise.rollout.config import EndpointScore, FunctionScore, GuardScore, ModelScore, ScoreSourceConfig
from equipoise.rollout.score import ModelSource, open_score_source

Answer = Callable[[Any], tuple[int, Any]]
TURNS = (
    Message(role="user", content="how do i bake bread"),
    Message(role="assistant", content="ok thanks"),
    Message(role="user", content="and then"),
)
RESPONSES = [
    Response(prompt=Prompt.from_text("how do i bake bread"), text="mix flour and water , then bake it"),
    Response(prompt=Prompt(messages=TURNS), text="i will not help with that"),
    Response(prompt=Prompt.from_text("ok"), text=""),
    Response(prompt=Prompt.from_text("thanks " * 30), text="bake it " * 40),
]


def lengths(responses: list[Response]) -> list[float]:
    return [float(len(response.text)) for response in responses]


def one_short(responses: list[Response]) -> list[float]:
    return lengths(responses)[1:]


def nan_for_the_second(responses: list[Response]) -> list[float]:
    return [math.nan if i == 1 else 0.0 for i in range(len(responses))]


@pytest.fixture(scope="module")
def scorers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorers")
    return {
        "plain": make_scorer(folder / "plain", "reward", Normalizer()),
        "reward": make_scorer(folder / "reward", "reward", Normalizer(True, 3.0, 2.0)),
        "cost": make_scorer(folder / "cost", "cost", Normalizer(True, 3.0, 2.0)),
    }


def test_a_model_s_score_is_the_one_that_plain_transformers_gives(scorers):
    # What docs/models.md tells a reader to do with a scorer's folder, one response at a time.
    from safetensors.torch import load_file

    backbone = AutoModel.from_pretrained(scorers["plain"], add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(scorers["plain"])
    head = load_file(scorers["plain"] / HEAD_FILE)
    turns = [{"role": "user", "content": RESPONSES[0].prompt.text}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    ids += tokenizer(RESPONSES[0].text, add_special_tokens=False)["input_ids"] + [tokenizer.sep_token_id]
    with torch.no_grad():
        hidden = backbone(torch.tensor([ids])).last_hidden_state.mean(dim=1)
    expected = float(hidden @ head["weight"].T + head["bias"])
    (score,) = open_score_source(ModelScore(path=scorers["plain"])).score(RESPONSES[:1])
    assert score == pytest.approx(expected, abs=1e-5)


def test_scores_do_not_depend_on_order_or_batches(scorers):
    together = open_score_source(ModelScore(path=scorers["plain"])).score(RESPONSES)
    pairs = open_score_source(ModelScore(path=scorers["plain"], batch_size=2)).score(RESPONSES[::-1])
    assert together == pytest.approx(pairs[::-1], abs=1e-5)
    assert len(set(together)) == len(RESPONSES)


def test_rewards_are_shifted_and_scaled_but_costs_only_scaled(scorers):
    raw, rewards, costs = (
        open_score_source(ModelScore(path=scorers[name])).score(RESPONSES) for name in ("plain", "reward", "cost")
    )
    assert rewards == pytest.approx([(score - 3.0) / 2.0 for score in raw], abs=1e-5)
    assert costs == pytest.approx([score / 2.0 for score in raw], abs=1e-5)


def test_costs_by_category_come_with_the_cost_scaled_alike_and_in_the_order_of_the_responses(tmp_path):
    folders = [
        make_scorer(tmp_path / str(on), "cost", Normalizer(on, 3.0, 2.0), ("a", "b")) for on in (False, True)
    ]
    raw, scaled = (open_score_source(ModelScore(path=folder, batch_size=2)) for folder in folders)
    assert isinstance(raw, ModelSource)
    assert isinstance(scaled, ModelSource)
    assert raw.categories == ("a", "b")
    costs, by_category = raw.score_with_categories(RESPONSES)
    assert costs == raw.score(RESPONSES)
    alone = [raw.score_with_categories([response]) for response in RESPONSES]
    assert [row for _, [row] in alone] == [pytest.approx(row, abs=1e-5) for row in by_category]
    halves = [[cost / 2 for cost in row] for row in by_category]
    assert scaled.score_with_categories(RESPONSES)[1] == [pytest.approx(row, abs=1e-6) for row in halves]
    assert raw.score_with_categories([]) == ([], [])


def test_no_responses_have_no_scores(scorers):
    assert open_score_source(ModelScore(path=scorers["plain"])).score([]) == []


def test_a_folder_without_a_score_head_is_refused(policy_folder):
    with pytest.raises(ModelError, match="no score head"):
        open_score_source(ModelScore(path=policy_folder))


def test_a_function_is_a_score_source():
    source = open_score_source(FunctionScore(function=f"{__name__}:lengths"))
    assert source.score(RESPONSES[:3]) == [34.0, 25.0, 0.0]


def test_a_function_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no function 'json:nowhere'"):
        open_score_source(FunctionScore(function="json:nowhere"))


def test_a_function_with_too_few_scores_is_named():
    with pytest.raises(EvaluationError, match=r"3 scores for 4 responses(.|\n)*:one_short"):
        open_score_source(FunctionScore(function=f"{__name__}:one_short")).score(RESPONSES)


def test_a_score_that_is_not_finite_is_named_with_its_response():
    with pytest.raises(EvaluationError, match=r"response 1 is nan(.|\n)*i will not help with that"):
        open_score_source(FunctionScore(function=f"{__name__}:nan_for_the_second")).score(RESPONSES)


@pytest.mark.parametrize(
    ("labels", "problem", "unsafe"),
    [
        (("safe", "unsafe"), None, ("unsafe",)),
        (("fine", "hate", "violence"), "single_label_classification", ("hate", "violence")),
    ],
)
def test_a_guard_s_cost_is_the_log_odds_of_its_unsafe_labels(tmp_path, labels, problem, unsafe):
    folder = make_guard(tmp_path / "guard", labels, problem)
    source = open_score_source(GuardScore(path=folder, unsafe_labels=unsafe, text="response"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for response, cost in zip(RESPONSES[:3], source.score(RESPONSES[:3]), strict=True):
        with torch.no_grad():
            p = model(**tokenizer(response.text, return_tensors="pt")).logits.softmax(-1)[0]
        p_unsafe = float(sum(p[labels.index(label)] for label in unsafe))
        assert cost == pytest.approx(math.log(p_unsafe / (1 - p_unsafe)), abs=1e-4)


def test_a_guard_with_independent_labels_costs_its_largest_unsafe_logit(tmp_path):
    folder = make_guard(tmp_path / "guard", ("toxic", "threat", "polite"), "multi_label_classification")
    source = open_score_source(GuardScore(path=folder, unsafe_labels=("toxic", "threat"), text="response"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(RESPONSES[0].text, return_tensors="pt")).logits[0].tolist()
    assert source.score(RESPONSES[:1])[0] == pytest.approx(max(logits[:2]), abs=1e-4)


def test_a_guard_reads_the_prompt_too_unless_told_otherwise(tmp_path):
    folder = make_guard(tmp_path / "guard", ("safe", "unsafe"))
    same_text = [RESPONSES[0], RESPONSES[0].model_copy(update={"prompt": Prompt.from_text("ok thanks")})]
    whole, text = (
        open_score_source(GuardScore(path=folder, unsafe_labels=("unsafe",), text=text)).score(same_text)
        for text in ("conversation", "response")
    )
    assert whole[0] != pytest.approx(whole[1], abs=1e-4)
    assert text[0] == pytest.approx(text[1], abs=1e-5)


def test_a_label_that_the_guard_lacks_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(ModelError, match=r"no label 'bad'(.|\n)*safe, unsafe"):
        open_score_source(GuardScore(path=make_guard(tmp_path, ("safe", "unsafe")), unsafe_labels=("bad",)))


class Endpoint:
    """A real server on this machine that answers what a test tells it to, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        endpoint = self

        class Reply(Handler):
            def post(self, body: Any) -> tuple[int, Any]:
                endpoint.requests.append(body)
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                return answer(body)

        self.server, address = start(Reply)
        self.url = f"{address}/score?model=a"


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Endpoint]]:
    started: list[Endpoint] = []

    def start(answer: Answer) -> Endpoint:
        started.append(Endpoint(answer))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.server.shutdown()
        endpoint.server.server_close()


def endpoint_lengths(body: Any) -> tuple[int, Any]:
    return 200, {"scores": [len(item["response"]) for item in body["responses"]]}


def test_an_endpoint_is_asked_in_batches_with_the_whole_conversation(serve):
    endpoint = serve(endpoint_lengths)
    source = open_score_source(EndpointScore(url=endpoint.url, batch_size=3))
    assert source.score(RESPONSES) == [34.0, 25.0, 0.0, 320.0]
    assert [len(request["responses"]) for request in endpoint.requests] == [3, 1]
    assert endpoint.requests[0]["responses"][1] == {
        "prompt": [
            {"role": "user", "content": "how do i bake bread"},
            {"role": "assistant", "content": "ok thanks"},
            {"role": "user", "content": "and then"},
        ],
        "response": "i will not help with that",
    }


def test_a_token_is_read_from_the_environment(serve, monkeypatch):
    endpoint = serve(endpoint_lengths)
    config = EndpointScore(url=endpoint.url, token_variable="SCORER_TOKEN")
    monkeypatch.delenv("SCORER_TOKEN", raising=False)
    with pytest.raises(EndpointError, match="SCORER_TOKEN is not set"):
        open_score_source(config)
    monkeypatch.setenv("SCORER_TOKEN", "secret")
    open_score_source(config).score(RESPONSES[:1])
    assert endpoint.headers[0]["authorization"] == "Bearer secret"


def test_a_key_for_openai_is_not_sent_to_other_endpoints(serve, monkeypatch):
    endpoint = serve(endpoint_lengths)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    open_score_source(EndpointScore(url=endpoint.url)).score(RESPONSES[:1])
    assert "secret" not in endpoint.headers[0].values()
    assert endpoint.headers[0]["authorization"] == "Bearer none"


def test_a_busy_endpoint_is_asked_again(serve):
    answers = [(503, {}), (200, {"scores": [1.5]})]
    endpoint = serve(lambda _: answers.pop(0))
    assert open_score_source(EndpointScore(url=endpoint.url, retries=1)).score(RESPONSES[:1]) == [1.5]
    assert endpoint.requests[0] == endpoint.requests[1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, {"scores": [1.0]}), "gave 1 scores for 2 responses"),
        ((200, b'{"scores": [1.0, NaN]}'), "response 1 is nan"),
        ((200, {"values": [1.0, 2.0]}), "not as documented(.|\n)*Field required"),
        ((200, {"scores": ["high", "low"]}), "not as documented"),
        ((200, b"<html>"), "not as documented"),
        ((400, {"error": "no such model"}), "answered 400(.|\n)*no such model"),
        ((500, {}), "answered 500"),
    ],
)
def test_an_endpoint_that_answers_something_else_is_named(serve, answer, why):
    endpoint = serve(lambda _: answer)
    with pytest.raises(EndpointError, match=why) as error:
        open_score_source(EndpointScore(url=endpoint.url, retries=0)).score(RESPONSES[:2])
    assert endpoint.url in str(error.value)


def test_an_endpoint_that_is_not_there_is_named():
    source = open_score_source(EndpointScore(url="http://127.0.0.1:9/score", retries=0))
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/score(.|\n)*Connection"):
        source.score(RESPONSES)


def test_the_kind_of_source_is_chosen_by_type():
    source: TypeAdapter[Any] = TypeAdapter(ScoreSourceConfig)
    assert isinstance(source.validate_python({"type": "guard", "path": "x", "unsafe_labels": ["a"]}), GuardScore)
    with pytest.raises(ValidationError, match="function"):
        source.validate_python({"type": "function", "function": "no_colon"})
    with pytest.raises(ValidationError, match="url"):
        source.validate_python({"type": "endpoint", "url": "not a url"})
