"""Metrics of an objective over a whole split, by one process or several."""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor

from data.loader import Loader
from models.core.objective import LOGITS, Objective


class Evaluation(NamedTuple):
    """The metrics of a split.

    Attributes:
        metrics: by name.
        logits: [N, num_classes] float32 on the CPU, in the split's order; None where they are not asked for, or the
            objective does not classify.
    """

    metrics: dict[str, float]
    logits: Tensor | None = None


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, objective: Objective, loader: Loader, batch_size: int, keep_logits: bool = False
) -> Evaluation:
    """Return the metrics of a split, which do not depend on the size of batches or the number of processes.

    They are the means over the images of what the objective's `evaluate` returns, and what its `split_metrics` returns.

    Args:
        accelerator: precision and processes; each of them evaluates its share.
        objective: as it was before `accelerator.prepare`.
        loader: of the split.
        batch_size: images that a process evaluates at once.
        keep_logits: keep those of all images, too.
    """
    for buffer in objective.buffers():
        broadcast(buffer)  # every process has running statistics of its own; the first one's are those saved
    objective.eval()
    exact = torch.float32 if accelerator.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    totals: dict[str, Tensor] = {}
    kept: dict[str, list[Tensor]] = {}
    num_images = 0
    with accelerator.autocast():
        for batch in loader.evaluation_batches(batch_size):
            for name, values in objective.evaluate(batch).items():
                if name == LOGITS and not keep_logits:
                    continue
                if values.ndim > 1:
                    kept.setdefault(name, []).append(values.float().cpu())
                else:
                    totals[name] = totals.get(name, 0) + values.to(exact).sum()
            num_images += len(batch.labels)
    own = {name: total.item() for name, total in totals.items()}, kept, num_images
    shares = [share for share in gather_object([own]) if share[-1]]  # a process may have had no image
    num_images = sum(num for *_, num in shares)
    means = {name: sum(sums[name] for sums, *_ in shares) / num_images for name in shares[0][0]}
    whole = {name: torch.cat([part for _, parts, _ in shares for part in parts[name]]) for name in shares[0][1]}
    return Evaluation(means | objective.split_metrics(whole), whole.get(LOGITS))
