"""How a code book is used: which codes stand for a split's images, and how often."""

import math
from pathlib import Path

import numpy as np
import torch

from analysis.look.panels import render
from analysis.record.findings import Analysis
from data.loader import Loader, Shard
from models.core.abilities import HasCodes
from models.parts.code_book import perplexity


def analyse_codes(model: HasCodes, loader: Loader, batch_size: int, folder: Path) -> Analysis:
    """Count the codes of all images of a split, and draw how often each is used into `folder`."""
    codes = torch.cat([model.codes_of(batch.images) for batch in loader.evaluation_batches(batch_size, Shard())])
    uses = torch.bincount(codes.flatten(), minlength=model.codebook_size)
    metrics = {"perplexity": perplexity(uses).item(), "codes_used": float((uses > 0).sum())}
    draws = {folder / "code_usage.png": lambda path: draw_code_usage(uses.cpu().numpy(), metrics["perplexity"], path)}
    return Analysis(metrics, render(draws))


def draw_code_usage(uses: np.ndarray, code_perplexity: float, path: Path) -> None:
    """Draw a map of how often each code is used, and the codes by rank; `uses` are counts [K]."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    columns = math.ceil(math.sqrt(2 * len(uses)))
    shares = 100 * uses / uses.sum()
    squares = np.full(-(-len(uses) // columns) * columns, np.nan)
    squares[: len(uses)] = np.where(uses, shares, np.nan)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    left.set_facecolor("lightgrey")
    norm = LogNorm(vmin=shares[uses > 0].min(), vmax=max(shares.max(), 1.01 * shares[uses > 0].min()))
    image = left.imshow(squares.reshape(-1, columns), norm=norm, cmap="viridis")
    figure.colorbar(image, label="share of all positions, %")
    left.set(title=f"{(uses > 0).sum()} of {len(uses)} codes used; unused ones are grey", xticks=[], yticks=[])
    right.plot(np.sort(shares)[::-1])
    right.axhline(100 / len(uses), color="grey", linestyle="--", label="even use")
    right.set(xlabel="codes by rank", ylabel="share, %", title=f"perplexity {code_perplexity:.0f}")
    right.ticklabel_format(axis="y", useOffset=False)
    right.legend()
    figure.savefig(path, dpi=100)
