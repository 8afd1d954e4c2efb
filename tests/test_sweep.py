"""Sweeps: configurations that are refused, runs that fail, and tables that are never of another sweep"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import tqdm
import yaml
from conftest import COMMITTED
from typer.testing import CliRunner

from modspec import experiment, sweep
from modspec.cli import app
from modspec.experiment import (
    RUN_FILES,
    TABLES,
    ResultError,
    RunConfig,
    as_text,
    collect,
    is_finished,
    package_hash,
    read_manifest,
    read_table,
)
from modspec.figures import caption
from modspec.sweep import (
    RunFailed,
    SweepConfig,
    collect_sweep,
    draw_figures,
    execute,
    find_run,
    is_collected,
    load_config,
    meaning,
    notebook_parameters,
    planned,
    progress_file,
    read_progress,
    repository,
    run_notebook,
    run_state,
    run_sweep,
    seal,
    seconds_left,
    shown_progress,
    sweep_progress,
    sweep_status,
)
from modspec.training import Parameters

TINY = dict(epochs=1, n_hidden=10, n_pairs=100)
CONFIG = RunConfig(0.07, seeds=1, architecture='standard', parameters=Parameters(**TINY))


def contents(folder):
    "Every file below a folder, with its bytes and its time"
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(Path(folder).rglob('*')) if path.is_file()}


def write_config(path='sweep.yaml', sparsities=(0.01, 1.), **settings):
    "A sweep's file"
    values = dict(sparsities=list(sparsities), seeds=1, architecture='standard', parameters=TINY) | settings
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False))
    return Path(path)


def one_run(p, path='sweep.yaml'):
    "The run of one sparsity, of a sweep with one seed"
    return load_config(path).runs()[f'p={p!r},seeds=0-0']


def computed(config, out):
    "What `run_notebook` leaves, without a kernel"
    experiment.run(config, out)
    (out / 'notebook.ipynb').write_text('{}')
    seal(out, config)


def swept(config, results):
    "What `run_sweep` leaves, without Snakemake"
    for name, run in load_config(config).runs().items(): computed(run, results / 'runs' / name)
    return collect_sweep(config, results)


@pytest.fixture
def no_kernel(monkeypatch):
    "Fails if a kernel or Snakemake is started"
    def forbidden(*_, **__): raise AssertionError('something was started')
    monkeypatch.setattr(sweep, 'execute', forbidden)
    for name in ('run', 'Popen'): monkeypatch.setattr(sweep.subprocess, name, forbidden)


# configurations

def test_load_config(tmp_path):
    path = write_config(tmp_path / 'sweep.yaml', [1e-2, 0.5, 1], dataset='mnist', seeds=7)
    same, expected = ('mnist', 7, 'standard', Parameters(**TINY)), (0.01, 0.5, 1.)
    assert load_config(path) == load_config(str(path)) == SweepConfig(expected, *same)
    packs = [(5, 0, '0-4'), (2, 5, '5-6')]
    assert load_config(path).runs() == {
        f'p={p!r},seeds={words}': RunConfig(p, 'mnist', n, 'standard', Parameters(**TINY), first)
        for p in expected for n, first, words in packs}


def names(path, *sparsities, **settings):
    "Names of a sweep's runs, in order"
    return list(load_config(write_config(path, sparsities, **settings)).runs())


def test_packs_of_seeds(tmp_path):
    "begin at multiples of their size, so that a pack that is whole stays when there are more seeds"
    path = tmp_path / 'sweep.yaml'
    five, eight, ten = (names(path, 0.01, seeds=n) for n in (5, 8, 10))
    assert five == ['p=0.01,seeds=0-4'] and eight == [*five, 'p=0.01,seeds=5-7'] and ten == [*five, 'p=0.01,seeds=5-9']
    assert names(path, 0.01, seeds=5, seeds_per_run=2) == [f'p=0.01,seeds={s}' for s in ('0-1', '2-3', '4-4')]
    assert names(path, 0.01, seeds=3, seeds_per_run=100) == ['p=0.01,seeds=0-2']


def test_packs_of_sparsities(tmp_path):
    "stand side by side in the list; every network is in one run"
    path = tmp_path / 'sweep.yaml'
    assert names(path, 0.01, 0.1, 1, sparsities_per_run=2) == ['p=0.01-0.1,seeds=0-0', 'p=1.0,seeds=0-0']
    found = load_config(write_config(path, [0.01, 0.1, 0.3, 1], seeds=3, sparsities_per_run=3, seeds_per_run=2))
    networks = [network for run in found.runs().values() for network in run.networks]
    assert sorted(networks) == sorted((seed, p) for seed in range(3) for p in (0.01, 0.1, 0.3, 1.))


def test_variations(tmp_path):
    "change the parameters of the sweep; the baseline comes first, under the names of a sweep without variations"
    changes = {'still': {'walk': 0}, 'big_4': {'n_hidden': 40, 'epochs': 3}}
    found = load_config(write_config(tmp_path / 'sweep.yaml', [0.01, 1], variations=changes))
    plain = names(tmp_path / 'plain.yaml', 0.01, 1)
    assert list(found.runs()) == plain + [f'{name},still' for name in plain] + [f'{name},big_4' for name in plain]
    assert found.runs()['p=1.0,seeds=0-0'].parameters == Parameters(**TINY)
    assert found.runs()['p=1.0,seeds=0-0,still'].parameters == Parameters(**TINY, walk=0)
    assert found.runs()['p=1.0,seeds=0-0,big_4'].parameters == Parameters(**TINY | dict(n_hidden=40, epochs=3))
    assert [variation for variation, _ in found.packs()] == ['baseline'] * 2 + ['still'] * 2 + ['big_4'] * 2


def test_what_results_mean(tmp_path):
    "is what their manifest says: five settings, variations if there are any, and nothing of how networks were packed"
    path = tmp_path / 'sweep.yaml'
    plain, varied = (load_config(write_config(path, seeds_per_run=2, sparsities_per_run=2, **more))
                     for more in ({}, {'variations': {'still': {'walk': 0}}}))
    settings = ['sparsities', 'dataset', 'seeds', 'architecture', 'parameters']
    assert list(meaning(plain)) == settings and list(meaning(varied)) == [*settings, 'variations']
    assert meaning(plain) == meaning(load_config(write_config(path))) and meaning(plain)['sparsities'] == [0.01, 1.]
    assert meaning(varied)['variations'] == {'still': {'walk': 0}}


@pytest.mark.parametrize('name', ['smoke', 'quick', 'mnist'])
def test_committed_configurations(name):
    "The quick one has at least 6 sparsities from 1/N^2 to 1, 5 seeds, both architectures, and the paper's parameters"
    found = load_config(repository() / 'config' / f'{name}.yaml')
    assert min(found.sparsities) == 1e-4 and max(found.sparsities) == 1 and found.architecture == 'both'
    assert found.dataset == ('mnist' if name == 'mnist' else 'digits')
    if name == 'smoke': return
    assert len(found.sparsities) >= 6 and found.seeds == 5
    assert replace(found.parameters, precision='fp32') == Parameters()


def test_the_papers_configuration():
    found = load_config(repository() / 'config' / 'paper.yaml')
    counts = RunConfig(found.sparsities).n_connections
    assert (min(counts), max(counts)) == (1, 10_000) and len(counts) >= 20 and found.seeds >= 10
    steps = np.diff(np.log(counts[10:]))  # below, whole numbers of connections leave no choice
    assert steps.max() / steps.min() < 1.05
    assert (found.dataset, found.architecture, found.parameters) == ('mnist', 'both', Parameters(precision='auto'))


@pytest.mark.parametrize('rest', ['', 'parameters:', 'parameters: {}'])
def test_defaults_are_the_papers(tmp_path, rest):
    (tmp_path / 'sweep.yaml').write_text(f'sparsities: [0.1]\n{rest}')
    assert load_config(tmp_path / 'sweep.yaml') == SweepConfig((0.1,), 'digits', 5, 'both', Parameters())


REFUSED = {  # text of the file: what the message says
    # not YAML
    'sparsities: [0.1\nseeds: }': 'is no YAML file', '\tseeds: 1': 'is no YAML file', 'a: b: c': 'is no YAML file',
    'sparsities: [0.1]\nseeds: !!python/object/apply:os.system ["touch pwned"]': 'is no YAML file.*python/object',
    'sparsities: !!python/tuple [0.1]': 'is no YAML file.*python/tuple',
    # not a mapping
    '': 'must be a mapping.*None', '- 0.1\n- 0.2': r'must be a mapping.*\[0.1, 0.2\]', '[]': r'must be a mapping.*\[\]',
    'sparsities': "must be a mapping.*'sparsities'", '5': 'must be a mapping.*5',
    'sparsities: [0.1]\nparameters: [1]': r'parameters must be a mapping.*\[1\]',
    'sparsities: [0.1]\nparameters: 5': 'parameters must be a mapping.*5',
    # names
    'sparsities: [0.1]\nseed: 3': "unknown setting 'seed'; did you mean 'seeds'\\?$",
    'sparsity: [0.1]': "unknown setting 'sparsity'; did you mean 'sparsities'\\?$",
    'sparsities: [0.1]\n1: 2': 'unknown setting 1; known are sparsities, dataset, seeds',
    'sparsities: [0.1]\nparameters: {epoch: 3}': "unknown parameter 'epoch'; did you mean 'epochs'\\?$",
    # sparsities
    'seeds: 3': 'sparsities must be a list of numbers, got None',
    'sparsities: []': r'must be a list of numbers, got \[\]',
    'sparsities: 0.1': 'must be a list of numbers, got 0.1', 'sparsities: {a: 1}': 'must be a list of numbers',
    'sparsities: [0]': r'sparsity must be a number in \[1/N\^2, 1\] = \[0.0001, 1\], got 0$',
    'sparsities: [0.1, 1.5]': r'\[0.0001, 1\], got 1.5$', 'sparsities: [.nan]': r'\[0.0001, 1\], got nan$',
    'sparsities: [.inf]': 'got inf$', 'sparsities: [true]': 'got True$', 'sparsities: [[0.1]]': r'got \[0.1\]$',
    'sparsities: [null]': 'got None$', 'sparsities: [1e-4]': "got '1e-4'; in YAML write 1.0e-4, not 1e-4$",
    'sparsities: [a lot]': "got 'a lot'$",
    'sparsities: [0.01, 0.010001]': r'distinct numbers of connections, got \[100, 100\]$',
    'sparsities: [0.01, 0.5, 0.01]': r'distinct numbers of connections, got \[100, 5000, 100\]$',
    'sparsities: [1, 1.0]': r'distinct numbers of connections, got \[10000, 10000\]$',
    # packs and variations
    'sparsities: [0.1]\nseeds_per_run: 0': r'seeds_per_run must be a whole number in \[1, 10000\], got 0$',
    'sparsities: [0.1]\nseeds_per_run: 2.0': 'seeds_per_run must be .* got 2.0$',
    'sparsities: [0.1]\nsparsities_per_run: x': "sparsities_per_run must be .* got 'x'$",
    'sparsities: [0.01, 0.5, 0.01]\nsparsities_per_run: 2': r'distinct numbers of connections, got \[100, 5000, 100\]$',
    'sparsities: [0.1]\nvariations: [a]': r"variations must be a mapping from names to changes, got \['a'\]$",
    'sparsities: [0.1]\nvariations: {baseline: {walk: 0}}': "letters, digits and _, and not baseline, got 'baseline'$",
    'sparsities: [0.1]\nvariations: {a/b: {walk: 0}}': "a variation must be named by letters.* got 'a/b'$",
    "sparsities: [0.1]\nvariations: {'': {walk: 0}}": "a variation must be named by letters.* got ''$",
    'sparsities: [0.1]\nvariations: {1: {walk: 0}}': 'a variation must be named by letters.* got 1$',
    'sparsities: [0.1]\nvariations: {still: }': 'variation still: parameters must be a mapping.*None',
    'sparsities: [0.1]\nvariations: {still: {wlk: 0}}': "variation still: unknown parameter 'wlk'; did you mean 'walk'",
    'sparsities: [0.1]\nvariations: {still: {walk: -1}}': r'variation still: walk must be a number in .*, got -1$',
    'sparsities: [1.0e-4]\nvariations: {small: {n_hidden: 10}}': r'sparsity must be .* = \[0.01, 1\], got 0.0001$',
    'sparsities: [0.1, 0.101]\nvariations: {small: {n_hidden: 10}}': r'distinct numbers of .*, got \[10, 10\]$',
    # the rest
    'sparsities: [0.1]\nseeds: 0': r'seeds must be a whole number in \[1, 10000\], got 0$',
    'sparsities: [0.1]\nseeds: -2': 'seeds must be .* got -2$',
    'sparsities: [0.1]\nseeds: true': 'seeds must be .* got True$',
    'sparsities: [0.1]\nseeds: 2.0': 'seeds must be .* got 2.0$',
    'sparsities: [0.1]\nseeds:': 'seeds must be .* got None$',
    'sparsities: [0.1]\ndataset: cifar': r"dataset must be one of \['digits', 'mnist'\], got 'cifar'$",
    'sparsities: [0.1]\ndataset: [digits]': r"dataset must be one of .*got \['digits'\]$",
    'sparsities: [0.1]\narchitecture: dense': "architecture must be one of .*'both'\\], got 'dense'$",
    'sparsities: [0.1]\narchitecture: {}': 'architecture must be one of .*got {}$',
    'sparsities: [0.1]\nparameters: {task: []}': r'task must be one of .*got \[\]$',
    'sparsities: [0.1]\nparameters: {epochs: 0}': r'epochs must be a whole number in \[1, 10000\], got 0$',
    'sparsities: [0.1]\nparameters: {batch_size: true}': 'batch_size must be a whole number in .*got True$',
    'sparsities: [0.1]\nparameters: {lr: 1e-2}': "lr must be a number .*got '1e-2'; in YAML write 1.0e-2, not 1e-2$",
    'sparsities: [0.1]\nparameters: {lr: .nan}': 'lr must be a number in .*got nan$',
}


@pytest.mark.provokes('illegal values')
@pytest.mark.parametrize('text', REFUSED)
def test_configuration_is_refused(tmp_path, monkeypatch, text):
    "in one line that begins with the file's name, says what it holds and what is legal"
    monkeypatch.chdir(tmp_path)
    Path('sweep.yaml').write_text(text)
    with pytest.raises(ValueError, match=REFUSED[text]) as error: load_config('sweep.yaml')
    assert str(error.value).startswith('sweep.yaml') and len(str(error.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['sweep.yaml']


def test_find_run(tmp_path):
    path = write_config(tmp_path / 'sweep.yaml', seeds=7, variations={'still': {'walk': 0}})
    expected = RunConfig(0.01, seeds=2, first_seed=5, architecture='standard', parameters=Parameters(**TINY, walk=0))
    assert find_run(path, 'p=0.01,seeds=5-6,still') == expected
    with pytest.raises(ValueError, match="sweep.yaml: 'p=0.01,seeds=5-7'; did you mean 'p=0.01,seeds=5-6'"):
        find_run(path, 'p=0.01,seeds=5-7')


def test_configuration_that_cannot_be_read(tmp_path):
    (tmp_path / 'folder.yaml').mkdir()
    (tmp_path / 'bytes.yaml').write_bytes(b'\xff\xfe\x00')
    messages = {'none.yaml': 'No such file', 'folder.yaml': 'Is a directory', 'bytes.yaml': 'is no YAML file'}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f'{name}.*{message}'): load_config(tmp_path / name)


# what is refused before a kernel starts

def refused(action, message, *, error=ValueError, unchanged):
    "An action that must fail and change nothing"
    before = contents(unchanged), sorted(unchanged.rglob('*'))
    with pytest.raises(error, match=message) as caught: action()
    assert (contents(unchanged), sorted(unchanged.rglob('*'))) == before and '\n' not in str(caught.value)


@pytest.mark.provokes('illegal values')
@pytest.mark.usefixtures('no_kernel')
def test_run_notebook_refuses(tmp_path, monkeypatch):
    "before a kernel starts, and leaves not even an empty folder"
    monkeypatch.setenv('MODSPEC_DATA', str(tmp_path / 'nowhere'))
    mnist, out = replace(CONFIG, dataset='mnist'), tmp_path / 'deep' / 'out'
    check = partial(refused, unchanged=tmp_path)
    check(lambda: run_notebook(CONFIG, out, device='gpu'), 'device must be one of')
    check(lambda: run_notebook(CONFIG, out, threads=0), r'threads must be a whole number in \[1, \d+\], got 0')
    check(lambda: run_notebook(mnist, out), 'nowhere/MNIST/raw/.* is missing; point MODSPEC_DATA at')
    (tmp_path / 'file').write_text('mine')
    check(lambda: run_notebook(CONFIG, tmp_path / 'file' / 'out'), 'cannot be written to .Not a directory.')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('mine')
    check(lambda: run_notebook(CONFIG, tmp_path / 'mine'), "no folder of a run, it holds 'thesis.tex'")
    computed(CONFIG, tmp_path / 'done')
    check(lambda: run_notebook(replace(CONFIG, seeds=2), tmp_path / 'done'), 'holds another run .seeds: 1, asked 2.')
    before = contents(tmp_path)
    assert run_notebook(CONFIG, tmp_path / 'done') == tmp_path / 'done' and contents(tmp_path) == before
    (tmp_path / 'done' / 'notebook.ipynb').unlink()
    check(lambda: run_notebook(CONFIG, tmp_path / 'done'), 'notebook.ipynb has SHA-256 no file.*run again')


@pytest.mark.provokes('illegal values')
@pytest.mark.usefixtures('no_kernel')
def test_run_sweep_refuses(there, monkeypatch):
    "before Snakemake starts"
    monkeypatch.setenv('MODSPEC_DATA', str(there / 'nowhere'))
    check = partial(refused, unchanged=there)
    write_config(Path('mnist.yaml'), dataset='mnist'), Path('file').write_text('mine')
    check(lambda: run_sweep('mnist.yaml', 'results'), 'nowhere/MNIST/raw/.* is missing; point MODSPEC_DATA at')
    check(lambda: run_sweep('none.yaml', 'results'), 'none.yaml cannot be read')
    write_config(Path('sweep.yaml'))
    check(lambda: run_sweep('sweep.yaml', 'file/results'), 'cannot be written to')
    swept('sweep.yaml', there / 'done')
    write_config(Path('other.yaml'), architecture='both')
    check(lambda: run_sweep('other.yaml', 'done'), "holds .*'standard', asked 'both'.; choose another with --out")
    (there / 'done' / 'runs' / 'p=1.0,seeds=0-0' / 'metrics.parquet').write_bytes(b'')
    check(lambda: run_sweep('sweep.yaml', 'done'), 'p=1.0,seeds=0-0/metrics.parquet has SHA-256 .*run again')


@pytest.mark.provokes('two sweeps')
@pytest.mark.usefixtures('no_kernel')
def test_run_sweep_leaves_other_results_alone(there):
    "A sweep that shares no run with the one in the folder, and the folder of a single run"
    write_config(Path('sweep.yaml')), swept('sweep.yaml', there / 'done')
    write_config(Path('other.yaml'), [0.3], dataset='mnist'), computed(CONFIG, there / 'one')
    refused(lambda: run_sweep('other.yaml', 'done'), "holds .*'digits', asked 'mnist'.*choose another", unchanged=there)
    for action in run_sweep, collect_sweep:
        refused(lambda action=action: action('sweep.yaml', 'one'), 'one.*choose another with --out', unchanged=there)


# one run

def test_notebook_parameters_say_what_differs():
    same = dict(sparsity=0.07, dataset='digits', seeds=1, first_seed=0, architecture='standard', device='cpu',
                threads=1, out='out')
    assert notebook_parameters(CONFIG, Path('out'), 'cpu', 1) == same | {'parameters': TINY}
    paper = replace(CONFIG, parameters=Parameters())
    assert notebook_parameters(paper, Path('out'), 'cpu', 1) == same | {'parameters': {}}
    several = same | dict(sparsity=[0.1, 1.], first_seed=5, parameters={})
    assert notebook_parameters(replace(paper, sparsity=(0.1, 1.), first_seed=5), Path('out'), 'cpu', 1) == several


@pytest.mark.provokes('parameters tag')
def test_seal(tmp_path):
    "takes the notebook into the manifest, of the right run only"
    experiment.run(CONFIG, tmp_path)
    (tmp_path / 'notebook.ipynb').write_text('{}')
    before = read_manifest(tmp_path)
    other = replace(CONFIG, sparsity=0.5)
    refused(lambda: seal(tmp_path, other), 'the notebook computed .*0.07.*0.5.* tagged', unchanged=tmp_path)
    seal(tmp_path, CONFIG)
    after = read_manifest(tmp_path)
    assert after['files'].keys() == set(RUN_FILES) - {'manifest.json'}
    changed = {'files', 'sha256'}  # the second is the manifest's own checksum
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


@pytest.mark.parametrize('link', [False, True])
def test_run_notebook_puts_a_run_in_its_place(tmp_path, monkeypatch, link):
    "over the rest of an interrupted one, and also where a link points; the kernel's part is played by ourselves"
    def played(notebook, target, values):
        assert json.loads(json.dumps(values)) == values and Path(os.environ['MODSPEC_PROGRESS']).parent == tmp_path
        experiment.run(CONFIG, values['out'])
        target.write_text('{}')
    monkeypatch.setattr(sweep, 'execute', played)
    folder = tmp_path / 'real'
    (folder if link else tmp_path / 'out').mkdir()
    if link: (tmp_path / 'out').symlink_to(folder)
    (tmp_path / 'out' / 'metrics.parquet').write_text('half')
    (tmp_path / 'out.failed').mkdir()
    run_notebook(CONFIG, tmp_path / 'out')
    assert read_manifest(tmp_path / 'out')['files'].keys() == set(RUN_FILES) - {'manifest.json'}
    assert is_finished(tmp_path / 'out', CONFIG) and 'MODSPEC_PROGRESS' not in os.environ
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'out.failed') == ['out', 'real'] if link else ['out']


@pytest.mark.provokes('killed sweep')
def test_killed_attempts_are_removed(tmp_path):
    "those of this run whose process is gone; nothing of a process that lives, nor of anybody else"
    out, others = tmp_path / 'out', [tmp_path / name for name in ('.out.mine', '.out2.attempt-1', '.outattempt-1')]
    for folder in (*others, tmp_path / '.out.attempt-1'): (folder / 'deep').mkdir(parents=True)
    theirs = tmp_path / '.out.attempt-2'
    theirs.mkdir()
    lock = ('import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)\n'
            'print(flush=True), input()')
    living = subprocess.Popen([sys.executable, '-c', lock, theirs], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    living.stdout.readline()
    with sweep.attempt(out) as mine: assert set(tmp_path.iterdir()) == {*others, theirs, mine}
    living.kill(), living.communicate()
    assert theirs.exists()
    with sweep.attempt(out): pass
    assert set(tmp_path.iterdir()) == {*others}


@pytest.mark.provokes('killed sweep')
def test_what_a_killed_run_said_is_forgotten(tmp_path, bars):
    path = tmp_path / '.out.progress.json'
    path.write_text(json.dumps(dict(n=9, total=10, text='before')))
    (tmp_path / f'.{path.name}.123.tmp').write_text('{"n"')
    with shown_progress(path): assert list(tmp_path.iterdir()) == []
    assert bars[0].desc != 'before'


def test_run_of_another_configuration_is_refused(tmp_path, monkeypatch):
    "A notebook that ignored its parameters: nothing gets the name of the run that was asked for"
    def deaf(notebook, target, values):
        experiment.run(CONFIG, values['out'])
        target.write_text('{}')
    monkeypatch.setattr(sweep, 'execute', deaf)
    with pytest.raises(RunFailed, match='p=0.5 failed, the notebook computed .*is its parameters cell tagged'):
        run_notebook(replace(CONFIG, sparsity=0.5), tmp_path / 'out')
    assert not (tmp_path / 'out' / 'manifest.json').exists() and (tmp_path / 'out.failed' / 'notebook.ipynb').exists()


@pytest.mark.provokes('killed kernel')
def test_kernel_that_dies(tmp_path, checkout):
    "is a failed run, although its notebook holds no error"
    checkout('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)')
    with pytest.raises(RunFailed, match='p=0.07 failed, the kernel died.*out.failed/notebook.ipynb'):
        run_notebook(CONFIG, tmp_path / 'out')
    assert (tmp_path / 'out.failed' / 'notebook.ipynb').exists() and not (tmp_path / 'out' / 'manifest.json').exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'out') == ['checkout', 'out.failed']


@pytest.mark.provokes('two sweeps')
def test_kernels_of_parallel_runs_share_no_socket(there):
    "whatever folder they are started in"
    notebook = nbformat.read(repository() / 'nbs' / 'runs' / 'sparsity.ipynb', 4)
    look = nbformat.v4.new_code_cell('from ipykernel.connect import get_connection_info\nprint(get_connection_info())')
    notebook.cells = [cell for cell in notebook.cells if cell.metadata.get('tags') == ['parameters']] + [look]
    nbformat.write(notebook, 'notebook.ipynb')
    for name in ('a.ipynb', 'b.ipynb'): execute(Path('notebook.ipynb'), there / name, {})
    places = [json.loads(nbformat.read(there / name, 4).cells[-1].outputs[0].text) for name in ('a.ipynb', 'b.ipynb')]
    assert {place['transport'] for place in places} == {'ipc'} and places[0]['ip'] != places[1]['ip']
    for place in places:
        folder = Path(place['ip']).parent
        assert folder.is_absolute() and folder.name.startswith('modspec-') and not folder.exists()
    assert {path.name for path in there.iterdir()} == {'notebook.ipynb', 'a.ipynb', 'b.ipynb'}


@pytest.mark.provokes('parameters tag')
def test_misspelt_parameter_is_refused(tmp_path):
    "where papermill would only warn"
    for notebook in ('runs/sparsity', 'figures/accuracy'):
        with pytest.raises(ValueError, match=f"{Path(notebook).name}.ipynb: 'outt'; did you mean 'out'"):
            execute(repository() / 'nbs' / f'{notebook}.ipynb', tmp_path / 'out.ipynb', {'outt': str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.resources, 'files', lambda name: tmp_path / name)
    with pytest.raises(ResultError, match='is no checkout of modspec; clone the repository and install'): repository()


# tables

def test_collect_sweep(there):
    write_config(Path('sweep.yaml'))
    results = swept('sweep.yaml', there / 'results')
    config = load_config('sweep.yaml')
    manifest = read_manifest(results)
    assert manifest['files'].keys() == set(TABLES) and manifest['config'] == meaning(config)
    assert list(manifest['runs']) == ['p=0.01,seeds=0-0', 'p=1.0,seeds=0-0'] and manifest['package'] == package_hash()
    assert all(run.keys() == {'device', 'threads', 'versions', 'seconds'} for run in manifest['runs'].values())
    for name in ('metrics', 'history'):
        expected = collect([results / 'runs' / run for run in config.runs()], name)
        pd.testing.assert_frame_equal(read_table(results, name), expected)
    assert set(read_table(results)['sparsity']) == {0.01, 1.}


def test_collect_sweep_refuses_an_incomplete_sweep(there):
    "and leaves the tables that are there as they are"
    write_config(Path('sweep.yaml')), write_config(Path('other.yaml'), dataset='mnist')
    write_config(Path('more.yaml'), [0.01, 0.3, 1]), write_config(Path('seeds.yaml'), seeds=2)
    results = swept('sweep.yaml', there / 'results')
    check, run = partial(refused, error=ResultError, unchanged=there), results / 'runs' / 'p=1.0,seeds=0-0'
    check(lambda: collect_sweep('other.yaml', results), "holds other results .dataset: 'digits', asked 'mnist'.")
    check(lambda: collect_sweep('more.yaml', results), 'p=0.3,seeds=0-0 holds no finished run')
    check(lambda: collect_sweep('seeds.yaml', results), 'p=0.01,seeds=0-1 holds no finished run')
    content = (run / 'history.parquet').read_bytes()
    (run / 'history.parquet').write_bytes(content[:-1] + b'?')
    check(lambda: collect_sweep('sweep.yaml', results), 'p=1.0,seeds=0-0/history.parquet has SHA-256')
    (run / 'history.parquet').unlink()
    check(lambda: collect_sweep('sweep.yaml', results), 'p=1.0,seeds=0-0/history.parquet has SHA-256 no file')
    (run / 'history.parquet').write_bytes(content)
    (run / 'manifest.json').write_text(as_text(read_manifest(run) | dict(package='older')))
    check(lambda: collect_sweep('sweep.yaml', results), 'come from 2 versions of the code')
    (run / 'manifest.json').unlink()
    check(lambda: collect_sweep('sweep.yaml', results), 'p=1.0,seeds=0-0 holds no finished run: manifest.json is')


def test_collected_sweep_is_recognized(there):
    "by what its results mean: packed otherwise, or collected before packs, variations and later parameters existed"
    write_config(Path('sweep.yaml')), write_config(Path('packed.yaml'), seeds_per_run=1, sparsities_per_run=2)
    results = swept('sweep.yaml', there / 'results')
    wanted, packed = load_config('sweep.yaml'), load_config('packed.yaml')
    assert is_collected(results, wanted) and is_collected(results, packed)
    manifest = read_manifest(results)
    assert manifest['config'].keys() == {'sparsities', 'dataset', 'seeds', 'architecture', 'parameters'}
    del manifest['config']['parameters']['walk']
    (results / 'manifest.json').write_text(as_text(manifest))
    assert is_collected(results, wanted)
    for more in (dict(seeds=2), dict(sparsities=[0.01, 0.5, 1]), dict(variations={'still': {'walk': 0}})):
        assert not is_collected(results, load_config(write_config(Path('more.yaml'), **more)))  # an extension
    for other in (dict(architecture='both'), dict(dataset='mnist'), dict(parameters=TINY | {'walk': 0})):
        with pytest.raises(ResultError, match='holds other results'):
            is_collected(results, load_config(write_config(Path('other.yaml'), **other)))


@pytest.mark.provokes('order and processes')
@pytest.mark.parametrize('name', ['metrics', 'history'])
def test_tables_do_not_depend_on_packing(there, name):
    "The same rows in the same order, sorted by sparsity, architecture and seed"
    settings = dict(sparsities=[1, 0.01], seeds=2, architecture='both', parameters=TINY | dict(bottleneck_epochs=1))
    write_config(Path('one.yaml'), **settings, seeds_per_run=1)
    write_config(Path('all.yaml'), **settings, sparsities_per_run=2)
    apart, together = (read_table(swept(f'{path}.yaml', there / path), name) for path in ('one', 'all'))
    assert [len(load_config(path).runs()) for path in ('one.yaml', 'all.yaml')] == [4, 1]
    pd.testing.assert_frame_equal(apart, together, check_exact=False, rtol=1e-3, atol=1e-3)
    order = list(zip(apart['n_connections'], apart['architecture'], apart['seed']))
    assert order == sorted(order)


def test_tables_of_variations(there):
    "begin with a column that names them; the baseline is what a sweep without variations finds"
    varied = write_config(Path('sweep.yaml'), variations={'still': {'walk': 0}, 'fast': {'lr': 0.9}})
    results, unvaried = swept(varied, there / 'results'), swept(write_config(Path('plain.yaml')), there / 'plain')
    for name in ('metrics', 'history'):
        table, plain = read_table(results, name), read_table(unvaried, name)
        assert list(table)[0] == 'variation' and list(table['variation'].unique()) == ['baseline', 'still', 'fast']
        baseline = table[table['variation'] == 'baseline'].drop(columns='variation')
        pd.testing.assert_frame_equal(baseline, plain)
        if name == 'metrics': assert set(table.loc[table['variation'] == 'fast', 'value']) != set(plain['value'])
    assert read_manifest('results')['config']['variations'] == {'still': {'walk': 0}, 'fast': {'lr': 0.9}}
    assert len(read_manifest('results')['runs']) == 6


def test_figures_do_not_mix_variations(there, no_kernel):
    write_config(Path('sweep.yaml'), variations={'no_walk': {'walk': 0}})
    results = swept('sweep.yaml', there / 'results')
    refused(lambda: draw_figures(results), "holds variations, which the paper's figures would mix", unchanged=there)
    answer = CliRunner().invoke(app, ['reproduce', 'sweep.yaml', '--out', 'elsewhere'])
    assert answer.exit_code == 2 and 'use: modspec sweep sweep.yaml' in answer.output and not Path('elsewhere').exists()


def test_device_of_a_sweep(there):
    "reaches its runs; one that this machine lacks is refused before any work, unless others compute"
    write_config(Path('sweep.yaml'))
    assert 'device=cuda:7' in sweep.snakemake_command('sweep.yaml', 'results', 1, device='cuda:7')
    message = "device must be one of .*got 'cuda:7'"
    refused(lambda: run_sweep('sweep.yaml', 'results', device='cuda:7'), message, unchanged=there)


def test_figures_want_whole_tables(there, no_kernel):
    write_config(Path('sweep.yaml'))
    results = swept('sweep.yaml', there / 'results')
    refused(lambda: draw_figures('nowhere'), 'nowhere holds no finished run', unchanged=there)
    (results / 'metrics.parquet').write_bytes(b'')
    refused(lambda: draw_figures(results), 'metrics.parquet has SHA-256', unchanged=there)


# sweeps, by Snakemake

def sweep_again(config, results):
    "`run_sweep`; then the files that it wrote, and those that it left alone"
    before = contents(results)
    run_sweep(config, results)
    after = contents(results)
    same = {name.as_posix() for name in before if after.get(name) == before[name]}
    return {name.as_posix() for name in after} - same - {'sweep.log'}, same


def test_finished_sweep_is_not_repeated(there):
    write_config(there / 'sweep.yaml')
    swept('sweep.yaml', there / 'results')
    assert sweep_again('sweep.yaml', 'results')[0] == set()


def test_another_list_of_sparsities(there):
    """One is new, one is gone, one stays: only the new one is computed, and the tables hold what the file says.

    Snakemake remembers nothing of the first sweep, and a killed one has left it locks.
    """
    write_config(there / 'before.yaml', [0.01, 0.3]), write_config(there / 'after.yaml', [0.01, 1.])
    results = swept(there / 'before.yaml', there / 'my results')
    lock = there / '.snakemake' / 'locks' / '0.output.lock'
    lock.parent.mkdir(parents=True), lock.write_text('my results/manifest.json\nmy results/metrics.parquet\n')
    written, same = sweep_again('after.yaml', 'my results')
    assert {f'runs/p=1.0,seeds=0-0/{name}' for name in RUN_FILES} | {*TABLES, 'manifest.json'} <= written
    assert same == {f'runs/{run}/{name}' for run in ('p=0.01,seeds=0-0', 'p=0.3,seeds=0-0') for name in RUN_FILES}
    assert set(read_table(results)['sparsity']) == {0.01, 1.}
    assert set(read_table(results, 'history')['n_connections']) == {1, 100}
    assert read_manifest(results)['config'] == meaning(load_config('after.yaml'))
    assert {path.name for path in (results / 'runs').iterdir()} == {f'p={p},seeds=0-0' for p in (0.01, 0.3, 1.)}


def test_run_that_was_deleted(there, monkeypatch):
    "is computed again, although the tables of the sweep are there; Snakemake is only asked what it would do"
    write_config(there / 'sweep.yaml')
    results = swept('sweep.yaml', there / 'results')
    command = sweep.snakemake_command
    monkeypatch.setattr(sweep, 'snakemake_command', lambda *args, **how: [*command(*args, **how), '--dry-run'])
    for name in RUN_FILES: (results / 'runs' / 'p=1.0,seeds=0-0' / name).unlink()
    run_sweep('sweep.yaml', 'results')
    plan = (results / 'sweep.log').read_text()
    assert 'wildcards: run=p=1.0,' in plan and 'wildcards: run=p=0.01,' not in plan and 'rule collect:' in plan


def test_failed_sweep_names_its_runs(there, monkeypatch):
    write_config(there / 'sweep.yaml')
    monkeypatch.setattr(sweep, 'snakemake_command', lambda *_, **__: [sys.executable, '-c', 'raise SystemExit(1)'])
    computed(one_run(0.01), there / 'results' / 'runs' / 'p=0.01,seeds=0-0')
    with pytest.raises(RunFailed, match=r'1 of 2 runs did not finish \(p=1.0,seeds=0-0\); see results/sweep.log'):
        run_sweep('sweep.yaml', 'results')


@pytest.mark.provokes('killed kernel')
def test_failed_run_does_not_stop_the_others(there, monkeypatch):
    """It is tried twice, keeps its notebook and is named at the end.

    A run that Snakemake starts is made to fail by a kernel of our own, which knows the run from its progress file.
    """
    kernel = there / 'jupyter' / 'kernels' / 'python3'
    kernel.mkdir(parents=True)
    argv = [sys.executable, str(kernel / 'kernel.py'), '-f', '{connection_file}']
    (kernel / 'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='python3', language='python')))
    (kernel / 'kernel.py').write_text(f"""
