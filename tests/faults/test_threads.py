"""One thread or two, in processes of their own, and the plain network: tables alike, recorded, the same conclusion"""
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from tqdm import tqdm

from benchmarks import reference
from modspec.analysis.specialization import specialization
from modspec.analysis.tables import joined, read_table
from modspec.core.data import load_dataset
from modspec.core.files import read_manifest
from modspec.core.registry import entries
from modspec.core.sparsity import connection_count
from modspec.engine.measure import measured
from modspec.engine.run import networks_table
from modspec.networks.stack import Stack
from modspec.studies.extreme_sparsity.config import sparsity_run
from modspec.studies.extreme_sparsity.run import sparse_models

SHORT = dict(sparsity=[.0025, 1.], seeds=2, n_hidden=20, n_pairs=640, epochs=1, bottleneck_epochs=1, readout_epochs=1)
LEARNT = dict(sparsity=[1 / 50**2, 1.], seeds=4, n_hidden=50, n_pairs=8000, epochs=3, bottleneck_epochs=3, lr=1.,
              mask_epochs=2, mask_batch_size=64)
PROGRAM = ('import json, sys; from modspec.engine.run import run\n'
           'from modspec.studies.extreme_sparsity.config import sparsity_run\n'
           'run(sparsity_run(**json.loads(sys.argv[1])), sys.argv[2], threads=int(sys.argv[3]))')
TOLERANCE = .03  # of accuracies and measures: sums in another order turn a few of 4,000 answers
MEASURES = 'bottleneck', 'weight_mask', 'correlation', 'cka'
two_processors = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='one processor')


def computed(settings, out, threads):
    "The values of a run in a process of its own, whose manifest says with how many threads and where"
    env = {'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'passive'}
    command = [sys.executable, '-c', PROGRAM, json.dumps(settings), out, str(threads)]
    subprocess.run(command, env=os.environ | env, check=True, capture_output=True)
    manifest = read_manifest(out)
    for part in (manifest['training'], *manifest['measured']):
        assert (part['threads'], part['device']) == (threads, 'cpu')
    return read_table(out)


def assert_conclusion(values):
    "What the paper finds: by every measure, networks of one connection are more specialized than those of all"
    values = values[values['trained']]
    found = specialization(values[values['measure'].isin(MEASURES)])
    means = found.groupby(['measure', 'sparsity'])['specialization'].mean().unstack()
    assert sorted(means.index) == sorted(MEASURES) and list(means.columns) == LEARNT['sparsity']
    assert (means.iloc[:, 0] > means.iloc[:, 1] + .1).all(), means
    accuracy = values[values['measure'] == 'accuracy'].groupby('architecture')['value'].mean()
    assert (accuracy > .4).all(), accuracy  # a guess is right in one of ten


@pytest.mark.slow
@two_processors
@pytest.mark.provokes('threads and devices', rounds=2)
def test_one_thread_or_two(tmp_path):
    first, second = (computed(SHORT, tmp_path / str(threads), threads) for threads in (1, 2))
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
    "Each trained on its own by the plain code, with draws of its own; the measures are ours"
    of_the_winner = dict(loss='winner', mask_loss='winner')  # as the plain code has it
    digits, config, stacks = load_dataset('digits'), sparsity_run(**LEARNT, **of_the_winner), {}
    seeds, points = zip(*config.networks)
    counts = tuple(connection_count(point.sparsity, point.n_hidden) for point in points)
    for name, model in sparse_models(config.settings, digits.n_pixels).items():
        networks = []
        for seed, point in config.networks:
            network = reference.Network(model, point.sparsity, generator=torch.Generator().manual_seed(seed))
            reference.train_network(network, digits, config.settings, seed=seed)
            networks.append({key: weight.detach() for key, weight in network.named_weights().items()})
        weights = {key: torch.stack([network[key] for network in networks]) for key in networks[0]}
        stacks[name] = Stack(model, weights, seeds, counts)
    with tqdm(disable=True) as bar:
        values = pd.concat([measured(entry, config, config.settings, {1: stacks}, digits, bar)
                            for name, entry in entries('measure').items() if name in config.study.measures])
    assert_conclusion(joined(networks_table(config, stacks), values))
