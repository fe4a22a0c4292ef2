"""One class for every reward model, cost model and critic: a backbone and one linear head in float32.

The score of a response is read at its last real token, which collation makes the end of the turn; encoders
state how they pool. A cost model may have a second head beside the first, with a cost per harm category. Sign: a
cost > 0 is unsafe. Left out: normalization (`normalize`), losses (`algos`).
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from equipoise.algos.masking import last_true
from equipoise.artefact import write_json
from equipoise.errors import ModelError
from equipoise.models.adapters import load_adapter, on_same_weights, save_model
from equipoise.models.backbone import CPU, Placed, hidden_states, is_encoder, load_backbone
from equipoise.models.files import replace_files
from equipoise.models.four_bit import Quantize
from equipoise.models.normalize import Normalizer
from equipoise.tokens.folder import model_folder

Kind = Literal["reward", "cost"]
Pooling = Literal["last", "cls", "mean"]
HEAD_FILE = "score_head.safetensors"
HEAD_SETTINGS = "score_head.json"


@dataclass(frozen=True)
class HeadSettings:
    """What a saved scorer says about itself besides its weights."""

    kind: Kind
    pooling: Pooling = "last"
    normalizer: Normalizer = field(default_factory=Normalizer)
    categories: tuple[str, ...] = ()  # harm categories with a cost of their own, in the order of the outputs


class Scorer(nn.Module):
    """A backbone with a score head; the backbone may be in any floating type, the head is in float32.

    Args:
        backbone: What AutoModel loads.
        pooling: Which hidden state is scored: "last" for causal models; "cls" (the first token) or "mean" (over
            the real tokens) for encoders.
        categories: K, harm categories that get a cost each beside the score.
    """

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling = "last", categories: int = 0) -> None:
        super().__init__()
        _check_pooling(backbone, pooling)
        self.backbone = backbone
        self.pooling = pooling
        width = backbone.config.get_text_config().hidden_size
        self.head = nn.Linear(width, 1, dtype=torch.float32, device=backbone.device)
        self.category_head: nn.Linear | None = None
        if categories:
            self.category_head = nn.Linear(width, categories, dtype=torch.float32, device=backbone.device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor | None = None) -> Tensor:
        """Score whole conversations.

        Args:
            input_ids: (N, L) int64, padded on either side; for an encoder on the right.
            attention_mask: (N, L) bool.
            prompt_lengths: (N,) int64: neighbours with the same prompt may read it once; unset: each for itself.

        Returns:
            (N,) float32; with K > 0 categories (N, 1 + K), the score first.
        """
        states = hidden_states(self.backbone, input_ids, attention_mask, prompt_lengths)
        hidden = _pooled(states, attention_mask, self.pooling)
        score = _read(self.head, hidden)
        if self.category_head is None:
            return score
        return torch.cat([score.unsqueeze(-1), _category_costs(self.category_head, hidden)], dim=-1)

    def token_scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score every prefix, as a critic does: (B, L) ids and bool mask → (B, L) float32.

        Raises:
            ModelError: As in `token_states`.
        """
        return _read(self.head, self.token_states(input_ids, attention_mask).values)

    def token_states(
        self, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor | None = None
    ) -> Placed:
        """The hidden state of every prefix, (…, …, H), placed; arguments as in `forward`.

        Raises:
            ModelError: The backbone is an encoder, whose prefixes would see what comes after them.
        """
        if self.pooling != "last":
            raise ModelError(
                "An encoder cannot be a critic: each of its tokens sees those after it.",
                fix="Start the critics from a causal backbone; an encoder may be the frozen reward or cost model.",
            )
        return hidden_states(self.backbone, input_ids, attention_mask, prompt_lengths)


