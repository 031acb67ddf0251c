"""The curvature of a model's loss: the greatest eigenvalues of its Hessian."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.look.landscape import LossFunction
from data.errors import UserError
from data.progress import progress_bar
from data.seeding import mix_seeds

TOLERANCE = 1e-4  # relative, of an eigenvalue
MOST_ITERATIONS = 100  # restarts of Lanczos, each of about 20 products


def hessian_product(function: LossFunction, weights: Mapping[str, Tensor], vector: Tensor) -> Tensor:
    """Return the Hessian of the mean loss times a vector [weights], batch by batch: [weights].

    Pearlmutter 1994: the gradient of the gradient's product with the vector. The weights are in the order of `weights`,
    each flattened.
    """
    own = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    total = torch.zeros_like(vector)
    for batch in function.batches:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivatives
            loss = function.evaluate(own, batch)["loss"].sum() / function.num_images
            gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True, materialize_grads=True)
            slope = torch.cat([gradient.flatten() for gradient in gradients]) @ vector
            parts = torch.autograd.grad(slope, list(own.values()), materialize_grads=True)
        total += torch.cat([part.flatten() for part in parts])
    return total


def top_eigenvalues(function: LossFunction, num: int, seed: int) -> np.ndarray:
    """Return the greatest eigenvalues of the Hessian of the mean loss at a run's weights, the greatest first: [num].

    By the implicitly restarted Lanczos method of ARPACK, which needs products of the Hessian with vectors alone.

    Args:
        function: the loss.
        num: of eigenvalues; 0 for none.
        seed: of the vector that the method starts with.

    Raises:
        UserError: there are too few weights for so many, or they were not found.
    """
    from scipy.sparse import linalg  # imported late: takes half a second

    if not num:
        return np.zeros(0)
    weights = function.weights
    first = next(iter(weights.values()))
    size = sum(weight.numel() for weight in weights.values())
    if num >= size:
        raise UserError(f"--eigenvalues={num}: there are {size} weights: give fewer")
    with progress_bar("curvature", None, "products") as bar:

        def product(vector: np.ndarray) -> np.ndarray:
            bar.update()
            return hessian_product(function, weights, torch.from_numpy(vector.ravel()).to(first)).cpu().numpy()

        start = np.random.default_rng(mix_seeds(seed, num=1)).standard_normal(size)
        dtype = np.float64 if first.dtype == torch.float64 else np.float32
        operator = linalg.LinearOperator((size, size), matvec=product, dtype=dtype)
        try:
            values = linalg.eigsh(
                operator, num, which="LA", v0=start, tol=TOLERANCE, maxiter=MOST_ITERATIONS, return_eigenvectors=False
            )
        except linalg.ArpackNoConvergence as error:
            raise UserError(
                f"--eigenvalues={num}: {len(error.eigenvalues)} were found after {bar.n} products: give fewer"
            ) from None
        except linalg.ArpackError:
            raise UserError(
                f"--eigenvalues={num}: the curvature is 0 everywhere, or no finite number: give --eigenvalues=0"
            ) from None
    return np.sort(values)[::-1]