import os, pathlib, tempfile
from ipykernel.kernelapp import launch_new_instance
if 'p=0.01,' in os.environ['MODSPEC_PROGRESS']:
    tempfile.mkstemp(dir={str(kernel)!r}, suffix='.attempt')
    import modspec.experiment
    modspec.experiment.compute = None
launch_new_instance()
""")
    monkeypatch.setenv('JUPYTER_PATH', str(there / 'jupyter'))
    write_config(there / 'sweep.yaml')
    with pytest.raises(RunFailed, match=r'^1 of 2 runs did not finish \(p=0.01,seeds=0-0\); see results/sweep.log'):
        run_sweep('sweep.yaml', 'results', cores=2)
    assert len(list(kernel.glob('*.attempt'))) == 2
    runs = there / 'results' / 'runs'
    assert "'NoneType' object is not callable" in (runs / 'p=0.01,seeds=0-0.failed' / 'notebook.ipynb').read_text()
    assert is_finished(runs / 'p=1.0,seeds=0-0', one_run(1.)) and not (there / 'results' / 'manifest.json').exists()
    assert sweep_status('sweep.yaml', 'results')['state'].tolist() == ['failed', 'done']
    assert not list(runs.glob('.*'))


def until(true, seconds=300):
    "Wait for something that other processes do; how long it took"
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds, 'nothing happens'
        time.sleep(0.05)
    return time.monotonic() - begin


@pytest.mark.provokes('killed sweep')
def test_killed_sweep_goes_on(there):
    "Snakemake and its runs die in the middle; the same command ends with the tables of a sweep that nobody interrupted"
    write_config(there / 'sweep.yaml')
    done, killed = load_config('sweep.yaml').folders('results')
    computed(one_run(0.01), done)
    before = contents(done)
    command = [Path(sys.executable).with_name('modspec'), 'sweep', 'sweep.yaml', '--out', 'results', '--cores', '1']
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try: until(lambda: list(killed.parent.glob(f'.{killed.name}.attempt-*/notebook.ipynb')))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list(killed.parent.glob('.*')) and not (killed / 'manifest.json').exists()
    progress_file(killed).write_text(json.dumps(dict(n=9, total=10, text='what the dead run said')))
    run_sweep('sweep.yaml', 'results', cores=1)
    assert contents(done) == before and {path.name for path in killed.parent.iterdir()} == {done.name, killed.name}
    whole = swept('sweep.yaml', there / 'whole')
    for name in TABLES: assert (there / 'results' / name).read_bytes() == (whole / name).read_bytes()


def test_more_seeds_compute_what_is_missing(there):
    "Snakemake is only asked what it would do"
    swept(write_config(Path('sweep.yaml'), [0.01], seeds=4, seeds_per_run=2), there / 'results')
    plan = planned(write_config(Path('sweep.yaml'), [0.01], seeds=5, seeds_per_run=2), 'results')
    assert 'wildcards: run=p=0.01,seeds=4-4' in plan and 'rule collect:' in plan
    assert 'run=p=0.01,seeds=0-1' not in plan and 'run=p=0.01,seeds=2-3' not in plan


def test_smoke_sweep(smoke):
    "What a sweep leaves: complete runs of the configuration, tables of all of them, and nothing half done"
    config = load_config(smoke.config)
    for name, run in config.runs().items():
        folder = smoke.results / 'runs' / name
        assert {path.name for path in folder.iterdir()} == set(RUN_FILES) and is_finished(folder, run)
        assert read_manifest(folder)['files'].keys() == set(RUN_FILES) - {'manifest.json'}
    assert {path.name for path in (smoke.results / 'runs').iterdir()} == set(config.runs())
    assert set(read_table(smoke.results)['n_connections']) == {1, 10_000}
    rows_per_network = 2 * (1 + 2 + 4 + 2 + 4 + 2 + 4) + 2 * (1 + 2 + 4)
    assert len(read_table(smoke.results)) == 2 * config.seeds * rows_per_network
    read_manifest(smoke.results)


# plans and states

def test_planned_lists_what_is_missing_and_makes_nothing(there):
    write_config(there / 'sweep.yaml')
    plan = planned('sweep.yaml', 'results')
    assert 'wildcards: run=p=0.01,seeds=0-0' in plan and 'wildcards: run=p=1.0,seeds=0-0' in plan
    assert not (there / 'results').exists()
    computed(one_run(0.01), there / 'results' / 'runs' / 'p=0.01,seeds=0-0')
    plan = planned('sweep.yaml', 'results')
    assert 'wildcards: run=p=0.01,seeds=0-0' not in plan and 'wildcards: run=p=1.0,seeds=0-0' in plan
    with pytest.raises(ValueError, match='Snakemake refuses: .*no-such-profile'):
        planned('sweep.yaml', 'results', profile='no-such-profile')


def test_plan_is_what_the_sweep_would_do(there):
    "Tables that are there hide neither a run that was deleted nor a changed configuration"
    write_config(there / 'sweep.yaml')
    results = swept('sweep.yaml', there / 'results')
    assert 'Nothing to be done' in planned('sweep.yaml', 'results')
    before = contents(results)
    for name in RUN_FILES: (results / 'runs' / 'p=1.0,seeds=0-0' / name).rename(there / name)
    plan = planned('sweep.yaml', 'results')
    assert 'wildcards: run=p=1.0,' in plan and 'wildcards: run=p=0.01,' not in plan and 'rule collect:' in plan
    for name in RUN_FILES: (there / name).rename(results / 'runs' / 'p=1.0,seeds=0-0' / name)
    write_config(there / 'sweep.yaml', architecture='both')
    with pytest.raises(ResultError, match="'standard', asked 'both'"): planned('sweep.yaml', 'results')
    assert contents(results) == before


def test_slurm_profile_sends_jobs_to_slurm():
    profile = repository() / 'workflow' / 'profiles' / 'slurm'
    assert yaml.safe_load((profile / 'config.yaml').read_text())['executor'] == 'slurm'
    command = sweep.snakemake_command('sweep.yaml', 'results', 2, profile=profile)
    assert command[command.index('--profile') + 1] == str(profile)


def test_status(there):
    sparsities = [0.01, 0.1, 0.3, 0.5, 1.]
    write_config(there / 'sweep.yaml', sparsities)
    runs = {p: Path('results', 'runs', f'p={p!r},seeds=0-0') for p in sparsities}
    assert set(sweep_status('sweep.yaml', 'results')['state']) == {'missing'}
    computed(one_run(0.01), runs[0.01])
    computed(one_run(0.1), runs[0.3])  # of another sparsity
    for p in (0.5, 1.): progress_file(runs[p]).write_text(json.dumps(dict(n=1, total=4, text='training')))
    long_ago = progress_file(runs[1.]).stat().st_mtime - 3600
    os.utime(progress_file(runs[1.]), (long_ago, long_ago))  # of a run that was killed
    runs[1.].with_name(f'{runs[1.].name}.failed').mkdir()
    status = sweep_status('sweep.yaml', 'results')
    assert status['state'].tolist() == ['done', 'missing', 'other', 'running', 'failed']
    assert status['progress'].tolist() == [1, 0, 0, .25, 0]
    assert status['sparsity'].tolist() == ['0.01', '0.1', '0.3', '0.5', '1'] and set(status['seeds']) == {'0-0'}
    assert list(status) == ['sparsity', 'seeds', 'state', 'progress', 'seconds']
    assert run_state(runs[0.01], one_run(0.01))['seconds'] == status['seconds'][0] > 0


def test_status_has_a_row_per_run(there):
    write_config(there / 'sweep.yaml', [0.01, 0.1, 1], seeds=7, sparsities_per_run=2, variations={'still': {'walk': 0}})
    status = sweep_status('sweep.yaml', 'results')
    rows = [(p, seeds) for p in ('0.01…0.1', '1') for seeds in ('0-4', '5-6')] * 2
    assert list(zip(status['sparsity'], status['seeds'])) == rows
    assert status['variation'].tolist() == ['baseline'] * 4 + ['still'] * 4


def test_seconds_left():
    status = pd.DataFrame(dict(state=['done', 'running', 'running', 'missing'], progress=[1, .5, .5, 0],
                               seconds=[10., None, None, None]))
    assert seconds_left(status) == 10  # two more runs' worth of work, two at once
    assert seconds_left(status[1:]) is None
    assert seconds_left(status[:1]) == 0


# progress

@pytest.fixture
def bars(monkeypatch):
    "The progress bars that are made, shown although nobody looks"
    made = []
    class Bar(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | dict(disable=False, file=StringIO()))
            made.append(self)
    monkeypatch.setattr(sweep, 'tqdm', Bar)
    monkeypatch.setattr(sweep, 'watched', lambda: True)
    return made


def test_read_progress(tmp_path):
    "Nothing yet, or half a file, is no error"
    path = progress_file(tmp_path / 'p=0.1')
    assert path.parent == tmp_path and read_progress(path) == dict(n=0, total=1, text='starting')
    path.write_text('{"n": 3')
    assert read_progress(path) == dict(n=0, total=1, text='starting')
    with experiment.ProgressFile(path, 10) as bar:
        bar.update(4)
        bar.set_description('training')
        assert read_progress(path) == dict(n=4, total=10, text='training')


def test_sweep_progress_counts_finished_and_running_runs(tmp_path, bars):
    finished, running, waiting, ended = folders = [tmp_path / name for name in ('a', 'b', 'c', 'd')]
    for folder in (finished, ended): folder.mkdir()
    (finished / 'manifest.json').touch()
    with sweep_progress(folders, 'title'):
        assert bars[0].total == 4 and bars[0].n == 1
        progress_file(running).write_text(json.dumps(dict(n=5, total=10, text='half')))
        (ended / 'manifest.json').touch()
        progress_file(ended).write_text(json.dumps(dict(n=9, total=10, text='ended')))
    assert bars[0].n == 2.5 and bars[0].postfix == 'half'


def test_shown_progress(tmp_path, bars):
    "shows what the run says, tells it where to say it, and cleans up even if the run fails"
    path = tmp_path / '.out.progress.json'
    with shown_progress(path):
        assert os.environ['MODSPEC_PROGRESS'] == str(path)
        path.write_text(json.dumps(dict(n=5, total=10, text='half')))
    assert 'MODSPEC_PROGRESS' not in os.environ and list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), shown_progress(path):
        path.write_text('')
        raise KeyError
    assert 'MODSPEC_PROGRESS' not in os.environ and list(tmp_path.iterdir()) == []
    assert all(bar.n == bar.total or bar.n == 0 for bar in bars)


def test_progress_is_shown_while_it_lasts(tmp_path, bars):
    "The bar follows the file"
    path = tmp_path / '.out.progress.json'
    with shown_progress(path):
        path.write_text(json.dumps(dict(n=5, total=10, text='half')))
        while bars[0].n != 5: pass
        assert bars[0].total == 10 and 'half' in bars[0].desc


def test_a_log_gets_a_line_per_finished_run(tmp_path, capfd):
    folders = [tmp_path / name for name in 'abc']
    for folder in folders: folder.mkdir()
    (folders[0] / 'manifest.json').touch()
    with sweep_progress(folders, 'mine'):
        assert capfd.readouterr().err == ''
        (folders[1] / 'manifest.json').touch()
    assert capfd.readouterr().err == 'mine: 2 of 3 runs done, 67% after 0 min\n'


def test_a_log_gets_a_line_from_time_to_time(tmp_path, capfd, monkeypatch):
    "also while no run ends, and of one run; nothing else is written"
    monkeypatch.setattr(sweep.LogLines, 'every', 0.)
    path = progress_file(tmp_path / 'a')
    said = ''
    with shown_progress(path):
        path.write_text(json.dumps(dict(n=5, total=10, text='half')))
        while '\n' not in said: said += capfd.readouterr().err
    said += capfd.readouterr().err  # all that was written until the end
    assert set(said.splitlines()) <= {'starting, 0% after 0 min', 'half, 50% after 0 min'} and said.endswith('\n')
    path.write_text(json.dumps(dict(n=5, total=10, text='half')))
    with sweep_progress([tmp_path / 'a', tmp_path / 'b'], 'mine'): pass
    assert set(capfd.readouterr().err.splitlines()) == {'mine: 0 of 2 runs done, 25% after 0 min'}


# verify

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Results of a small sweep; nobody writes into them"
    folder = tmp_path_factory.mktemp('whole')
    return swept(write_config(folder / 'sweep.yaml'), folder / 'results')


@pytest.fixture
def results(whole, tmp_path):
    "The same, to be damaged"
    return shutil.copytree(whole, tmp_path / 'results')


def test_whole_results(results):
    folders, wrong = sweep.verify(results)
    assert wrong == {} and folders == [results, *sorted((results / 'runs').iterdir())]
    run = results / 'runs' / 'p=0.01,seeds=0-0'
    assert sweep.verify(run) == ([run], {})
    shutil.rmtree(results / 'runs')  # the tables alone, as in the repository
    assert sweep.verify(results) == ([results], {})


def test_everything_damaged_is_named(results):
    first, second = sorted((results / 'runs').iterdir())
    (results / 'history.parquet').unlink()
    with open(first / 'networks.safetensors', 'r+b') as file: file.write(b'XX')
    with open(first / 'metrics.parquet', 'r+b') as file: file.truncate(100)
    (second / 'manifest.json').write_text('{')
    (results / 'runs' / 'p=1.0,seeds=1-1.failed').mkdir(), (results / 'runs' / '.p=1.0.attempt-1').mkdir()
    _, wrong = sweep.verify(results)
    assert list(wrong) == [results / 'history.parquet', first / 'metrics.parquet', first / 'networks.safetensors',
                           second / 'manifest.json']
    reasons = ['is missing', 'has 100 bytes with SHA-256 ', ' expected ', 'is damaged']
    assert all(part in reason for part, reason in zip(reasons, wrong.values()))


def test_run_without_a_folder_is_named(results):
    shutil.rmtree(results / 'runs' / 'p=1.0,seeds=0-0')
    assert list(sweep.verify(results)[1]) == [results / 'runs' / 'p=1.0,seeds=0-0' / 'manifest.json']


def test_unfinished_sweep_lacks_its_tables(results):
    (results / 'manifest.json').unlink()
    assert list(sweep.verify(results)[1]) == [results / 'manifest.json']


def test_verify_wants_results(tmp_path):
    with pytest.raises(ResultError, match='holds no results: neither manifest.json nor runs'): sweep.verify(tmp_path)


@pytest.mark.parametrize('name', COMMITTED)
def test_committed_results_are_whole(name):
    "what the figures and claims of the paper, and the pages beside it, are read from"
    assert sweep.verify(repository() / 'results' / name)[1] == {}


# what is left of sweeps that went wrong

@pytest.mark.provokes('damaged results', rounds=3)
@pytest.mark.parametrize('damage', [b'', b'{', b'{"config": 1}'])
def test_damaged_manifest_of_tables(there, no_kernel, damage):
    "The tables are made anew from the runs; without these the folder is refused"
    config = write_config()
    results = swept(config, there / 'results')
    tables, manifest = [(results / name).read_bytes() for name in TABLES], (results / 'manifest.json').read_bytes()
    (results / 'manifest.json').write_bytes(damage)
    with pytest.raises(ResultError, match='manifest.json is damaged: .*; modspec collect, or the same modspec sweep'):
        read_table(results)
    assert not is_collected(results, load_config(config))
    collect_sweep(config, results)
    assert [(results / name).read_bytes() for name in TABLES] == tables
    assert (results / 'manifest.json').read_bytes() == manifest
    (results / 'manifest.json').write_bytes(damage)
    shutil.rmtree(results / 'runs')
    with pytest.raises(ResultError, match='delete the folder and run again'): is_collected(results, load_config(config))


@pytest.mark.provokes('divergence')
def test_tables_of_what_is_finished(there):
    "Only when asked to: what is missing, and why, is in the manifest; captions count it; the next sweep computes it"
    config = write_config(sparsities=[0.01, 0.5, 1.])
    results = swept(config, there / 'results')
    lost, other = (results / 'runs' / f'p={p},seeds=0-0' for p in (0.5, 1.))
    for folder in (lost, other): os.replace(folder, there / folder.name)
    failed = lost.with_name(f'{lost.name}.failed')
    failed.mkdir()
    (failed / 'reason.txt').write_text('NonFiniteLoss: the loss became nan\n')
    with pytest.raises(ResultError, match='holds no finished run'): collect_sweep(config, results)
    collect_sweep(config, results, finished_only=True)
    manifest = read_manifest(results)
    assert manifest['missing'] == {lost.name: 'NonFiniteLoss: the loss became nan', other.name: 'no attempt has ended'}
    table = read_table(results)
    assert set(table['sparsity']) == {0.01} and set(manifest['runs']) == {'p=0.01,seeds=0-0'}
    assert 'Failed: 2 of 3 networks (1 at p = 0.5, 1 at p = 1).' in caption(table, manifest['config'])
    assert not is_collected(results, load_config(config))
    for folder in (lost, other): os.replace(there / folder.name, folder)
    assert read_manifest(collect_sweep(config, results))['missing'] == {} and is_collected(results, load_config(config))
    shutil.rmtree(results / 'runs')
    with pytest.raises(ResultError, match='no run of sweep.yaml is finished in'):
        collect_sweep(config, results, finished_only=True)


@pytest.mark.provokes('illegal values', rounds=4)
@pytest.mark.parametrize('text, reason', [
    ('sparsities: [1]\nseeds: 1\nseeds: 2\n', "'seeds' stands there twice, in lines 2 and 3"),
    ('sparsities: [1]\nparameters:\n  epochs: 1\n  epochs: 2\n', "'epochs' stands there twice, in lines 3 and 4"),
    ('sparsities: [1]\nvariations: {a: {lr: 1}, a: {lr: 2}}\n', "'a' stands there twice, in lines 2 and 2"),
    ('sparsities: [2020-13-45]\n', 'month must be in 1..12')])
def test_yaml_that_means_two_things_or_none(tmp_path, text, reason):
    path = tmp_path / 'sweep.yaml'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'^{path} .*{reason}'): load_config(path)


def test_no_profile_but_the_one_asked_for():
    command = sweep.snakemake_command('sweep.yaml', 'results', 1)
    assert [command[command.index(name) + 1] for name in ('--profile', '--workflow-profile')] == ['none', 'none']
    command = sweep.snakemake_command('sweep.yaml', '../results', 1, profile='slurm')
    assert command[command.index('--profile') + 1] == 'slurm'
    assert f'results={Path.cwd().parent / "results"}' in command


@pytest.mark.provokes('parameters tag')
def test_misspelt_parameter_of_papermill_alone(tmp_path):
    "papermill only warns; the run notebook refuses, before any work"
    notebook, out = repository() / 'nbs' / 'runs' / 'sparsity.ipynb', tmp_path / 'out'
    command = [Path(sys.executable).with_name('papermill'), notebook, tmp_path / 'page.ipynb', '-k', 'python3']
    said = subprocess.run([*command, '-p', 'out', out, '-p', 'sparsty', '0.1'], capture_output=True, text=True)
    assert "unknown parameter 'sparsty'; did you mean 'sparsity'?" in said.stderr
    assert said.returncode and not out.exists()