class Critic(nn.Module):
    """A scorer whose forward pass is `token_scores`: data-parallel wrappers only synchronize `forward`.

    It starts from the score alone: of a scorer with categories it takes the backbone and the first head.

    Args:
        scorer: What it starts from.
        heads: Values per prefix; those after the first have heads of their own, which start at 0.
    """

    def __init__(self, scorer: Scorer, heads: int = 1) -> None:
        super().__init__()
        self.scorer = scorer if scorer.category_head is None else _score_alone(scorer)
        self.further = nn.ModuleList(
            nn.Linear(scorer.head.in_features, 1, dtype=torch.float32, device=scorer.head.weight.device)
            for _ in range(heads - 1)
        )
        for head in self.further.parameters():
            nn.init.zeros_(head)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor | None = None) -> Tensor:
        """The values of every prefix, (B, L, heads) float32; arguments as in `Scorer.forward`."""
        hidden, place = self.scorer.token_states(input_ids, attention_mask, prompt_lengths)
        values = torch.stack([_read(head, hidden) for head in (self.scorer.head, *self.further)], dim=-1)
        return Placed(values, place).at(...)


def scorer_from(
    path: str | Path,
    *,
    seed: int,
    pooling: Pooling = "last",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str = CPU,
    quantize: Quantize | None = None,
    categories: int = 0,
) -> Scorer:
    """The scorer in a folder; of another model a fresh head on its backbone, weights N(0, 1/(H + 1)), bias 0.

    Args:
        path: Any model folder or hub name; of a policy the language-model head is left out.
        seed: Of the head's weights, which are the same on every device.
        pooling: As in `Scorer`.
        dtype: Of the backbone; "auto" as on disk.
        device: Where both go.
        quantize: Keep the backbone's linear layers frozen, in 4 bits.
        categories: As in `Scorer`; the first head is the same with and without.

    Raises:
        ModelError: As in `load_causal_lm`, the pooling does not suit the backbone, or the head there does not.
    """
    scorer = Scorer(load_backbone(path, dtype=dtype, device=device, quantize=quantize), pooling, categories)
    if is_scorer(path):
        return _with_saved_head(scorer, model_folder(path))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in _heads(scorer).values():
            outputs, width = head.weight.shape
            head.weight.copy_(torch.randn(outputs, width, generator=generator) / math.sqrt(width + 1))
            head.bias.zero_()
    return scorer.eval()


def load_scorer(
    path: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str = CPU,
    quantize: Quantize | None = None,
) -> Scorer:
    """A saved reward or cost model, in evaluation mode; arguments as in `scorer_from`.

    Raises:
        ModelError: The folder holds no scorer, or its head does not fit its backbone.
    """
    folder = model_folder(path)
    settings = read_head_settings(folder)
    backbone = load_backbone(folder, dtype=dtype, device=device, quantize=quantize)
    return _with_saved_head(Scorer(backbone, settings.pooling, len(settings.categories)), folder)


def scorer_on(base: PreTrainedModel, path: str | Path, name: str, *, trainable: bool = False) -> Scorer:
    """A saved reward or cost model as an adapter and a head on weights that other networks use too.

    Args:
        base: The causal model that the adapter in `path` was trained on, without an adapter; it stays so.
        path: What the reward or cost stage wrote with `lora`.
        name: Of the adapter: the role.
        trainable: Whether adapter and head get gradients.

    Raises:
        ModelError: The folder holds no scorer, or its adapter or head does not fit the base.
    """
    folder = model_folder(path)
    settings = read_head_settings(folder)
    backbone = on_same_weights(cast("PreTrainedModel", base.base_model))
    load_adapter(backbone, folder, name, trainable=trainable)
    scorer = _with_saved_head(Scorer(backbone, settings.pooling, len(settings.categories)), folder)
    for head in _heads(scorer).values():
        head.requires_grad_(trainable)
    return scorer


def _heads(scorer: Scorer) -> dict[str, nn.Linear]:
    """The heads by what precedes the names of their tensors in a file: score first, then categories."""
    return {"": scorer.head} | ({"category_": scorer.category_head} if scorer.category_head is not None else {})


def _head_tensors(scorer: Scorer) -> dict[str, Tensor]:
    """The tensors of the head file; they are the scorer's own."""
    return {f"{p}{name}": tensor for p, head in _heads(scorer).items() for name, tensor in head.named_parameters()}


