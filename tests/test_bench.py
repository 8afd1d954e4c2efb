"""The count of operations, the clocks, and the whole benchmark with small numbers"""
import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import typer
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks import reference
from benchmarks.bench import SECTIONS, Plan, main, origins
from benchmarks.clock import StepClock, alternate, calibrated, peak_memory, seconds_per_step, spread
from benchmarks.operations import flops_per_pair, step_products
from modspec.core.data import load_dataset
from modspec.networks.recurrent import Recurrent, init_stack
from modspec.training.parameters import Parameters

ROOT = Path(__file__).parent.parent
ARCHITECTURES = [Recurrent(64, n_hidden=20), Recurrent(30, n_hidden=7, n_bottleneck=3, n_steps=2),
                 Recurrent(30, n_hidden=7, n_steps=1), Recurrent(12, n_hidden=5, n_subnetworks=3)]


# operations

@pytest.mark.parametrize('architecture', ARCHITECTURES, ids=str)
def test_operations_are_those_that_pytorch_counts(architecture):
    """in the plain network, forward and backward, with all interconnections, less what the mathematics does not need:
    inputs at every time step but one, and products with h_0 = 0, forward and for the gradients of the weights"""
    network, n_pairs = reference.Network(architecture), 8
    S, N, T = architecture.n_subnetworks, architecture.n_hidden, architecture.n_steps
    spared = 2 * 2 * (T - 1) * S * N * architecture.n_pixels + 2 * 2 * (S * N)**2
    with FlopCounterMode(display=False) as counter:
        images = torch.rand(n_pairs, architecture.n_subnetworks, architecture.n_pixels)
        F.cross_entropy(network.decide(network(images)), torch.zeros(n_pairs, dtype=torch.long)).backward()
    assert counter.get_total_flops() == n_pairs * (flops_per_pair(architecture) + spared)


@pytest.mark.parametrize('architecture', ARCHITECTURES, ids=str)
def test_products_of_a_step_hold_the_operations(architecture):
    "of full matrices, for every network and pair"
    products = step_products(architecture, 3, 16)
    assert sum(p.times * p.operations for p in products) == 3 * 16 * flops_per_pair(architecture)


def test_interconnections_count_one_by_one():
    "Forward, back to a state and back to the weight, in two directions, at T - 1 steps, two operations each"
    architecture = Recurrent(784)
    assert flops_per_pair(architecture, 101) - flops_per_pair(architecture, 100) == 3 * 2 * 4 * 2
    assert flops_per_pair(architecture, 100**2) == flops_per_pair(architecture)


# clocks

def test_what_is_compared_is_measured_in_turn():
    order = []
    def measure(name): return lambda: order.append(name) or float(len(order))
    found = alternate(dict(a=measure('a'), b=measure('b')), 3)
    assert order == list('ababab') and found['b'].tolist() == [2, 4, 6]
    assert spread(found['b'], 's') == dict(s=4, s_q25=3, s_q75=5)


def test_repetitions_fit_the_time():
    "Not fewer than the least, and not for ever"
    asked = []
    def measure(n): return asked.append(n) or .01
    calibrated(measure, 1.)(), calibrated(measure, .001)(), calibrated(measure, 1e9)()
    assert asked == [5, 100, 5, 5, 5, 2000]


@pytest.mark.parametrize('at_once', [1, 4])
def test_steps_are_timed_after_the_warm_up(at_once):
    clock = StepClock(4, 12, torch.device('cpu'))
    for step in range(0, 12, at_once):
        time.sleep(.02 * at_once if step >= 4 else .1 * at_once)
        clock.update(at_once)
    assert .02 <= clock.seconds_per_step < .05


def test_training_is_timed_by_its_own_bar():
    stack = init_stack(Recurrent(64, n_hidden=5), [0], 1.)
    before = {name: w.clone() for name, w in stack.weights.items()}
    start = time.perf_counter()
    found = seconds_per_step(stack, load_dataset('digits'), Parameters(n_hidden=5), 20)
    assert 0 < 20 * found < time.perf_counter() - start
    assert all(torch.equal(w, before[name]) for name, w in stack.weights.items())


def test_peak_memory_grows():
    before = peak_memory()
    size = int(before * 1e6)
    torch.ones(size, dtype=torch.uint8)
    assert 1.5 < peak_memory() / before < 3


# command

@pytest.mark.parametrize('arguments, message', [(['trainings'], 'trainings'), (['--threads', '0'], 'whole numbers')])
def test_refused(arguments, message):
    app = typer.Typer()
    app.command()(main)
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 2 and message in answer.output


def test_quick(tmp_path):
    "Every section, each with its table, whose numbers are numbers"
    command = [sys.executable, '-m', 'benchmarks.bench', '--quick', '--out', tmp_path]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob('*.csv')}
    assert set(tables) == set(SECTIONS)
    for name, table in tables.items():
        assert f'\n{name}: ' in answer.stdout and len(table) and not table.isna().any(axis=None)
        for column in table.filter(regex='_q25$'):
            assert (table[column] <= table[column.removesuffix('_q25')]).all()
    assert (tables['training']['fraction'] < tables['training']['fraction_full']).all()
    assert set(tables['training']['architecture']) == {'standard', 'bottleneck'}
    assert set(tables['scaling']['variable']) == {'M', 'pairs', 'N', 'T', 'p'}
    causes = tables['causes'].set_index(['part', 'what'])['value']
    assert causes.index.is_unique and np.isfinite(causes).all()
    assert {'training', 'adaptation', 'communities', 'n-cut, nulls', 'peak memory'} <= {*causes['retina'].index}
    assert {'training', 'weight_mask', 'clusterability', 'total'} <= {*causes['digit_pairs, each'].index}
    assert causes['n-cut, 784-8-8-10']['modspec, n-cut'] > 0
    modules = tables['modules'].set_index(['part', 'what'])['value']
    assert modules.index.is_unique and (modules > 0).all()
    assert {'associations, layer 1', 'together', 'peak memory'} <= {*modules['one network'].index}
    assert {'closed form', 'double backward', 'ratio'} == {*modules['Hessian, layer 1'].index}
    assert {'stack', 'plain loop', 'ratio, plain loop'} <= {*modules['training'].index}
    about, = json.loads((tmp_path / 'machine.json').read_text())
    assert about['plan']['quick'] and about['cores'] == os.cpu_count() and set(about['tables']) == set(SECTIONS)


def test_tables_keep_their_origin(tmp_path):
    "when others are made anew; one that is made again is not told of twice"
    file = tmp_path / 'machine.json'
    for made, date in ((['machine', 'causes'], 1), (['causes'], 2)):
        file.write_text(json.dumps(origins(file, made, dict(date=date))))
    assert json.loads(file.read_text()) == [dict(tables=['machine'], date=1), dict(tables=['causes'], date=2)]
    assert origins(file, ['machine', 'causes'], dict(date=3)) == [dict(tables=['machine', 'causes'], date=3)]


def test_committed_tables():
    "are not those of a quick run, are of sections that there are, and each has one origin"
    folder = ROOT / 'benchmarks' / 'results'
    tables = [path.stem for path in folder.glob('*.csv')]
    about = json.loads((folder / 'machine.json').read_text())
    assert set(tables) <= set(SECTIONS)
    assert sorted(tables) == sorted(name for one in about for name in one['tables'])
    for one in about:
        assert not one['plan']['quick'] and set(one['plan']) <= {field.name for field in fields(Plan)}
