"""One thread or two, in processes of their own, and the plain network: tables alike, recorded, the same conclusion"""
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pandas as pd
import pytest
import torch
from tqdm import tqdm

from benchmarks import reference
from modspec.data import load_dataset
from modspec.experiment import RunConfig, architectures, measure, read_manifest, read_table
from modspec.network import Ensemble, connection_count
from modspec.specialization import specialization
from modspec.training import Parameters

SHORT = Parameters(n_hidden=20, n_pairs=640, epochs=1, bottleneck_epochs=1, readout_epochs=1)
CONFIG = RunConfig((.0025, 1.), seeds=2, parameters=SHORT)
LEARNT = RunConfig((1 / 50**2, 1.), seeds=4, parameters=Parameters(
    n_hidden=50, n_pairs=8000, epochs=3, bottleneck_epochs=3, lr=1., mask_epochs=2, mask_batch_size=64))
PROGRAM = ('import json, sys; from modspec.experiment import RunConfig, run\n'
           'run(RunConfig.from_dict(json.loads(sys.argv[1])), sys.argv[2], threads=int(sys.argv[3]))')
TOLERANCE = .03  # of accuracies and metrics: sums in another order turn a few of 4,000 answers
METRICS = 'bottleneck', 'weight_mask', 'correlation', 'cka'
two_processors = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='one processor')


def computed(config, out, threads):
    "The metrics of a run in a process of its own, whose manifest says with how many threads and where"
    env = {'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'passive'}
    command = [sys.executable, '-c', PROGRAM, json.dumps(asdict(config)), out, str(threads)]
    subprocess.run(command, env=os.environ | env, check=True, capture_output=True)
    manifest = read_manifest(out)
    assert (manifest['threads'], manifest['device']) == (threads, 'cpu')
    return read_table(out)


def assert_conclusion(metrics):
    "What the paper finds: by every metric, networks of one connection are more specialized than those of all"
    found = specialization(metrics[metrics['trained']])
    means = found.groupby(['metric', 'sparsity'])['specialization'].mean().unstack()
    assert sorted(means.index) == sorted(METRICS) and list(means.columns) == list(LEARNT.sparsities)
    assert (means.iloc[:, 0] > means.iloc[:, 1] + .1).all(), means
    accuracy = metrics[metrics['trained'] & (metrics['metric'] == 'accuracy')].groupby('architecture')['value'].mean()
    assert (accuracy > .4).all(), accuracy  # a guess is right in one of ten


@pytest.mark.slow
@two_processors
@pytest.mark.provokes('threads and devices', rounds=2)
def test_one_thread_or_two(tmp_path):
    first, second = (computed(CONFIG, tmp_path / str(threads), threads) for threads in (1, 2))
    columns = [name for name in first if name != 'value']
    pd.testing.assert_frame_equal(first[columns], second[columns])
    assert (first['value'] - second['value']).abs().max() < TOLERANCE


@pytest.mark.slow
@two_processors
@pytest.mark.provokes('threads and devices')
@pytest.mark.parametrize('threads', [1, 2])
def test_conclusion_of_one_thread_or_two(tmp_path, threads):
    "Networks that have learnt something"
    assert_conclusion(computed(LEARNT, tmp_path / 'out', threads))


@pytest.mark.slow
@pytest.mark.provokes('threads and devices')
def test_conclusion_of_plain_networks():
    "Each trained on its own by the plain code, with draws of its own; the metrics are ours"
    digits, parameters, tables = load_dataset('digits'), LEARNT.parameters, []
    seeds, sparsities = zip(*LEARNT.networks)
    counts = tuple(connection_count(p, parameters.n_hidden) for p in sparsities)
    for architecture in architectures(LEARNT, digits.n_pixels):
        networks = []
        for seed, p in LEARNT.networks:
            network = reference.Network(architecture, p, generator=torch.Generator().manual_seed(seed))
            reference.train_network(network, digits, parameters, seed=seed)
            networks.append({name: weight.detach() for name, weight in network.named_weights().items()})
        weights = {name: torch.stack([network[name] for network in networks]) for name in networks[0]}
        stack = Ensemble(architecture, weights, seeds, counts)
        with tqdm(disable=True) as bar:
            tables.append(measure(stack, digits, parameters, trained=True, bar=bar, label='', seconds={}))
    assert_conclusion(pd.concat(tables))
