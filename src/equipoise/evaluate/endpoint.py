"""A policy behind an OpenAI-compatible endpoint answers prompts; nothing is asked twice.

Asked like a judge (`annotate.judge.endpoint`): attempts, pauses and timeouts are those of the `openai` client, and
each answer is kept in a file beside the responses before it is used. Left out: models on this machine.
"""

from collections.abc import Sequence
from pathlib import Path

from equipoise import artefact
from equipoise.annotate.judge.config import EndpointSource
from equipoise.annotate.judge.endpoint import Endpoint, Limits, NoAnswerError, ask_all
from equipoise.annotate.judge.questions import Json, Request
from equipoise.annotate.store.judge_answers import ANSWERS_FILE, Answer, Answers
from equipoise.chat_model import Completion
from equipoise.config import hash_tree
from equipoise.data.jsonl import write_records
from equipoise.errors import EvaluationError
from equipoise.evaluate.config import EndpointPolicy
from equipoise.records import Prompt, Record, Response
from equipoise.rollout.config import Answering

RESPONSES = "responses.jsonl"
UNANSWERED = "unanswered.jsonl"


class Unanswered(Record):
    """A prompt that a policy gave no answer to, and why: a line of unanswered.jsonl."""

    prompt: Prompt
    why: str


class _Asked(Answering):
    """What an endpoint's answers depend on, as the manifest keeps it."""

    out: Path
    policy: EndpointPolicy
    prompts: str


def ask_policy(
    name: str, policy: EndpointPolicy, prompts: Sequence[Prompt], settings: Answering, out: Path
) -> Path:
    """Put every prompt to the endpoint, several at a time.

    Args:
        name: The policy's name in the responses.
        policy: Where it is.
        prompts: What it is asked.
        settings: How it is sampled; of these the sampling and the score sources are used.
        out: Becomes a directory of kind "responses", with unanswered.jsonl beside responses.jsonl.

    Returns:
        `out`.

    Raises:
        EndpointError: It answers nothing at all, or leaves more prompts without an answer than `max_failures`.
        EvaluationError: It rejected or blocked every prompt.
        ArtefactError: `out` holds other answers.
    """
    known = hash_tree([prompt.model_dump(mode="json") for prompt in prompts])
    config = _Asked(out=out, policy=policy.identity, prompts=known, **dict(settings))
    build = artefact.start(out, "responses", config, {})
    if build.is_finished:
        return out
    with Answers(out / ANSWERS_FILE) as store:
        endpoint = Endpoint(_source(policy, settings), store, name, Limits())
        try:
            bodies = [_body(endpoint, prompt) for prompt in prompts]
            most, hint = policy.max_failures, "Or raise max_failures."
            given = ask_all(endpoint, bodies, policy.concurrency, max_failures=most, hint=hint)
        finally:
            endpoint.close()
    read = [_read(name, prompt, answer) for prompt, answer in zip(prompts, given, strict=True)]
    responses = [one for one in read if isinstance(one, Response)]
    unanswered = [one for one in read if isinstance(one, Unanswered)]
    if not responses:
        raise EvaluationError(
            f"The endpoint answered none of {len(prompts)} prompts.",
            where=f"{name}: {policy.url}",
            why=unanswered[0].why,
            fix="Check what it takes: temperature, limit_field, options.",
        )
    if settings.reward or settings.cost:
        from equipoise.models.devices import pick_device  # scores need torch
        from equipoise.rollout.respond import attach_scores

        responses = attach_scores(responses, settings.reward, settings.cost, pick_device(settings.device))
    write_records(out / RESPONSES, responses)
    write_records(out / UNANSWERED, unanswered)
    artefact.finish(build, {"responses": len(responses), "unanswered": len(unanswered)})
    return out


def _source(policy: EndpointPolicy, settings: Answering) -> EndpointSource:
    """The endpoint as the client knows it."""
    sampling = settings.sampling
    top_p = {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    source = EndpointSource(
        url=policy.url,
        model=policy.model,
        token_variable=policy.token_variable,
        timeout=policy.timeout,
        retries=policy.retries,
        temperature=sampling.temperature if policy.temperature is None else policy.temperature,
        limit_field=policy.limit_field,
        options={**top_p, **policy.options},
    )
    return source.model_copy(update={"max_tokens": sampling.max_new_tokens})  # fewer than a judge may need


def _body(endpoint: Endpoint, prompt: Prompt) -> Json:
    return endpoint.body(Request(prompt.messages, {}), has_schema=False)


def _read(name: str, prompt: Prompt, answer: Answer | NoAnswerError) -> Response | Unanswered:
    if isinstance(answer, NoAnswerError):
        return Unanswered(prompt=prompt, why=answer.why)
    if answer.status != 200:
        return Unanswered(prompt=prompt, why=f"rejected with status {answer.status}: {answer.text[:200]}")
    reply = Completion.model_validate_json(answer.text).reply
    if reply.is_refusal:
        return Unanswered(prompt=prompt, why="blocked by the provider")
    return Response(prompt=prompt, text=reply.text, policy=name, finished=not reply.is_cut)
