"""A sampler with weights of its own, in the loop: it is given the actor's, and what it draws is corrected.

An engine computes the same policy with other kernels, so its log-probabilities differ a little from the trainer's.
π_old is then the trainer's own, from its first pass over the batch. Samplers that draw from the actor itself need
none of this, and get none of it.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers import PreTrainedModel

from equipoise.algos import policy
from equipoise.artefact import CHECKPOINTS
from equipoise.models.adapters import has_adapter
from equipoise.models.backbone import save_weights
from equipoise.rollout.sampler import Engine, Sampler
from equipoise.tokens.batches import Rollout
from equipoise.train.ppo_config import PpoLagConfig
from equipoise.train.ppo_metrics import Sums, add


@dataclass(frozen=True)
class OldPolicy:
    """What the surrogate needs to know of the policy that drew a batch."""

    log_probs: Tensor  # (B, R) float32, nats: ln π_old(a_t)
    weights: Tensor | float  # (B, R) ≥ 0 or 1: of the tokens, which multiply their advantages


def publish(sampler: Sampler, actor: PreTrainedModel, out: Path, accelerator: Accelerator) -> None:
    """Let an engine draw from the actor as it is now; other samplers do so by themselves.

    Args:
        sampler: Any.
        actor: The policy, unwrapped and whole.
        out: The run's directory.
        accelerator: All processes call this; the main one writes.

    Raises:
        EndpointError: The engine does not take the weights.
        ModelError: They cannot be written.
    """
    if not isinstance(sampler, Engine):
        return
    parent = sampler.folder or out / CHECKPOINTS / "sampler"
    handed = [_write(actor, parent) if accelerator.is_main_process else ""]
    broadcast_object_list(handed)
    sampler.load(Path(handed[0]), first=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _tidy(Path(handed[0]), keep=has_adapter(actor))


def old_policy(
    log_probs: Tensor, rollout: Rollout, sampler: Sampler, config: PpoLagConfig, sums: Sums
) -> OldPolicy:
    """π_old of a batch, known from the first pass over it.

    Args:
        log_probs: (B, R) of the actor in that pass, before any optimizer step.
        rollout: The batch, with the sampler's log-probabilities.
        sampler: What drew it.
        config: Has C of `policy.sampler_weights`.
        sums: Gets how far the two are apart.
    """
    if not isinstance(sampler, Engine):
        return OldPolicy(rollout.log_probs, 1.0)
    old = log_probs.detach()
    ceiling = config.sampler_weight_ceiling
    weights, found = policy.sampler_weights(old, rollout.log_probs, rollout.response_mask, ceiling)
    add(sums, sampled=found.tokens, sampler_distance=found.distance, truncated=found.truncated)
    return OldPolicy(old, weights)


def _write(actor: PreTrainedModel, parent: Path) -> str:
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="policy-", dir=parent)).resolve()
    folder.chmod(0o755)  # the server may be another user's
    save_weights(actor, folder)
    return str(folder)


def _tidy(newest: Path, *, keep: bool) -> None:
    """Remove what the engine has in memory; it may come back for the newest adapter."""
    for folder in newest.parent.glob("policy-*"):
        if folder != newest or not keep:
            shutil.rmtree(folder)