def _with_saved_head(scorer: Scorer, folder: Path) -> Scorer:
    tensors = load_file(folder / HEAD_FILE)
    own = _head_tensors(scorer)
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        raise ModelError(
            "The score head does not fit its backbone.",
            where=str(folder / HEAD_FILE),
            why=f"The backbone needs {expected}, the file holds {found}.",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return scorer.eval()


def is_scorer(path: str | Path) -> bool:
    """Whether a folder holds a reward or cost model."""
    return (model_folder(path) / HEAD_FILE).exists()


def read_head_settings(path: str | Path) -> HeadSettings:
    """What a scorer's folder says about its head, read without loading the model.

    Raises:
        ModelError: The folder holds no scorer, or its settings are broken.
    """
    folder = model_folder(path)
    if not (folder / HEAD_FILE).exists() or not (folder / HEAD_SETTINGS).exists():
        raise ModelError(
            "The folder holds no reward or cost model: it has no score head.",
            where=str(folder),
            fix="Give what `equipoise reward` or `equipoise cost` wrote; a published Beaver checkpoint goes "
            "through `equipoise convert` first.",
        )
    try:
        tree: dict[str, Any] = json.loads((folder / HEAD_SETTINGS).read_text(encoding="utf-8"))
        categories = tuple(tree.get("categories", ()))  # scorers without such outputs do not say so
        settings = HeadSettings(tree["kind"], tree["pooling"], Normalizer(**tree["normalizer"]), categories)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "The score head's settings cannot be read.", where=str(folder / HEAD_SETTINGS), why=repr(error)
        ) from error
    return settings


def save_scorer(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, out: Path, settings: HeadSettings) -> None:
    """Write a scorer: the backbone as AutoModel loads it, and the head as one tensor file with its settings.

    Args:
        scorer: The scorer, unwrapped; an adapter is merged, and lies in `adapter/` besides.
        tokenizer: Its tokenizer.
        out: The folder; as in `save_policy`.
        settings: What it is; the pooling is the scorer's own, and as many categories as it has.

    Raises:
        ModelError: The disk is full or refuses; what was there before is untouched.
    """
    head = {name: tensor.detach().cpu().contiguous() for name, tensor in _head_tensors(scorer).items()}
    assert head.get("category_bias", torch.empty(0)).numel() == len(settings.categories)
    tree = asdict(settings) | {"pooling": scorer.pooling}
    if not settings.categories:
        del tree["categories"]

    def write(folder: Path) -> None:
        save_model(scorer.backbone, folder)
        tokenizer.save_pretrained(str(folder))
        save_file(head, folder / HEAD_FILE)
        write_json(folder / HEAD_SETTINGS, tree)

    replace_files(out, write)


def _read(head: nn.Linear, hidden: Tensor) -> Tensor:
    """(…, H) hidden states → (…) scores in float32."""
    with torch.autocast(hidden.device.type, enabled=False):
        scores = F.linear(hidden.float(), head.weight.float()).squeeze(-1)
        return scores + head.bias.float()  # no view: what shards a network hooks into its output


def _category_costs(head: nn.Linear, hidden: Tensor) -> Tensor:
    """(N, H) hidden states → (N, K) costs."""
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), head.weight.float(), head.bias.float())


def _score_alone(scorer: Scorer) -> Scorer:
    """The scorer without its categories, on the very same weights."""
    alone = Scorer(scorer.backbone, scorer.pooling)
    alone.head = scorer.head
    return alone.train(scorer.training)


def _pooled(states: Placed, mask: Tensor, pooling: Pooling) -> Tensor:
    """Hidden states, and a (N, L) bool mask of what is real → (N, H)."""
    rows = torch.arange(mask.shape[0], device=mask.device)
    match pooling:
        case "last":
            return states.at((rows, last_true(mask)))
        case "cls":
            return states.at((rows, mask.long().argmax(dim=-1)))
        case "mean":
            weights = mask.unsqueeze(-1).to(states.values.dtype)
            return (states.at(...) * weights).sum(dim=1) / weights.sum(dim=1)


def _check_pooling(backbone: PreTrainedModel, pooling: Pooling) -> None:
    name = backbone.config.model_type
    if backbone.config.is_encoder_decoder:
        raise ModelError(f"A {name} model has an encoder and a decoder; a score head needs one or the other.")
    suitable = ("cls", "mean") if is_encoder(backbone) else ("last",)
    if pooling not in suitable:
        raise ModelError(
            f"Pooling {pooling!r} does not suit a {name} backbone.",
            where=cast("str", backbone.config.name_or_path),
            why="Encoders read their first token or a mean; causal models their last token.",
            fix="Set pooling to " + " or ".join(suitable) + ".",
        )
