"""Sweeps: configurations that are refused, runs that fail, and tables that are never of another sweep"""
import json
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import tqdm
import yaml

from modspec import experiment, sweep
from modspec.experiment import (
    RUN_FILES,
    TABLES,
    ResultError,
    RunConfig,
    collect,
    is_finished,
    package_hash,
    read_manifest,
    read_table,
)
from modspec.sweep import (
    RunFailed,
    SweepConfig,
    collect_sweep,
    draw_figures,
    execute,
    load_config,
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


def write_config(path, sparsities=(0.01, 1.), **settings):
    "A sweep's file"
    values = dict(sparsities=list(sparsities), seeds=1, architecture='standard', parameters=TINY) | settings
    path.write_text(yaml.safe_dump(values))
    return path


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
def there(tmp_path, monkeypatch):
    "An empty working directory, so that Snakemake knows nothing of the past"
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    return tmp_path / 'cwd'


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
    assert load_config(path).runs() == {f'p={p!r}': RunConfig(p, *same) for p in expected}


@pytest.mark.parametrize('name', ['smoke', 'quick', 'mnist'])
def test_committed_configurations(name):
    "The quick one has at least 6 sparsities from 1/N^2 to 1, 5 seeds, both architectures, and the paper's parameters"
    found = load_config(repository() / 'config' / f'{name}.yaml')
    assert min(found.sparsities) == 1e-4 and max(found.sparsities) == 1 and found.architecture == 'both'
    assert found.dataset == ('mnist' if name == 'mnist' else 'digits')
    if name != 'smoke': assert len(found.sparsities) >= 6 and found.seeds == 5 and found.parameters == Parameters()


def test_the_papers_configuration():
    found = load_config(repository() / 'config' / 'paper.yaml')
    counts = [run.n_connections for run in found.runs().values()]
    assert (min(counts), max(counts)) == (1, 10_000) and len(counts) >= 20 and found.seeds >= 10
    steps = np.diff(np.log(counts[10:]))  # below, whole numbers of connections leave no choice
    assert steps.max() / steps.min() < 1.05
    assert (found.dataset, found.architecture, found.parameters) == ('mnist', 'both', Parameters())


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


@pytest.mark.parametrize('text', REFUSED)
def test_configuration_is_refused(tmp_path, monkeypatch, text):
    "in one line that begins with the file's name, says what it holds and what is legal"
    monkeypatch.chdir(tmp_path)
    Path('sweep.yaml').write_text(text)
    with pytest.raises(ValueError, match=REFUSED[text]) as error: load_config('sweep.yaml')
    assert str(error.value).startswith('sweep.yaml') and len(str(error.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['sweep.yaml']


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
    write_config(Path('other.yaml'), seeds=2)
    check(lambda: run_sweep('other.yaml', 'done'), 'holds .*seeds: 1, asked 2.; choose another with --out')
    (there / 'done' / 'runs' / 'p=1.0' / 'metrics.parquet').write_bytes(b'')
    check(lambda: run_sweep('sweep.yaml', 'done'), 'p=1.0/metrics.parquet has SHA-256 .*run again')


@pytest.mark.usefixtures('no_kernel')
def test_run_sweep_leaves_other_results_alone(there):
    "A sweep that shares no run with the one in the folder, and the folder of a single run"
    write_config(Path('sweep.yaml')), swept('sweep.yaml', there / 'done')
    write_config(Path('other.yaml'), [0.3], seeds=2), computed(CONFIG, there / 'one')
    refused(lambda: run_sweep('other.yaml', 'done'), 'holds .*seeds: 1, asked 2.*choose another', unchanged=there)
    for action in run_sweep, collect_sweep:
        refused(lambda action=action: action('sweep.yaml', 'one'), 'one.*choose another with --out', unchanged=there)


# one run

def test_notebook_parameters_say_what_differs():
    same = dict(sparsity=0.07, dataset='digits', seeds=1, architecture='standard', device='cpu', threads=1, out='out')
    assert notebook_parameters(CONFIG, Path('out'), 'cpu', 1) == same | {'parameters': TINY}
    paper = replace(CONFIG, parameters=Parameters())
    assert notebook_parameters(paper, Path('out'), 'cpu', 1) == same | {'parameters': {}}


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
    assert {k: v for k, v in after.items() if k != 'files'} == {k: v for k, v in before.items() if k != 'files'}


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


def test_run_of_another_configuration_is_refused(tmp_path, monkeypatch):
    "A notebook that ignored its parameters: nothing gets the name of the run that was asked for"
    def deaf(notebook, target, values):
        experiment.run(CONFIG, values['out'])
        target.write_text('{}')
    monkeypatch.setattr(sweep, 'execute', deaf)
    with pytest.raises(RunFailed, match='p=0.5 failed, the notebook computed .*is its parameters cell tagged'):
        run_notebook(replace(CONFIG, sparsity=0.5), tmp_path / 'out')
    assert not (tmp_path / 'out' / 'manifest.json').exists() and (tmp_path / 'out.failed' / 'notebook.ipynb').exists()


def test_kernel_that_dies(tmp_path, checkout):
    "is a failed run, although its notebook holds no error"
    checkout('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)')
    with pytest.raises(RunFailed, match='p=0.07 failed, the kernel died.*out.failed/notebook.ipynb'):
        run_notebook(CONFIG, tmp_path / 'out')
    assert (tmp_path / 'out.failed' / 'notebook.ipynb').exists() and not (tmp_path / 'out' / 'manifest.json').exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'out') == ['checkout', 'out.failed']


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


def test_misspelt_parameter_is_refused(tmp_path):
    "where papermill would only warn"
    for notebook in ('runs/sparsity', 'figures/accuracy'):
        with pytest.raises(ValueError, match=f"{Path(notebook).name}.ipynb: 'outt'; did you mean 'out'"):
            execute(repository() / 'nbs' / f'{notebook}.ipynb', tmp_path / 'out.ipynb', {'outt': str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, 'find_spec', lambda name: SimpleNamespace(origin=str(tmp_path / name / '__init__.py')))
    with pytest.raises(ResultError, match='is no checkout of modspec; clone the repository and install'): repository()


# tables

def test_collect_sweep(there):
    write_config(Path('sweep.yaml'))
    results = swept('sweep.yaml', there / 'results')
    config = load_config('sweep.yaml')
    manifest = read_manifest(results)
    assert manifest['files'].keys() == set(TABLES) and manifest['config'] == json.loads(json.dumps(asdict(config)))
    assert list(manifest['runs']) == ['p=0.01', 'p=1.0'] and manifest['package'] == package_hash()
    assert all(run.keys() == {'device', 'threads', 'versions', 'seconds'} for run in manifest['runs'].values())
    for name in ('metrics', 'history'):
        expected = collect([results / 'runs' / run for run in config.runs()], name)
        pd.testing.assert_frame_equal(read_table(results, name), expected)
    assert set(read_table(results)['sparsity']) == {0.01, 1.}


def test_collect_sweep_refuses_an_incomplete_sweep(there):
    "and leaves the tables that are there as they are"
    write_config(Path('sweep.yaml')), write_config(Path('other.yaml'), seeds=2)
    write_config(Path('more.yaml'), [0.01, 0.3, 1])
    results = swept('sweep.yaml', there / 'results')
    check, run = partial(refused, error=ResultError, unchanged=there), results / 'runs' / 'p=1.0'
    check(lambda: collect_sweep('other.yaml', results), 'p=0.01 is a run of another configuration|holds other results')
    check(lambda: collect_sweep('more.yaml', results), 'p=0.3 holds no finished run')
    content = (run / 'history.parquet').read_bytes()
    (run / 'history.parquet').write_bytes(content[:-1] + b'?')
    check(lambda: collect_sweep('sweep.yaml', results), 'p=1.0/history.parquet has SHA-256')
    (run / 'history.parquet').unlink()
    check(lambda: collect_sweep('sweep.yaml', results), 'p=1.0/history.parquet has SHA-256 no file')
    (run / 'history.parquet').write_bytes(content)
    manifest = (run / 'manifest.json').read_text()
    (run / 'manifest.json').write_text(manifest.replace(package_hash(), 'older'))
    check(lambda: collect_sweep('sweep.yaml', results), 'come from 2 versions of the code')
    (run / 'manifest.json').unlink()
    check(lambda: collect_sweep('sweep.yaml', results), 'p=1.0 holds no finished run: manifest.json is missing')


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
    assert {f'runs/p=1.0/{name}' for name in RUN_FILES} | {*TABLES, 'manifest.json'} <= written
    assert same == {f'runs/{run}/{name}' for run in ('p=0.01', 'p=0.3') for name in RUN_FILES}
    assert set(read_table(results)['sparsity']) == {0.01, 1.}
    assert set(read_table(results, 'history')['n_connections']) == {1, 100}
    assert read_manifest(results)['config'] == json.loads(json.dumps(asdict(load_config('after.yaml'))))
    assert sorted(path.name for path in (results / 'runs').iterdir()) == ['p=0.01', 'p=0.3', 'p=1.0']


def test_run_that_was_deleted(there, monkeypatch):
    "is computed again, although the tables of the sweep are there; Snakemake is only asked what it would do"
    write_config(there / 'sweep.yaml')
    results = swept('sweep.yaml', there / 'results')
    command = sweep.snakemake_command
    monkeypatch.setattr(sweep, 'snakemake_command', lambda *args, **how: [*command(*args, **how), '--dry-run'])
    for name in RUN_FILES: (results / 'runs' / 'p=1.0' / name).unlink()
    run_sweep('sweep.yaml', 'results')
    plan = (results / 'sweep.log').read_text()
    assert 'wildcards: p=1.0' in plan and 'wildcards: p=0.01' not in plan and 'rule collect:' in plan


def test_failed_sweep_names_its_runs(there, monkeypatch):
    write_config(there / 'sweep.yaml')
    monkeypatch.setattr(sweep, 'snakemake_command', lambda *_, **__: [sys.executable, '-c', 'raise SystemExit(1)'])
    computed(load_config('sweep.yaml').run(0.01), there / 'results' / 'runs' / 'p=0.01')
    with pytest.raises(RunFailed, match=r'1 of 2 runs did not finish \(p=1.0\); see results/sweep.log'):
        run_sweep('sweep.yaml', 'results')


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
    assert 'wildcards: p=0.01' in plan and 'wildcards: p=1.0' in plan
    assert not (there / 'results').exists()
    computed(load_config('sweep.yaml').run(0.01), there / 'results' / 'runs' / 'p=0.01')
    plan = planned('sweep.yaml', 'results')
    assert 'wildcards: p=0.01' not in plan and 'wildcards: p=1.0' in plan
    with pytest.raises(ValueError, match='Snakemake refuses: .*no-such-profile'):
        planned('sweep.yaml', 'results', profile='no-such-profile')


def test_plan_is_what_the_sweep_would_do(there):
    "Tables that are there hide neither a run that was deleted nor a changed configuration"
    write_config(there / 'sweep.yaml')
    results = swept('sweep.yaml', there / 'results')
    assert 'Nothing to be done' in planned('sweep.yaml', 'results')
    before = contents(results)
    for name in RUN_FILES: (results / 'runs' / 'p=1.0' / name).rename(there / name)
    plan = planned('sweep.yaml', 'results')
    assert 'wildcards: p=1.0' in plan and 'wildcards: p=0.01' not in plan and 'rule collect:' in plan
    for name in RUN_FILES: (there / name).rename(results / 'runs' / 'p=1.0' / name)
    write_config(there / 'sweep.yaml', seeds=2)
    with pytest.raises(ResultError, match='seeds: 1, asked 2'): planned('sweep.yaml', 'results')
    assert contents(results) == before


def test_slurm_profile_sends_jobs_to_slurm():
    profile = repository() / 'workflow' / 'profiles' / 'slurm'
    assert yaml.safe_load((profile / 'config.yaml').read_text())['executor'] == 'slurm'
    command = sweep.snakemake_command('sweep.yaml', 'results', 2, profile=profile)
    assert command[command.index('--profile') + 1] == str(profile)


def test_status(there):
    sparsities = [0.01, 0.1, 0.3, 0.5, 1.]
    write_config(there / 'sweep.yaml', sparsities)
    runs = {p: Path('results', 'runs', f'p={p!r}') for p in sparsities}
    assert set(sweep_status('sweep.yaml', 'results')['state']) == {'missing'}
    computed(load_config('sweep.yaml').run(0.01), runs[0.01])
    computed(load_config('sweep.yaml').run(0.1), runs[0.3])  # of another sparsity
    for p in (0.5, 1.): progress_file(runs[p]).write_text(json.dumps(dict(n=1, total=4, text='training')))
    long_ago = progress_file(runs[1.]).stat().st_mtime - 3600
    os.utime(progress_file(runs[1.]), (long_ago, long_ago))  # of a run that was killed
    runs[1.].with_name('p=1.0.failed').mkdir()
    status = sweep_status('sweep.yaml', 'results')
    assert status['state'].tolist() == ['done', 'missing', 'other', 'running', 'failed']
    assert status['progress'].tolist() == [1, 0, 0, .25, 0] and status['connections'].tolist() == [1, 10, 30, 50, 100]
    assert run_state(runs[0.01], load_config('sweep.yaml').run(0.01))['seconds'] == status['seconds'][0] > 0


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
    assert capfd.readouterr().err == 'mine: 2 of 3 runs done\n'
