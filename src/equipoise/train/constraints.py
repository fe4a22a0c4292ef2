"""What RL is not allowed to exceed: the choices, and the one place that tells them apart.

A constraint keeps one multiplier per name: "" for all responses, else the name of a group of prompts or of a harm
category. Another constraint is a class here, an arm in `rule`, and its formula in `algos.constraint`
(docs/extending.md). Left out: how λ follows (`duals`), where costs come from (`rollout.score`). No torch.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from equipoise.algos import constraint as maths
from equipoise.config import Config
from equipoise.errors import DataError
from equipoise.records import Prompt, RequestKind

ALL = ""
"""Name of the one multiplier of a constraint on all responses."""


class Limited(Config):
    """What constraints on a cost share."""

    limit: float = Field(0.0, description="The paper's −d: in units of cost, from `limit_from` or from cost 0.")


class MeanCost(Limited):
    """E[C] ≤ limit (Safe RLHF): a mean over all prompts, so harmless ones can pay for harmful ones."""

    type: Literal["mean"] = "mean"


class RectifiedCost(Limited):
    """E[max(C − limit, 0)] ≤ epsilon (RePO): no response can pay for another."""

    type: Literal["rectified"] = "rectified"
    epsilon: float = Field(gt=0, description="ε: mean excess that is allowed; at 0 nothing could meet it.")


class ChanceOfCost(Limited):
    """P(C > limit) ≤ delta: a share of unsafe responses, whatever their cost."""

    type: Literal["chance"] = "chance"
    delta: float = Field(gt=0, lt=1, description="δ: share of responses that may exceed the limit.")


class UpperBound(Limited):
    """An upper confidence bound of E[C] ≤ limit (HC-RLHF): stricter with fewer responses."""

    type: Literal["upper_bound"] = "upper_bound"
    confidence: float = Field(0.95, gt=0.5, lt=1, description="One-sided confidence of the bound.")


class SeveralLimits(Limited):
    """One limit and one λ for each of several names."""

    limits: dict[str, float] = Field({}, description="Limits of single names; the others have `limit`.")
    epsilon: float | None = Field(
        None,
        gt=0,
        description="ε: rectify each, E[max(C − limit, 0)] ≤ ε; unset: means, where answers can pay.",
    )
    confidence: float | None = Field(
        None, gt=0.5, lt=1, description="Bound each mean from above with this confidence; unset: the mean itself."
    )

    def limit_of(self, name: str) -> float:
        """The limit of one name."""
        return self.limits.get(name, self.limit)


class GroupCosts(SeveralLimits):
    """E[C | group of the prompt] ≤ limit of the group; prompts in no group are free."""

    type: Literal["groups"] = "groups"
    by: tuple[Literal["category", "kind", "source"], ...] = Field(
        ("category",),
        min_length=1,
        description='Fields of the prompt that name its group; of several the values are joined by "/".',
    )
    kinds: tuple[RequestKind, ...] = Field(
        (),
        description="Only requests of these kinds are in a group; unset: all. Every prompt then needs its kind.",
    )


class CategoryCosts(SeveralLimits):
    """E[C_k] ≤ limit of category k, with a cost model that has an output for each harm category."""

    type: Literal["categories"] = "categories"


class FixedWeight(Config):
    """No limit: the reward r − ν·c, as (A_R − ν·A_C)/(1 + ν) (reward shaping)."""

    type: Literal["fixed"] = "fixed"
    nu: float = Field(gt=0, description="ν.")


class Unconstrained(Config):
    """No limit, and nothing learned from costs: plain RLHF. Costs are only measured."""

    type: Literal["none"] = "none"


Constraint = Annotated[
    MeanCost
    | RectifiedCost
    | ChanceOfCost
    | UpperBound
    | GroupCosts
    | CategoryCosts
    | FixedWeight
    | Unconstrained,
    Field(discriminator="type"),
]


class Rule(NamedTuple):
    """A constraint as functions: estimate{ watch(C) } ≤ bound."""

    watch: Callable[[float], float]
    estimate: Callable[[Sequence[float]], float]
    bound: float
    least: int = 1  # responses that an estimate takes


def rule(constraint: Limited, name: str = ALL) -> Rule:
    """What a multiplier follows.

    Args:
        constraint: The settings.
        name: Of the multiplier.
    """
    match constraint:
        case RectifiedCost(limit=limit, epsilon=epsilon):
            return Rule(partial(maths.excess_cost, limit=limit), maths.window_mean, epsilon)
        case ChanceOfCost(limit=limit, delta=delta):
            return Rule(partial(maths.is_exceeded, limit=limit), maths.window_mean, delta)
        case UpperBound(limit=limit, confidence=confidence):
            return Rule(float, partial(_bound, confidence=confidence), limit, 2)
        case SeveralLimits(epsilon=epsilon, confidence=confidence):
            limit = constraint.limit_of(name)
            mean, least = (
                (maths.window_mean, 1) if confidence is None else (partial(_bound, confidence=confidence), 2)
            )
            if epsilon is None:
                return Rule(float, mean, limit, least)
            return Rule(partial(maths.excess_cost, limit=limit), mean, epsilon, least)
        case _:
            return Rule(float, maths.window_mean, constraint.limit)


def _bound(watched: Sequence[float], confidence: float) -> float:
    from equipoise.stats import mean_t_bound  # a second, which those who want no bound need not wait

    return mean_t_bound(watched, confidence=confidence)


class Costs(NamedTuple):
    """What is known of the costs of some responses."""

    overall: Sequence[float]
    by_category: Mapping[str, Sequence[float]]  # of a cost model with categories; else empty


def names_of(constraint: Constraint, prompts: Iterable[Prompt], categories: Sequence[str]) -> tuple[str, ...]:
    """The multipliers of a run.

    Args:
        constraint: The settings.
        prompts: All that the run answers.
        categories: Of the cost model.

    Raises:
        DataError: A prompt has no group, none is in any, or a limit is given to a name that there is not.
    """
    match constraint:
        case GroupCosts():
            groups = {group_of(constraint, prompt) for prompt in prompts}
            names = tuple(sorted(group for group in groups if group is not None))
            if not names:
                raise DataError(
                    "No prompt is in a group, so nothing would be limited.",
                    where="constraint.kinds",
                    why=f"no prompt is {' or '.join(constraint.kinds)}",
                    fix="Name kinds that the prompts have, or take constraint none.",
                )
        case CategoryCosts():
            names = tuple(categories)
        case Limited():
            return (ALL,)
        case _:
            return ()
    if unknown := sorted(set(constraint.limits) - set(names)):
        raise DataError(
            f"There is nothing to limit that is called {', '.join(map(repr, unknown))}.",
            where="constraint.limits",
            why=f"the names here are {', '.join(map(repr, names))}",
            fix="Correct the names, or leave them out: what has no limit of its own has constraint.limit.",
        )
    return names


def check_held_out(constraint: Constraint, names: Sequence[str], prompts: Sequence[Prompt]) -> None:
    """Find out before anything loads whether held-out prompts can say of each constraint that it holds.

    Args:
        constraint: The settings.
        names: From `names_of`.
        prompts: Held out.

    Raises:
        DataError: One is in a group that no training prompt is in, or there are too few of a group.
    """
    if not isinstance(constraint, Limited):
        return
    counts = dict.fromkeys(names, len(prompts))
    if isinstance(constraint, GroupCosts):
        groups = Counter(group for prompt in prompts if (group := group_of(constraint, prompt)) is not None)
        if strange := sorted(set(groups) - set(names)):
            raise DataError(
                f"Held-out prompts are of groups that no training prompt is in: {', '.join(map(repr, strange))}.",
                where="validation.prompts",
                why="nothing would be learned from the limits of these groups",
                fix="Leave those prompts out, or add training prompts of these groups.",
            )
        counts = {name: groups[name] for name in names}
    if few := [name for name, count in counts.items() if count < rule(constraint, name).least]:
        raise DataError(
            f"There are too few held-out prompts to say whether the limit holds{_of(few)}.",
            where="validation",
            why=f"{counts[few[0]]} where {rule(constraint, few[0]).least} are the least",
            fix="Raise validation.limit or add such prompts; or leave validation out, and evaluate afterwards.",
        )


def _of(names: Sequence[str]) -> str:
    return "" if ALL in names else f" of {', '.join(map(repr, names))}"


def group_of(constraint: GroupCosts, prompt: Prompt) -> str | None:
    """The group that a prompt belongs to, if any.

    Raises:
        DataError: One of the fields that say so is empty.
    """
    if constraint.kinds and prompt.kind is not None and prompt.kind not in constraint.kinds:
        return None
    fields = dict.fromkeys([*constraint.by, *(["kind"] if constraint.kinds else [])])
    values = {field: getattr(prompt, field) for field in fields}
    if missing := [field for field, value in values.items() if not value]:
        field = missing[0]
        kinds = f"; constraint.kinds = {', '.join(constraint.kinds)}" if constraint.kinds else ""
        raise DataError(
            f"A prompt has no {field}, so no limit of a group bears on it.",
            where=f"prompt {prompt.id}: {prompt.text[:60]!r}",
            why="constraint.by = " + ", ".join(constraint.by) + kinds,
            fix=f"Give every prompt its {field}, or set constraint.by to a field that all of them have.",
        )
    return "/".join(values[field] for field in constraint.by)


def watched(
    constraint: Constraint, names: Sequence[str], prompts: Sequence[Prompt], costs: Costs
) -> dict[str, dict[int, float]]:
    """What each multiplier sees of some responses.

    Args:
        constraint: The settings.
        names: From `names_of`.
        prompts: Of the N responses.
        costs: Of the same.

    Returns:
        Name → number of a response → w(C), for those that the multiplier bears on.
    """
    if not isinstance(constraint, Limited):
        return {}
    rules = {name: rule(constraint, name).watch for name in names}
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for n, cost in enumerate(costs.overall):
        match constraint:
            case GroupCosts():
                group = group_of(constraint, prompts[n])
                if group is not None:
                    found[group][n] = rules[group](cost)
            case CategoryCosts():
                for name in names:
                    found[name][n] = rules[name](costs.by_category[name][n])
            case _:
                found[ALL][n] = rules[ALL](cost)
    return found


def weigh(
    constraint: Constraint, seen: Mapping[str, Mapping[int, float]], costs: Costs, lams: Mapping[str, float]
) -> list[tuple[float, float]]:
    """What the cost stream of each response learns from, and the λ that it is mixed with.

    Args:
        constraint: The settings.
        seen: From `watched`.
        costs: Of the N responses.
        lams: Name → λ.
    """
    match constraint:
        case FixedWeight(nu=nu):
            return [(cost, nu) for cost in costs.overall]
        case Unconstrained():
            return [(cost, 0.0) for cost in costs.overall]
    numbers = range(len(costs.overall))
    bearing = [[(seen[name][n], lam) for name, lam in lams.items() if n in seen[name]] for n in numbers]
    return [maths.scalarize([w for w, _ in one], [lam for _, lam in one]) for one in bearing]


def excess(constraint: Constraint, seen: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """By how much each constraint is exceeded; ≤ 0 is met. What too little was seen of is left out.

    Args:
        constraint: The settings.
        seen: Name → w(C) of a window of responses.
    """
    if not isinstance(constraint, Limited):
        return {}
    found = {}
    for name, values in seen.items():
        window, one = tuple(values), rule(constraint, name)
        if len(window) >= one.least:
            found[name] = one.estimate(window) - one.bound
    return found


def limits_of(constraint: Constraint, names: Iterable[str]) -> dict[str, float]:
    """The limit of each multiplier by its name, "all" where there is one for all responses."""
    if not isinstance(constraint, Limited):
        return {}
    if isinstance(constraint, SeveralLimits):
        return {name: constraint.limit_of(name) for name in names}
    return {"all": constraint.limit}


def shifted(constraint: Limited, overall: float, by_category: Mapping[str, float]) -> Limited:
    """The same constraint with limits that count from other costs than 0.

    Args:
        constraint: The settings.
        overall: What the limits on costs count from.
        by_category: What those on categories count from.
    """
    match constraint:
        case CategoryCosts():
            limits = {name: constraint.limit_of(name) + origin for name, origin in by_category.items()}
            return constraint.model_copy(update={"limits": limits})
        case SeveralLimits(limit=limit):
            limits = {name: own + overall for name, own in constraint.limits.items()}
            return constraint.model_copy(update={"limit": limit + overall, "limits": limits})
        case _:
            return constraint.model_copy(update={"limit": constraint.limit + overall})
