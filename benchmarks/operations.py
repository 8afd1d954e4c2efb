"""How many operations the mathematics needs, whatever the code does, and the matrix products that hold them

A multiplication and an addition are two operations. Counted are the products of training: forward, back to the states,
and back to the weights. Not counted: biases, tanh, cross-entropy and the optimizers, whose operations per weight do not
grow with the number of pairs. Nothing is needed for h_0 = 0, nor for gradients with respect to the images; the inputs,
which do not change over the time steps, are multiplied once.
"""

from typing import NamedTuple

from modspec.networks.recurrent import Recurrent


class Product(NamedTuple):
    "A batched matrix product: `batch` times (rows, inner) by (inner, columns)"
    name: str
    batch: int
    rows: int
    inner: int
    columns: int
    times: int = 1  # Per step of training

    @property
    def operations(self) -> int:
        "Multiplications and additions of one such product"
        return 2 * self.batch * self.rows * self.inner * self.columns


def layers(
    architecture: Recurrent,  # Sizes
) -> dict[str, tuple[int, int]]:  # (rows, columns) of each sub-network's matrix
    "The read-out's matrices"
    N, B, C = architecture.n_hidden, architecture.n_bottleneck, architecture.n_classes
    return dict(hb=(B, N), br=(C, B)) if B else dict(hr=(C, N))


def flops_per_pair(
    architecture: Recurrent,  # Sizes
    n_connections: int | None = None,  # Active interconnections in each direction; by default all N^2
) -> int:
    "Operations to train one network on one pair of images"
    S, N, T = architecture.n_subnetworks, architecture.n_hidden, architecture.n_steps
    k = N**2 if n_connections is None else n_connections
    inputs = S * N * architecture.n_pixels
    recurrent = (T - 1) * (S * N**2 + S * (S - 1) * k)
    readouts = S * sum(rows * columns for rows, columns in layers(architecture).values())
    return 2 * (2 * inputs + 3 * recurrent + 3 * readouts)


def step_products(
    architecture: Recurrent,  # Sizes
    n_networks: int,  # Networks M in the stack
    batch_size: int,  # Pairs per batch
) -> list[Product]:
    "The products of one step of training a stack, with interconnections as full blocks of one recurrent matrix"
    S, N, T, P = architecture.n_subnetworks, architecture.n_hidden, architecture.n_steps, batch_size
    pixels, M = architecture.n_pixels, n_networks
    products = [Product('inputs', M * S, N, pixels, P), Product('inputs, weights', M * S, N, P, pixels),
                Product('recurrent', M, S * N, S * N, P, 2 * (T - 1)),
                Product('recurrent, weights', M, S * N, P, S * N, T - 1)]
    for name, (rows, columns) in layers(architecture).items():
        products += [Product(name, M * S, rows, columns, P), Product(f'{name}, states', M * S, columns, rows, P),
                     Product(f'{name}, weights', M * S, rows, P, columns)]
    return products
