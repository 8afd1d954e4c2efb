"""What is measured inside a process of its own, which has a fixed number of threads and a memory to itself

Each function gives back the rows of one table. `python -m benchmarks.cells NAME THREADS SETTINGS` prints them as JSON;
the settings are JSON too. The benchmark starts these processes and joins their rows.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import reference
from benchmarks.clock import (
    alternate,
    calibrated,
    now,
    peak_memory,
    product_clock,
    seconds_of,
    spread,
    training_clock,
)
from benchmarks.modules import alike, epochs
from benchmarks.operations import Product, flops_per_pair, step_products
from modspec.core.data import Dataset, load_dataset
from modspec.core.files import read_manifest
from modspec.core.registry import entries
from modspec.core.streams import generators
from modspec.engine.collect import circumstances_of
from modspec.engine.identity import recorded_run
from modspec.engine.measure import applies
from modspec.engine.plan import RunConfig
from modspec.engine.run import data_of_run, untrained_networks
from modspec.engine.run import run as run_config
from modspec.engine.store import WEIGHTS
from modspec.engine.weights import load_networks
from modspec.measures.nulls import null_draws
from modspec.measures.performance import evaluate
from modspec.networks.feedforward import FeedForward, init_feedforward
from modspec.networks.graph import block_graph, network_blocks
from modspec.networks.recurrent import DTYPES, Recurrent, init_stack
from modspec.networks.stack import Stack
from modspec.studies.extreme_sparsity.config import STUDY
from modspec.training.loop import epoch_pairs, n_batches, n_training_steps, pairs_per_epoch, train
from modspec.training.parameters import Parameters

# Architecture by measure, of those that nobody needs to ask for
MEASURED_ON = {name: on for name, on in STUDY.only_on if 'asked_by' not in entries('measure')[name].about}

Rows = list[dict]
N_CLUSTERS = 12  # Of the graphs that are divided for their time
SPARSITY = 0.01  # Of every network whose sparsity is not what is varied
SQUARES = dict(cpu=(512, 1024), cuda=(2048, 8192))


def build(
    dataset: Dataset,  # Its number of pixels
    name: str = 'standard',  # 'standard' or 'bottleneck'
    networks: int = 10,  # Networks M in the stack
    *, device: str = 'cpu',  # Where they are
    sparsity: float = SPARSITY,  # Fraction p of active interconnections
    parameters: Parameters = Parameters(),  # Sizes and precision
) -> Stack:
    "Untrained networks"
    width = parameters.n_bottleneck if name == 'bottleneck' else 0
    architecture = Recurrent(dataset.n_pixels, n_hidden=parameters.n_hidden, n_bottleneck=width,
                                n_steps=parameters.n_steps, precision=parameters.precision)
    return init_stack(architecture, range(networks), sparsity).to(device)


def squares(device: str) -> list[Product]:
    "Large products, which show what the machine can do"
    return [Product(f'square {n}', 4, n, n, n) for n in SQUARES[torch.device(device).type]]


def product_rates(
    seconds: dict[str, object],  # Repeated measurements by the name of the product
    products: list[Product],  # The products
) -> tuple[float, float]:  # Operations per second
    "The rate over the products of one step of training, and the largest rate of any product, by medians"
    medians = {p.name: spread(seconds[p.name], 's')['s'] for p in products}
    own = [p for p in products if not p.name.startswith('square')]
    time, operations = sum(p.times * medians[p.name] for p in own), sum(p.times * p.operations for p in own)
    return operations / time, max(p.operations / medians[p.name] for p in products)


def machine(dataset: str, device: str, networks: int, seconds: float, rounds: int, precisions: list[str]) -> Rows:
    "Rates of batched matrix products: those of a step of training with M networks, and large square ones"
    architecture, parameters = build(load_dataset(dataset), networks=1).architecture, Parameters()
    products = step_products(architecture, networks, parameters.batch_size) + squares(device)
    work = {(p.name, kind): product_clock(p, device, seconds, DTYPES[kind])
            for p in products for kind in precisions}
    found = alternate(work, rounds)
    return [dict(product=p.name, precision=kind, batch=p.batch, rows=p.rows, inner=p.inner, columns=p.columns,
                 per_step=p.times, **spread(p.operations / found[p.name, kind] / 1e9, 'gflops'))
            for p in products for kind in precisions]


def training(dataset: str, device: str, architectures: list[str], networks: list[int], seconds: float, rounds: int,
             precisions: list[str]) -> Rows:
    "Throughput of training against the products that the same machine does in the same minutes"
    data, rows = load_dataset(dataset).to(device), []
    for architecture, M in product(architectures, networks):
        stacks = {kind: build(data, architecture, M, device=device, parameters=Parameters(precision=kind))
                  for kind in precisions}
        stack = stacks[precisions[0]]
        sizes, k, batch = stack.architecture, stack.n_connections[0], Parameters().batch_size
        products = step_products(sizes, M, batch) + squares(device)
        work = {kind: training_clock(stack, data, Parameters(loss='winner'), seconds) for kind, stack in stacks.items()}
        work |= {p.name: product_clock(p, device, seconds / 10) for p in products}
        found = alternate(work, rounds)
        n_pairs = pairs_per_epoch(data, Parameters())
        draw = seconds_of(partial(epoch_pairs, data.train.labels, n_pairs, generators(range(M), 'benchmark')), device)
        rates = product_rates(found, products)
        for kind in precisions:
            step = spread(found[kind], 'step_s')
            per_step = M * batch * flops_per_pair(sizes, k)
            rows.append(dict(
                architecture=architecture, networks=M, precision=kind, batch_size=batch, **step, draw_s=draw,
                network_epochs_per_s=M / (n_batches(n_pairs, batch) * step['step_s'] + draw),
                gflops=per_step / step['step_s'] / 1e9, gflops_own=rates[0] / 1e9, gflops_largest=rates[1] / 1e9,
                fraction=per_step / step['step_s'] / rates[1],
                fraction_full=M * batch * flops_per_pair(sizes) / step['step_s'] / rates[1],
                products_s=sum(p.times * p.operations for p in products if p.name[:6] != 'square') / rates[0],
                speedup=spread(found[precisions[0]], 's')['s'] / step['step_s']))
    return rows


def plain_clock(network: reference.Network, dataset: Dataset, parameters: Parameters, seconds: float,
                train: bool) -> Callable[[], float]:
    "A measurement of the seconds per step of the plain network, or of its loader alone"
    optimizers = reference.make_optimizers(network, parameters, seed=0)
    device = network.mask.device
    def measure(n):
        pairs = epoch_pairs(dataset.train.labels, n * parameters.batch_size, generators([0], 'benchmark'))[0]
        loader = reference.load(dataset.train, pairs, parameters)
        def work():
            if train: reference.train_epoch(network, loader, *optimizers)
            else: sum(len(target) for _, target in loader)
        return seconds_of(work, device) / n
    return calibrated(measure, seconds)


def plain(dataset: str, device: str, architectures: list[str], networks: list[int], seconds: float, rounds: int,
          precisions: list[str]) -> Rows:
    "Training of a stack against the plain network, which trains as many pairs of images, one network at a time"
    data, rows, parameters = load_dataset(dataset).to(device), [], Parameters(loss='winner')
    for architecture, M in product(architectures, networks):
        stacks = {kind: build(data, architecture, M, device=device, parameters=Parameters(precision=kind))
                  for kind in precisions}
        stack = stacks['fp32']
        network = reference.Network.from_stack(stack, 0)
        products = step_products(stack.architecture, M, parameters.batch_size) + squares(device)
        work = dict(plain=plain_clock(network, data, parameters, seconds, True),
                    loader=plain_clock(network, data, parameters, seconds / 4, False))
        work |= {kind: training_clock(stack, data, parameters, seconds) for kind, stack in stacks.items()}
        found = alternate(work | {p.name: product_clock(p, device, seconds / 10) for p in products}, rounds)
        _, largest = product_rates(found, products)
        ideal_s = parameters.batch_size * flops_per_pair(stack.architecture, stack.n_connections[0]) / largest
        for kind in precisions:
            v = spread(found[kind], 'step_s') | spread(found['plain'], 'plain_s') | spread(found['loader'], 'loader_s')
            rows.append(dict(architecture=architecture, networks=M, precision=kind,
                             batch_size=parameters.batch_size, **v, ratio=M * v['plain_s'] / v['step_s'],
                             ratio_without_loader=M * (v['plain_s'] - v['loader_s']) / v['step_s'],
                             ceiling=v['plain_s'] / ideal_s, gflops_largest=largest / 1e9))
    return rows


def metrics(dataset: str, device: str, networks: int, n_pairs: int, seconds: float, rounds: int) -> Rows:
    "Time of each metric as a run measures it once, beside the training of the same networks"
    data, parameters = load_dataset(dataset).to(device), Parameters(n_pairs=n_pairs, precision='auto')
    stacks = {name: build(data, name, networks, device=device, parameters=parameters)
              for name in ('standard', 'bottleneck')}
    short = replace(parameters, n_pairs=10 * parameters.mask_batch_size, readout_epochs=1)
    work = {}
    for name, on in MEASURED_ON.items():
        measure = entries('measure')[name].load()
        measure(stacks[on], data, short)
        whole = partial(measure, stacks[on], data, parameters)
        work[name] = partial(seconds_of, whole, device)
    for name, stack in stacks.items():
        work[f'training, {name}'] = training_clock(stack, data, parameters, seconds)
        work[f'accuracy, {name}'] = partial(seconds_of, partial(evaluate, stack, data.test), device)
    found, rows = alternate(work, rounds), []
    for stage, values in found.items():
        name = MEASURED_ON.get(stage) or stage.split(', ')[1]
        if stage.startswith('training'): values = values * n_training_steps(data, stacks[name].architecture, parameters)
        rows.append(dict(stage=stage.split(', ')[0], architecture=name, networks=networks,
                         precision=parameters.precision, **spread(values, 'seconds'),
                         seconds_per_network=spread(values, 's')['s'] / networks))
    return rows


class Enough(Exception):
    "Raised to end a training whose memory has been seen"


class StopAfter:
    "Stands in for a progress bar, and ends the work after some steps"

    def __init__(self, steps: int): self.n, self.steps = 0, steps

    def update(self, n: int = 1):
        self.n += n
        if self.n >= self.steps: raise Enough


def memory(dataset: str, device: str, stage: str, networks: int, n_pairs: int) -> Rows:
    "Peak memory of the first steps of training, or of a metric, with the pairs of a whole epoch"
    data, parameters = load_dataset(dataset).to(device), Parameters(n_pairs=n_pairs, precision='auto')
    before = peak_memory()
    name = MEASURED_ON.get(stage, 'standard')
    stack = build(data, name, networks, device=device, parameters=parameters)
    measure = entries('measure')[stage].load() if stage in MEASURED_ON else train
    try: measure(stack, data, parameters, bar=StopAfter(20))
    except Enough: pass
    if stage in MEASURED_ON:  # now the end, which comes after a training that a few pairs make short
        measure(stack, data, replace(parameters, n_pairs=2 * parameters.mask_batch_size, readout_epochs=1))
    on_device = torch.cuda.max_memory_allocated(device) / 1e6 if torch.device(device).type == 'cuda' else 0.
    return [dict(stage=stage, architecture=name, networks=networks, peak_mb=peak_memory(), start_mb=before,
                 device_mb=on_device)]


def scaling(dataset: str, device: str, ladders: dict[str, list], bases: dict[str, float], seconds: float, rounds: int,
            long_rounds: int) -> Rows:
    "Time of a step against one size while the others stay; against the number of pairs, time of an epoch"
    data, rows = load_dataset(dataset).to(device), []
    for variable, values in ladders.items():
        whole = variable == 'pairs'
        work = {value: scaled(data, device, bases | {variable: value}, seconds, whole) for value in values}
        found = alternate(work, long_rounds if whole else rounds)
        base = spread(found[bases[variable]], 's')['s']
        rows += [dict(variable=variable, value=value, base=bases[variable], unit='epoch' if whole else 'step',
                      **spread(times, 'seconds'), relative=spread(times, 's')['s'] / base)
                 for value, times in found.items()]
    return rows


def scaled(data: Dataset, device: str, sizes: dict[str, float], seconds: float, whole: bool) -> Callable[[], float]:
    "A measurement of the seconds of a step, or of a whole epoch, with these sizes M, pairs, N, T and p"
    parameters = Parameters(n_hidden=sizes['N'], n_steps=sizes['T'], n_pairs=sizes['pairs'], epochs=1,
                            precision='auto')
    stack = build(data, networks=sizes['M'], device=device, sparsity=sizes['p'], parameters=parameters)
    step = training_clock(stack, data, parameters, seconds)  # warmed up
    if not whole: return step
    return partial(seconds_of, partial(train, stack, data, parameters, bar=StopAfter(10**9)), device)


def run(device: str, record: dict, n_pairs: list[int], at_first: list[str] | None = None) -> Rows:
    """Seconds of each stage of a recorded run and its peak memory, with several numbers of pairs per epoch.

    `at_first` names the measures that are taken at all of these numbers; others are taken at the last one only.
    """
    rows = []
    for place, n in enumerate(n_pairs, 1):
        config = recorded_run(record | dict(settings=record['settings'] | dict(n_pairs=n)))
        with TemporaryDirectory() as folder:
            run_config(config, folder, device=device, only=at_first if place < len(n_pairs) else None)
            seconds, peak = circumstances_of(read_manifest(folder))['seconds'], peak_memory()
            alone = ncut_seconds(config, Path(folder)) if 'clusterability' in seconds else 0.
            rows.append(dict(n_pairs=n, seconds=seconds, peak_mb=peak, ncut_value_s=alone))
    return rows


def ncut_seconds(config: RunConfig, folder: Path) -> float:
    "Time of the n-cuts of a finished run's networks, untrained and trained, without those of shuffles"
    from modspec.measures.clusterability import block_ncuts
    untrained = untrained_networks(config, data_of_run(config, 'cpu', download=False))
    stacks = [*untrained.values(), *load_networks(folder / WEIGHTS).values()]
    kept = [stack for stack in stacks if applies(entries('measure')['clusterability'], stack, config.study)]
    def work():
        for stack in kept:
            block_ncuts(network_blocks(stack), config.settings.n_clusters, seeds=stack.seeds,
                        activation=getattr(stack.architecture, 'activation', 'tanh'))
    return seconds_of(work)


def clustering(device: str, layers: list[list[int]], n_graphs: int) -> Rows:
    """Seconds and n-cut of graphs, clustered by modspec and by scikit-learn.

    The graphs are those of an untrained network on MNIST and of shuffles of its weights. A first, small one warms up.
    """
    from sklearn.cluster import SpectralClustering

    from modspec.measures.clusterability import clusterability, ncut
    def ours(A): return clusterability(A, N_CLUSTERS, seed=0)[0]
    def theirs(A): return oracle.fit(A).labels_
    oracle = SpectralClustering(N_CLUSTERS, affinity='precomputed', n_init=25, random_state=0)
    who, rows = {'modspec': ours, 'scikit-learn': theirs}, []
    warm_up, = untrained_graphs([20, 20], 1)
    for labels in who.values(): labels(warm_up)
    for hidden in layers:
        found = {name: dict(seconds=[], ncut=[]) for name in who}
        for A in untrained_graphs(hidden, n_graphs):
            for name, labels in who.items():
                start = now()
                divided = labels(A)
                found[name]['seconds'].append(now() - start)
                found[name]['ncut'].append(ncut(A, divided))
        rows.append(dict(sizes='-'.join(map(str, (784, *hidden, 10))), who=[*who], **found))
    return rows


def untrained_graphs(hidden: list[int], n: int) -> Iterator[np.ndarray]:
    "The graph of an untrained network on MNIST, then those of shuffles among all weights of a layer"
    from modspec.measures.clusterability import normalize_units, weight_graph
    stack = init_feedforward(FeedForward(784, tuple(hidden)), [0])
    blocks = network_blocks(stack)
    for drawn in (blocks, *null_draws(blocks, 'layer', n - 1, seeds=stack.seeds, purpose='benchmark')):
        A, = block_graph(replace(drawn, matrices=normalize_units(drawn.matrices)))
        yield weight_graph(A)


CELLS: dict[str, Callable[..., Rows]] = {cell.__name__: cell for cell in
                                         (machine, training, plain, metrics, memory, scaling, run, clustering,
                                          alike, epochs)}


if __name__ == '__main__':
    name, threads, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(threads)
    print(json.dumps([dict(device=settings['device'], threads=threads, **row) for row in CELLS[name](**settings)]))
