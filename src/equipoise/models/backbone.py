"""Any Hugging Face model in and out of a folder, and the two forward passes the rest of the package needs.

No class per architecture, no remote code, safetensors only (`convert` reads older files). Positions are computed
from the attention mask, so padding a causal model on either side gives the same numbers. Left out: the score head
(`score_head`).
"""

import copy
import inspect
from pathlib import Path
from pickle import UnpicklingError
from types import EllipsisType
from typing import Any, Literal, NamedTuple, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from equipoise.algos.masking import position_ids
from equipoise.errors import ModelError
from equipoise.models.adapters import has_adapter, save_adapter, save_model
from equipoise.models.files import check_folder, quiet, replace_files
from equipoise.models.four_bit import Quantize, loading_options, make_trainable
from equipoise.models.sharing import share_prompts
from equipoise.tokens.batches import prompt_lengths
from equipoise.tokens.folder import model_folder
from equipoise.tokens.template import end_id

CPU = torch.device("cpu")


def load_causal_lm(
    path: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str = CPU,
    quantize: Quantize | None = None,
) -> PreTrainedModel:
    """A policy: any model that AutoModelForCausalLM loads, in evaluation mode.

    Args:
        path: A folder, or a hub name.
        dtype: Of the weights in memory; "auto" as they are on disk.
        device: Where they go.
        quantize: Keep the linear layers frozen, in 4 bits.

    Raises:
        ModelError: The folder is missing, is no model, has no safetensors, or lacks some of the weights.
    """
    return load_pretrained(AutoModelForCausalLM, path, dtype=dtype, device=device, quantize=quantize)


def load_shape(path: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A policy without its weights, for who only asks what fits it: its parameters are on the meta device.

    Raises:
        ModelError: The folder is missing or is no causal model.
    """
    folder = model_folder(path)
    check_folder(folder, safetensors=True)
    with torch.device("meta"):
        return from_config(AutoModelForCausalLM, folder, dtype)


def from_config(kind: Any, path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model as `kind` makes it of a config.json; its weights are made up.

    Args:
        kind: AutoModel or one of its kin.
        path: A folder, or a hub name.
        dtype: Of its weights.

    Raises:
        ModelError: There is no such config.json, or none that `kind` knows.
    """
    try:
        shape = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        return cast("PreTrainedModel", kind.from_config(shape, dtype=dtype).eval())
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"{kind.__name__} cannot make a model from this config.json.",
            where=str(path),
            why=str(error).strip().split("\n")[0],
            fix="Check that it is the model you mean: a policy needs a causal language model.",
        ) from error


def load_backbone(
    path: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str = CPU,
    quantize: Quantize | None = None,
) -> PreTrainedModel:
    """A model without its language-model head, encoders included; arguments and errors as `load_causal_lm`.

    An encoder's pooler is dropped: a score head reads the hidden states themselves.
    """
    model = load_pretrained(AutoModel, path, dtype=dtype, device=device, quantize=quantize)
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    return model


def load_pretrained(
    kind: Any,
    path: str | Path,
    *,
    dtype: torch.dtype | Literal["auto"] = "auto",
    device: torch.device | str = CPU,
    safetensors: bool = True,
    extra: tuple[str, ...] = (),
    quantize: Quantize | None = None,
) -> PreTrainedModel:
    """What `kind.from_pretrained` loads from a folder, refused unless every weight was there.

    Args:
        kind: AutoModel or AutoModelForCausalLM.
        path: A folder, or a hub name.
        dtype: Of the weights in memory; "auto" as on disk.
        device: Where they go.
        safetensors: False reads pickled weights, tensors only; for `convert`.
        extra: Prefixes of weights that are known to be missing.
        quantize: Keep the linear layers frozen, in 4 bits; `dtype` is then what they compute in.
    """
    folder = model_folder(path)
    check_folder(folder, safetensors)
    options = loading_options(quantize, dtype, device) if quantize else {}
    try:
        with quiet():
            model, report = kind.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=safetensors,
                weights_only=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except UnpicklingError as error:
        raise ModelError(
            "The weights cannot be read as tensors alone.",
            where=str(folder),
            why="The file is damaged, or unpickling it would run code.",
            fix="Ask whoever made it for safetensors.",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"{kind.__name__} cannot load this folder.",
            where=str(folder),
            why=str(error).strip().split("\n")[0],
            fix="Check that config.json and the weights belong together and are complete.",
        ) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(("pooler.", *extra)))
    if missing:
        raise ModelError(
            f"The folder lacks {len(missing)} of the model's weights, among them {missing[0]}.",
            where=str(folder),
            why=f"{kind.__name__} made a {type(model).__name__} from config.json.",
            fix="A policy needs a causal language model; a reward or cost model takes any backbone.",
        )
    make_trainable(model)
    return cast("PreTrainedModel", model.to(device).eval())


