"""What units that function alike cost: associations, Hessians, modules, how they agree, and the training of layers"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.causes import line
from benchmarks.clock import alternate, peak_memory, seconds_of
from benchmarks.commands import Rows
from modspec.core.data import Dataset, Digits, as_inputs
from modspec.engine.config import load_config
from modspec.engine.plan import RunConfig
from modspec.engine.run import data_of_run, untrained_networks
from modspec.measures.associations import (
    EXAMPLES_AT_ONCE,
    associations,
    gram,
    layer_modules,
    loss_hessians,
    output_gradients,
    outputs_from,
    slopes,
    softmax_spread,
)
from modspec.networks.feedforward import weighted
from modspec.networks.stack import Stack
from modspec.training.loop import train

TRIALS = 30  # Searches for one division
PLAIN = 'plain loop'
# Seconds of the source's programs, and of a plain loop in place of theirs, measured earlier on another machine
ELSEWHERE = {'associations': 17., 'modules of 16 matrices': 171., 'alignment of 72 pairs': 311.,
             'training, with its loader': 7.3, 'training, plain loop': 0.71}
TOGETHER = [*ELSEWHERE][:3]  # What measuring one network is made of


def first_run(config: str, device: str) -> tuple[RunConfig, Dataset, Stack]:
    "A sweep's first run, its data and its networks before training"
    run = next(iter(load_config(config).runs().values()))
    data = data_of_run(run, device, download=False)
    stack, = untrained_networks(run, data).values()
    return run, data, stack.to(device)


def states_of(stack: Stack, x: Tensor, layer: int) -> Tensor:
    "States of a layer, shape (networks, examples, n)"
    model, weights = stack.architecture, stack.weights
    return [*model.states(weights, model.drive(weights, x[None, None]))][layer - 1][:, 0].mT


def closed_form(stack: Stack, h: Tensor, targets: Tensor, layer: int) -> Tensor:
    "What `loss_hessians` gives for ReLU networks, from the same states, as `associations` computes it"
    states, depth = [h] * layer, len(stack.architecture.layers)
    for after in range(layer + 1, depth + 1):
        states.append(weighted(stack.weights, f'{after}', states[-1].mT[:, None])[:, 0].mT.relu())
    G = output_gradients(stack.weights, [slopes(one, 'relu') for one in states], layer)
    return gram(softmax_spread(G, outputs_from(stack, states[-1], depth).softmax(2)))


@torch.no_grad()
def by_part(hessians: Callable[..., Tensor], stack: Stack, h: Tensor, targets: Tensor, layer: int) -> Tensor:
    "Hessians summed over the examples, some at a time as in `associations`"
    parts = zip(h.split(EXAMPLES_AT_ONCE, dim=1), targets.split(EXAMPLES_AT_ONCE))
    return sum(hessians(stack, *part, layer) for part in parts)


def hessian_rows(stack: Stack, x: Tensor, y: Tensor, rounds: int, device: str) -> Iterator[dict]:
    "The closed form against the double backward, which must give the same"
    what = {'closed form': closed_form, 'double backward': loss_hessians}
    for layer in range(1, len(stack.architecture.layers) + 1):
        h, how = states_of(stack, x, layer), f'{len(x)} images, in turn'
        work = {name: partial(by_part, hessians, stack, h, y, layer) for name, hessians in what.items()}
        torch.testing.assert_close(*(one() for one in work.values()), rtol=1e-3, atol=1e-3)  # warms up, too
        found = alternate({name: partial(seconds_of, one, device) for name, one in work.items()}, rounds)
        part = f'Hessian, layer {layer}'
        yield from (line(part, name, 1, values, how) for name, values in found.items())
        ratio = found['double backward'] / found['closed form']
        yield line(part, 'ratio', 1, ratio, 'double backward over closed form, round by round', 'times')


def alike(device: str, config: str, images: int, hessians: int, rounds: int) -> Rows:
    "One network after an epoch of training: associations, modules and their agreement, by layer and in all"
    from modspec.measures.alignment import aligned  # Brings scikit-learn, which no other cell is to hold in memory
    run, data, stack = first_run(config, device)
    stack, _ = train(stack[0], data, replace(run.settings, epochs=1))
    x, y = as_inputs(data.test.images[:images]), data.test.labels[:images]
    layers = range(1, len(stack.architecture.layers) + 1)
    measured = {layer: partial(associations, stack, x, y, layer=layer) for layer in layers}
    A = {layer: measure() for layer, measure in measured.items()}
    def divide(): return [layer_modules(A[layer], stack.seeds, TRIALS) for layer in layers]
    labels = divide()
    def agree(): return [aligned(A[layer], modules) for layer, modules in zip(layers, labels)]
    agree()
    peak, n = peak_memory(), len(A[1])
    work = {f'associations, layer {layer}': measure for layer, measure in measured.items()}
    matrices, pairs = f'modules of {n * len(layers)} matrices', f'alignment of {n * (n + 1) // 2 * len(layers)} pairs'
    work |= {matrices: divide, pairs: agree}
    found = alternate({name: partial(seconds_of, one, device) for name, one in work.items()}, rounds)
    how, part = f'eight measures, {len(x)} test images, {TRIALS} searches a matrix', 'one network'
    rows = [line(part, name, 1, values, how) for name, values in found.items()]
    total = sum(found.values())
    return [*rows, line(part, 'together', 1, total, 'sum of the above'),
            line(part, 'ratio', 1, sum(ELSEWHERE[name] for name in TOGETHER) / total,
                 "the source's programs elsewhere, together, over ours", 'times'),
            line(part, 'peak memory', 1, [peak], 'of a process, before the Hessians', 'MB'),
            *hessian_rows(stack, x[:hessians], y[:hessians], rounds, device), *elsewhere()]


def elsewhere() -> Iterator[dict]:
    "What the targets were set against"
    for what, seconds in ELSEWHERE.items():
        yield line('the source, elsewhere', what, 1, [seconds], 'measured earlier on another machine')


def plain_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, l2: float, batch: int, x: Tensor, y: Tensor,
                aside: tuple[Tensor, Tensor]) -> float:
    "An epoch as one writes it for a single network whose data are in memory, and the loss on images kept aside"
    matrices = [w for w in network.parameters() if w.ndim > 1]
    for index in torch.randperm(len(x)).split(batch):
        loss = F.cross_entropy(network(x[index]), y[index]) + l2 * sum(w.square().sum() for w in matrices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad(): return F.cross_entropy(network(aside[0]), aside[1]).item()


def plain_loop(digits: Digits, run: RunConfig, sizes: tuple[int, ...]) -> Callable[[], float]:
    "An epoch of one network of these sizes, which goes on training every time"
    pairs = list(zip(sizes, sizes[1:]))
    parts = [nn.Sequential(nn.Linear(*pair), nn.ReLU()) for pair in pairs[:-1]]
    network = nn.Sequential(*parts, nn.Linear(*pairs[-1])).to(digits.images.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=run.settings.lr)
    x, y, n = as_inputs(digits.images), digits.labels, round(len(digits) * run.settings.validation)
    return partial(plain_epoch, network, optimizer, run.settings.l2_strength, run.settings.batch_size, x[n:], y[n:],
                   (x[:n], y[:n]))


def epochs(device: str, config: str, rounds: int) -> Rows:
    "An epoch of the study's networks in a stack, per network, against that of a plain network in the same minutes"
    run, data, stack = first_run(config, device)
    n, model = len(data.train) - round(len(data.train) * run.settings.validation), stack.architecture
    settings = replace(run.settings, epochs=1, n_pairs=n)
    stacked = partial(train, stack, data, settings)
    stacked()
    peak, plain = peak_memory(), plain_loop(data.train, run, (model.n_pixels, *model.layers, model.n_classes))
    plain()
    work = {'stack': stacked, PLAIN: plain}
    found = alternate({name: partial(seconds_of, one, device) for name, one in work.items()}, rounds)
    found['stack'] = found['stack'] / len(stack)
    part, how = 'training', f'per network and epoch of {n} images in batches of {settings.batch_size}, in turn'
    rows = [line(part, name, len(stack) if name == 'stack' else 1, values, how) for name, values in found.items()]
    ratios = {f'ratio, {PLAIN}': found[PLAIN] / found['stack'],
              'ratio, the source with its loader': ELSEWHERE['training, with its loader'] / found['stack']}
    return [*rows, *(line(part, name, len(stack), values, 'over the stack, per network', 'times')
                     for name, values in ratios.items()),
            line(part, 'peak memory', len(stack), [peak], 'of a process that trains the stack', 'MB')]