def causal_logits(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Next-token logits of a causal model; padding on either side is exact.

    Args:
        model: The language model, wrapped or not.
        input_ids: (B, L) int64.
        attention_mask: (B, L) bool.

    Returns:
        (B, L, V), in the model's type. Row t holds the logits of token t + 1.
    """
    return cast("Tensor", model(**causal_pass(model, input_ids, attention_mask).inputs).logits)


def logits_at(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, picked: Tensor) -> Tensor:
    """Next-token logits at some positions only; the head never sees the others.

    What stands before the first of a sequence is its prompt, which neighbours may share.

    Args:
        model: The language model, wrapped or not.
        input_ids: (B, L) int64.
        attention_mask: (B, L) bool.
        picked: (B, L) bool, N of them True.

    Returns:
        (N, V), in the model's type and in the order of `picked.nonzero()`.
    """
    head = cast("Any", getattr(model, "module", model)).get_output_embeddings()
    if head is None:
        return causal_logits(model, input_ids, attention_mask)[picked]
    inputs, place = causal_pass(model, input_ids, attention_mask, prompt_lengths(picked))
    hook = head.register_forward_pre_hook(lambda _, hidden: Placed(hidden[0], place).at(picked).unsqueeze(0))
    try:
        return cast("Tensor", model(**inputs).logits[0])
    finally:
        hook.remove()


def hidden_states(
    backbone: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor | None = None
) -> "Placed":
    """The last hidden state of every token.

    Encoders number their positions themselves (RoBERTa not from 0), so they need their padding on the right.

    Args:
        backbone: The model.
        input_ids: (B, L) int64.
        attention_mask: (B, L) bool.
        prompt_lengths: (B,) int64: neighbours with the same prompt may read it once. Unset: each for itself.

    Returns:
        (…, …, H), placed.
    """
    if is_encoder(backbone):
        inputs, place = {"input_ids": input_ids, "attention_mask": attention_mask.long()}, None
    else:
        inputs, place = causal_pass(backbone, input_ids, attention_mask, prompt_lengths)
    return Placed(backbone(**inputs).last_hidden_state, place)


def is_encoder(model: PreTrainedModel) -> bool:
    """Whether every token sees those after it, as in BERT, or in a Gemma made to embed."""
    if getattr(model.config, "use_bidirectional_attention", None):
        return True
    masked = model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return masked and not getattr(model.config, "is_decoder", False)


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens that the model can see at once, or None where its configuration sets no limit."""
    config = model.config.get_text_config()
    keys = ("max_position_embeddings", "n_positions", "seq_length")
    limit = next((value for key in keys if (value := getattr(config, key, None))), None)
    table = next((m for name, m in model.named_modules() if name.endswith("position_embeddings")), None)
    offset = getattr(table, "padding_idx", None)  # RoBERTa counts its positions from the padding index on
    return int(limit) - (0 if offset is None else offset + 1) if limit and limit > 0 else None


def check_fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Refuse a tokenizer or a length that the model has no place for.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        length: Tokens of the longest sequence, prompt and response together.

    Raises:
        ModelError: The sequence is longer than the context, or the tokenizer knows more tokens than the model.
    """
    check_length(model, length)
    known = cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > known:
        raise ModelError(
            f"The tokenizer has {len(tokenizer)} tokens, the model has embeddings for {known}.",
            where=str(model.config.name_or_path),
            fix="Use the tokenizer that belongs to the model.",
        )


def check_length(model: PreTrainedModel, length: int) -> None:
    """Refuse sequences, prompt and response together, that are longer than the model's context.

    Raises:
        ModelError: They are.
    """
    limit = context_length(model)
    if limit is not None and length > limit:
        raise ModelError(
            f"Sequences of {length} tokens do not fit the model's context of {limit}.",
            where=str(model.config.name_or_path),
            fix="Lower the maximum length (prompt and response together) or take a model with a longer context.",
        )


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write a policy that plain AutoModelForCausalLM and AutoTokenizer load; generation stops at the turn's end.

    Args:
        model: The policy, unwrapped; one with an adapter is merged, and the adapter lies in `adapter/`.
        tokenizer: Its tokenizer; the chat template goes with it.
        out: The folder. Other files in it stay; an earlier policy there is replaced once the new one is written.

    Raises:
        ModelError: The disk is full or refuses; what was there before is untouched.
    """
    generation = copy.deepcopy(model.generation_config)

    def write(folder: Path) -> None:
        save_model(model, folder)
        tokenizer.save_pretrained(str(folder))
        if generation is not None:
            stops = {end_id(tokenizer), tokenizer.eos_token_id} - {None}
            generation.eos_token_id = sorted(stops)
            generation.pad_token_id = tokenizer.pad_token_id
            generation.save_pretrained(str(folder))

    replace_files(out, write)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write what training changes, for another program: the adapter of a model that has one, else all weights.

    Args:
        model: The policy, unwrapped.
        folder: An empty folder.

    Raises:
        ModelError: The disk is full or refuses.
    """
    try:
        with quiet():
            save_adapter(model, folder) if has_adapter(model) else model.save_pretrained(str(folder))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "The weights could not be handed over.",
            where=str(folder),
            why=str(error),
            fix="Free some disk space there, or name another place in sampler.folder.",
        ) from error


class Placed(NamedTuple):
    """What a model gives for each token that it reads, and where among these the tokens of a batch are."""

    values: Tensor  # (U, S, …)
    place: Tensor | None  # (B, L) int64 into U·S, arbitrary for padding; None: U, S are B, L, in order

    def at(self, index: Tensor | tuple[Tensor, Tensor] | EllipsisType) -> Tensor:
        """Those of some tokens of the batch.

        Args:
            index: Into (B, L): a bool mask, rows with columns, or `...` for all.

        Returns:
            (N, …) of N tokens; (B, L, …) of all.
        """
        if self.place is None:
            return self.values[index]
        place = self.place[index]
        values = self.values.flatten(0, 1).index_select(0, place.flatten())
        return values.reshape(*place.shape, *values.shape[1:])


class CausalPass(NamedTuple):
    """What a causal model is called with, and where its output for a token is; see `Placed`."""

    inputs: dict[str, Any]
    place: Tensor | None


def causal_pass(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor | None = None
) -> CausalPass:
    """How a causal model reads a batch; arguments as in `hidden_states`, the model wrapped or not.

    No token sees those after it, so padding behind all real tokens needs no mask, and attention without one is
    faster: kernels skip what lies in the future.
    """
    inner = getattr(model, "module", model)  # DistributedDataParallel takes *args
    names = inspect.signature(inner.forward).parameters
    inputs: dict[str, Any] = {"input_ids": input_ids}
    if "use_cache" in names:
        inputs["use_cache"] = False
    if bool(attention_mask[:, 0].all()):
        shared = None
        if prompt_lengths is not None:
            shared = share_prompts(inner, input_ids, attention_mask, prompt_lengths)
        if shared is None:
            return CausalPass(inputs, None)
        ids, positions, visible, place = shared
        together = {"input_ids": ids, "position_ids": positions, "attention_mask": visible}
        return CausalPass(inputs | together, place)
    inputs["attention_mask"] = attention_mask.long()
    if "position_ids" in names:
        inputs["position_ids"] = position_ids(attention_mask)
    return CausalPass(inputs, None)
