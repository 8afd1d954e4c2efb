"""Sweeps: what is refused, what is computed and what is not, runs that fail, and measuring without training"""
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sweeps import (
    BAD_PAST,
    CONFIG,
    NORM,
    computed,
    contents,
    forgetting_plugins,
    older_code,
    swept,
    until,
    weights,
    write_config,
)

from modspec.analysis.tables import read_table
from modspec.core.files import ResultError, as_text, read_manifest, write_manifest
from modspec.engine import notebook as pages
from modspec.engine import progress, sweep
from modspec.engine import run as engine
from modspec.engine.attempts import FULL, RunFailed, failed_folder, keep_failed, lacks_room
from modspec.engine.collect import collect_sweep
from modspec.engine.config import load_config
from modspec.engine.notebook import repository, run_notebook
from modspec.engine.processes import check_profile, known_profiles, snakemake_command
from modspec.engine.progress import (
    LogLines,
    ProgressFile,
    SteadyBar,
    TimeLeft,
    progress_file,
    read_progress,
    shown_progress,
)
from modspec.engine.provenance import checked_out
from modspec.engine.remeasure import measure_results, trained_again
from modspec.engine.run import run
from modspec.engine.status import is_collected, meaning, planned, sweep_status
from modspec.engine.store import NOTEBOOK, TABLES, asked_measures, is_finished
from modspec.engine.sweep import common_cause, run_sweep, sweep_progress, unfinished

FILES = {f'{name}.parquet' for name in TABLES} | {'manifest.json'}
MODSPEC = Path(sys.executable).with_name('modspec')


def one_run(p, path='sweep.yaml'):
    "The run of one sparsity, of a sweep with one seed"
    return load_config(path).runs()[f'p{p!r}_seeds0-0']


@pytest.fixture
def no_kernel(monkeypatch):
    "Fails if a kernel or Snakemake is started"
    def forbidden(*_, **__): raise AssertionError('something was started')
    checked_out()  # asks Git, once
    monkeypatch.setattr(pages, 'execute', forbidden)
    for name in ('run', 'Popen'): monkeypatch.setattr(sweep.subprocess, name, forbidden)


# what is refused before Snakemake starts

def refused(action, message, *, error=ValueError, unchanged):
    "An action that must fail and change nothing"
    before = contents(unchanged), sorted(unchanged.rglob('*'))
    with pytest.raises(error, match=message) as caught: action()
    assert (contents(unchanged), sorted(unchanged.rglob('*'))) == before and '\n' not in str(caught.value)


@pytest.mark.provokes('illegal values')
@pytest.mark.usefixtures('no_kernel')
def test_run_sweep_refuses(there, monkeypatch):
    monkeypatch.setenv('MODSPEC_DATA', str(there / 'nowhere'))
    check = partial(refused, unchanged=there)
    write_config('mnist.yaml', settings={'dataset': 'mnist'}), Path('file').write_text('mine')
    check(lambda: run_sweep('mnist.yaml', 'results'), 'nowhere/MNIST/raw/.* is missing; point MODSPEC_DATA at')
    check(lambda: run_sweep('none.yaml', 'results'), 'none.yaml cannot be read')
    write_config()
    check(lambda: run_sweep('sweep.yaml', 'file/results'), 'cannot be written to')
    check(lambda: run_sweep('sweep.yaml', 'results', device='cuda:7'), "device must be one of .*got 'cuda:7'")
    check(lambda: run_sweep('sweep.yaml', 'results', profile='nowhere'), 'nowhere is no Snakemake profile.*: .*slurm')
    swept(Path('sweep.yaml'), there / 'done')
    write_config('other.yaml', settings={'architecture': 'both'})
    check(lambda: run_sweep('other.yaml', 'done'), "holds .*'standard'.*asked .*'both'.*; choose another with --out")
    folder = there / 'done' / 'runs' / 'p1.0_seeds0-0'
    name = read_manifest(folder)['tables']['values']
    (folder / name).write_bytes(b'')
    check(lambda: run_sweep('sweep.yaml', 'done'), f'p1.0_seeds0-0/{name} has SHA-256 .*run again')


@pytest.mark.provokes('two sweeps')
@pytest.mark.usefixtures('no_kernel')
def test_run_sweep_leaves_other_results_alone(there):
    "A sweep that shares no run with the one in the folder, and the folder of a single run"
    swept(write_config(), there / 'done')
    write_config('other.yaml', [0.3], {'dataset': 'mnist'}), computed(CONFIG, there / 'one')
    refused(lambda: run_sweep('other.yaml', 'done'), "holds .*asked 'mnist'.*choose another", unchanged=there)
    for action in run_sweep, collect_sweep:
        refused(lambda action=action: action('sweep.yaml', 'one'), 'one.*choose another with --out', unchanged=there)


def test_device_of_a_sweep_reaches_its_runs():
    assert 'device=cuda:7' in snakemake_command('sweep.yaml', 'results', 1, device='cuda:7')


def test_slurm_profile_sends_jobs_to_slurm():
    profile = repository() / 'workflow' / 'profiles' / 'slurm'
    assert yaml.safe_load((profile / 'config.yaml').read_text())['executor'] == 'slurm'
    command = snakemake_command('sweep.yaml', 'results', 2, profile=profile)
    assert command[command.index('--profile') + 1] == str(profile)


@pytest.mark.provokes('illegal values')
@pytest.mark.usefixtures('no_kernel')
@pytest.mark.parametrize('name, text, said', [
    ('config.yaml', None, 'mine is no Snakemake profile: it has no config.yaml; there are: .*workflow/profiles/slurm'),
    ('profile.yml', 'jobs: 1', 'mine is no Snakemake profile'),
    ('config.yaml', 'jobs: [', 'mine/config.yaml cannot be read: .*'),
    ('config.yaml', '- jobs', r"must be a mapping from options to values, got \['jobs'\]"),
    ('config.yaml', '', 'must be a mapping'),
    ('config.v8+.yaml', 'executor: abacus', 'executor abacus, which is not installed; pip install snake.*-abacus'),
    ('config.yaml', b'\xff', 'cannot be read: ')])
def test_profiles_that_do_not_work(there, name, text, said):
    "are refused before Snakemake is loaded, and before anything is made"
    write_config(), Path('mine').mkdir()
    if isinstance(text, str): Path('mine', name).write_text(text)
    if isinstance(text, bytes): Path('mine', name).write_bytes(text)
    refused(lambda: run_sweep('sweep.yaml', 'results', profile='mine'), said, unchanged=there)


def test_profiles_that_work(there, monkeypatch):
    "by their path, their file, or their name among the user's; all are told to whoever misspells one"
    monkeypatch.setenv('XDG_CONFIG_HOME', str(there / 'home'))
    for folder in (there / 'home' / 'snakemake' / 'ours', there / 'here'):
        folder.mkdir(parents=True)
        (folder / 'config.yaml').write_text('executor: local\n')
    for profile in ('ours', 'here', 'here/config.yaml', there / 'here', *known_profiles()): check_profile(profile)
    assert str(there / 'home' / 'snakemake' / 'ours') in known_profiles()


def test_no_profile_but_the_one_asked_for():
    command = snakemake_command('sweep.yaml', 'results', 1)
    assert [command[command.index(name) + 1] for name in ('--profile', '--workflow-profile')] == ['none', 'none']
    command = snakemake_command('sweep.yaml', '../results', 1, profile='slurm')
    assert command[command.index('--profile') + 1] == 'slurm'
    assert f'results={Path.cwd().parent / "results"}' in command


# what Snakemake computes, and what it does not

def sweep_again(config, results, **how):
    "`run_sweep`; then the files that it wrote, and those that it left alone"
    before = contents(results)
    run_sweep(config, results, **how)
    after = contents(results)
    same = {name.as_posix() for name in before if after.get(name) == before[name]}
    return {name.as_posix() for name in after} - same - {'sweep.log'}, same


def test_finished_sweep_is_not_repeated(there):
    swept(write_config(), there / 'results')
    assert sweep_again('sweep.yaml', 'results')[0] == set()


def test_another_list_of_values(there):
    """One is new, one is gone, one stays: only the new one is computed, and the tables hold what the file says.

    Snakemake remembers nothing of the first sweep, and a killed one has left it locks.
    """
    write_config('before.yaml', [0.01, 0.3]), write_config('after.yaml', [0.01, 1.])
    results = swept(there / 'before.yaml', there / 'my results')
    lock = there / '.snakemake' / 'locks' / '0.output.lock'
    lock.parent.mkdir(parents=True), lock.write_text('my results/manifest.json\nmy results/values.parquet\n')
    written, same = sweep_again('after.yaml', 'my results')
    assert {Path(name).parts[:2] for name in written} == {('runs', 'p1.0_seeds0-0'), ('logs', 'p1.0_seeds0-0.log'),
                                                         ('logs', 'collect.log'), *((name,) for name in FILES)}
    assert {Path(name).parts[:2] for name in same} == {('runs', 'p0.01_seeds0-0'), ('runs', 'p0.3_seeds0-0')}
    assert set(read_table(results)['sparsity']) == {0.01, 1.}
    assert read_manifest(results)['config'] == meaning(load_config('after.yaml'))
    assert {path.name for path in (results / 'runs').iterdir()} == {f'p{p}_seeds0-0' for p in (0.01, 0.3, 1.)}


def test_a_new_measure_and_a_changed_one_train_nothing(there):
    "A plugin reaches the runs and the tables; what other code has measured is taken again if asked to; networks stay"
    results, before = swept(write_config(sparsities=[1.]), there / 'results'), weights(there / 'results')
    folder = results / 'runs' / 'p1.0_seeds0-0'
    older_code(folder, 'correlation')
    collect_sweep('sweep.yaml', results)
    older = {one['measure']: one['seconds'] for one in read_manifest(folder)['measured']}
    assert BAD_PAST in read_manifest(results)['codes']['correlation']
    (there / 'norm.py').write_text(NORM)
    command = [MODSPEC, 'sweep', 'sweep.yaml', '--out', 'results', '--plugin', 'norm.py', '--recompute']
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0 and 'other code' not in answer.stderr, answer.stderr
    assert weights(results) == before and 'norm' in set(read_table(results)['measure'])
    manifest = read_manifest(results)
    assert manifest['measures']['norm']['label'] == 'norm' and BAD_PAST not in manifest['codes']['correlation']
    now = {one['measure']: one['seconds'] for one in read_manifest(folder)['measured']}
    assert now.keys() - older.keys() == {'norm'} and now['weight_mask'] == older['weight_mask']
    assert NOTEBOOK in read_manifest(folder)['files']


def test_plugins_of_a_file_reach_its_runs(there):
    "as those of the command line do"
    with forgetting_plugins():
        (there / 'norm.py').write_text(NORM)
        load_config(write_config(plugins=['norm.py']))
        said = dict(word.split('=', 1) for word in snakemake_command('sweep.yaml', 'results', 1) if '=' in word)
        assert said['plugins'] == str(there / 'norm.py')


def test_run_that_was_deleted(there, monkeypatch):
    "is computed again, although the tables of the sweep are there; Snakemake is only asked what it would do"
    results = swept(write_config(), there / 'results')
    command = sweep.snakemake_command
    monkeypatch.setattr(sweep, 'snakemake_command', lambda *args, **how: [*command(*args, **how), '--dry-run'])
    for path in (results / 'runs' / 'p1.0_seeds0-0').iterdir(): path.unlink()
    run_sweep('sweep.yaml', 'results')
    plan = (results / 'sweep.log').read_text()
    assert 'wildcards: run=p1.0_' in plan and 'wildcards: run=p0.01_' not in plan and 'rule collect:' in plan


@pytest.mark.parametrize('change, computed_again', [
    (dict(seeds=5), ['p0.01_seeds4-4']), (dict(sparsities=[0.01, 0.3]), ['p0.3_seeds0-1', 'p0.3_seeds2-3']),
    (dict(variations={'still': {'walk': 0}}), ['p0.01_seeds0-1_still', 'p0.01_seeds2-3_still']),
    (dict(variations={'small': {'mask_fraction': .01}}), []), (dict(axes={'lr': [0.5, 1]}), ['lr1.0'])])
def test_only_what_is_missing_is_trained(there, change, computed_again):
    swept(write_config(sparsities=[0.01], seeds=4, seeds_per_run=2), there / 'results')
    about = dict(sparsities=[0.01], seeds=4, seeds_per_run=2) | change
    plan = planned(write_config(**about), 'results').splitlines()[:-1]
    if 'axes' in change: assert len(plan) == 4 and all('train' in line for line in plan)  # runs have other names then
    else: assert [line.split()[0] for line in plan if 'train and' in line] == computed_again
    if 'small' in str(change): assert all('measure weight_mask' in line for line in plan)


def test_failed_sweep_names_its_runs(there, monkeypatch):
    write_config()
    monkeypatch.setattr(sweep, 'snakemake_command', lambda *_, **__: [sys.executable, '-c', 'raise SystemExit(1)'])
    computed(one_run(0.01), there / 'results' / 'runs' / 'p0.01_seeds0-0')
    with pytest.raises(RunFailed, match=r'1 of 2 runs did not finish \(p1.0_seeds0-0\); see results/sweep.log'):
        run_sweep('sweep.yaml', 'results')


FOUND = {  # what a sweep that failed may have left
    'nothing': [], 'log': ['sweep.log'], 'empty logs': ['sweep.log', 'logs/p1.0_seeds0-0.log='],
    'logs': ['sweep.log', 'logs/p1.0_seeds0-0.log=modspec: no memory'],
    'collected': ['sweep.log', 'logs/collect.log=modspec: full'],
    'only collected': ['logs/collect.log=modspec: full'], 'only logs': ['logs/p1.0_seeds0-0.log=text']}


@pytest.mark.parametrize('done', [0, 1, 2])
@pytest.mark.parametrize('found', FOUND)
def test_only_files_that_exist_are_named(there, monkeypatch, found, done):
    folders = load_config(write_config()).folders('results')
    finished = [*folders][:done]
    monkeypatch.setattr(sweep.FinishedRuns, 'has', lambda runs, folder: folder in finished)
    for name in FOUND[found]:
        path, _, text = name.partition('=')
        Path('results', path).parent.mkdir(parents=True, exist_ok=True), Path('results', path).write_text(text)
    said = unfinished(folders, Path('results'))
    named = re.findall(r'results/[^ ;,]+', said)
    assert all(Path(name).exists() for name in named) and ('; see ' in said) == bool(named)
    assert 'results/sweep.log' in named or 'sweep.log' not in FOUND[found] or done == 2
    if done == 2: assert ('; full' in said) == ('collected' in found) and 'tables were not joined' in said


@pytest.mark.parametrize('reasons, said', [
    ([], 'no table'), (['', ''], ''), (['no GPU'], 'no GPU'), (['no GPU', 'no GPU', 'nan'], 'no GPU (so 2 of them)'),
    (['nan', 'No space left on device', 'nan'], 'No space left on device (so 1 of them)'),
    (['[Errno 122] Disk quota exceeded'], '[Errno 122] Disk quota exceeded'), (['two\nlines'], 'two lines'),
    (['log: no plugin', 'log: no plugin'], 'no plugin')])
def test_the_common_cause_is_the_end_of_the_line(tmp_path, reasons, said):
    "and a full disk is the cause of whatever else has failed"
    folders = [tmp_path / str(n) for n in range(len(reasons))]
    for folder, reason in zip(folders, reasons):
        (tmp_path / 'page').touch()
        if reason.startswith('log: '): folder.with_suffix('.log').write_text(f'text\nmodspec: {reason[5:]}\n')
        elif reason: keep_failed(tmp_path / 'page', folder, RuntimeError(reason))
    (tmp_path / 'collect.log').write_text('modspec: no table\n')
    assert common_cause(folders, tmp_path) == said
    assert lacks_room(said) == any((failed_folder(folder) / FULL).exists() for folder in folders)


@pytest.mark.parametrize('theirs', ['whole', 'trained', 'without page', 'another'])
def test_a_run_that_another_process_has_finished_meanwhile(there, monkeypatch, capsys, theirs):
    "is a success once it has all that was asked for; a folder that holds another run by now is refused"
    write_config()
    out, asked, begun = Path('out'), one_run(0.01), []

    def execute(notebook, page, values):
        begun.append(values['out'])
        page.write_text('{}')
        if len(begun) == 1:
            if theirs == 'trained': run(asked, out, only=['performance'])
            elif theirs == 'without page': run(asked, out)
            else: computed(one_run(1.) if theirs == 'another' else asked, out)
        run(asked, values['out'])

    monkeypatch.setattr(pages, 'execute', execute)
    if theirs == 'another':
        with pytest.raises(ResultError, match='out holds another run'): run_notebook(asked, out)
    else:
        assert is_finished(run_notebook(asked, out), asked)
        assert 'out was finished by another process meanwhile' in capsys.readouterr().err
        assert len(begun) == (1 if theirs == 'whole' else 2)
    assert not [*there.glob('.out*')] and not Path('out.failed').exists()


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
if 'p0.01_' in os.environ['MODSPEC_PROGRESS']:
    tempfile.mkstemp(dir={str(kernel)!r}, suffix='.attempt')
    import modspec.engine.run
    modspec.engine.run.train_run = None
launch_new_instance()
""")
    monkeypatch.setenv('JUPYTER_PATH', str(there / 'jupyter'))
    write_config()
    with pytest.raises(RunFailed, match=r'^1 of 2 runs did not finish \(p0.01_seeds0-0\); see results/sweep.log'):
        run_sweep('sweep.yaml', 'results', cores=2)
    assert len(list(kernel.glob('*.attempt'))) == 2
    runs = there / 'results' / 'runs'
    assert "'NoneType' object is not callable" in (runs / 'p0.01_seeds0-0.failed' / NOTEBOOK).read_text()
    assert is_finished(runs / 'p1.0_seeds0-0', one_run(1.)) and not (there / 'results' / 'manifest.json').exists()
    assert [one['state'] for one in sweep_status('sweep.yaml', 'results')] == ['failed', 'done']
    assert not list(runs.glob('.*'))


@pytest.mark.provokes('killed sweep')
def test_killed_sweep_goes_on(there):
    "Snakemake and its runs die in the middle; the same command ends with the tables of a sweep that nobody interrupted"
    done, killed = load_config(write_config()).folders('results')
    computed(one_run(0.01), done)
    before = contents(done)
    command = [MODSPEC, 'sweep', 'sweep.yaml', '--out', 'results', '--cores', '1']
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try: until(lambda: list(killed.parent.glob(f'.{killed.name}.attempt-*/{NOTEBOOK}')))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list(killed.parent.glob('.*')) and not (killed / 'manifest.json').exists()
    progress_file(killed).write_text(json.dumps(dict(n=9, total=10, text='what the dead run said')))
    run_sweep('sweep.yaml', 'results', cores=1)
    assert contents(done) == before and {path.name for path in killed.parent.iterdir()} == {done.name, killed.name}
    whole = swept(Path('sweep.yaml'), there / 'whole')
    for name in FILES - {'manifest.json'}: assert (there / 'results' / name).read_bytes() == (whole / name).read_bytes()


def test_smoke_sweep(smoke):
    "What a sweep leaves: complete runs of the configuration, tables of all of them, and nothing half done"
    config = load_config(smoke.config)
    for folder, asked in config.folders(smoke.results).items():
        inside = {path.name for path in folder.iterdir()}
        assert is_finished(folder, asked) and read_manifest(folder)['files'].keys() == inside - FILES
    assert {path.name for path in (smoke.results / 'runs').iterdir()} == set(config.runs())
    assert set(read_table(smoke.results)['n_connections']) == {1, 10_000}
    rows_per_network = 2 * (1 + 2 + 4 + 2 + 4 + 2 + 4) + 2 * (1 + 2 + 4) + 2 * 2 * (3 + 5 * (2 + 2 + 4))
    assert len(read_table(smoke.results)) == 2 * config.seeds * rows_per_network


def test_sweep_of_the_other_study(there):
    "Its runs and its tables are like those of any"
    config = repository() / 'config' / 'upstream_downstream' / 'smoke.yaml'
    results = run_sweep(config, there / 'results', cores=2)
    table = read_table(results)
    assert set(table['layers']) == {*load_config(config).axes['layers']} and set(table['n_layers']) == {1, 2}
    assert {one['state'] for one in sweep_status(config, results)} == {'done'}
    assert is_collected(results, load_config(config))


# measuring without training

def test_measure_adds_a_measure(there, monkeypatch):
    results, before = swept(write_config(), there / 'results'), weights(there / 'results')
    monkeypatch.setattr(engine, 'train', None)
    assert measure_results(results) == sorted((results / 'runs').iterdir())
    with forgetting_plugins():
        (there / 'norm.py').write_text(NORM)
        config = write_config(plugins=['norm.py'])
        load_config(config)
        assert measure_results(results, ['norm']) == sorted((results / 'runs').iterdir())
        assert 'norm' not in set(read_table(results)['measure'])
        collect_sweep(config, results)
    assert 'norm' in set(read_table(results)['measure']) and weights(results) == before


def test_measure_only_what_is_named(there):
    (folder, asked), *_ = load_config(write_config()).folders('results').items()
    run(asked, folder, only=[])
    measure_results(folder, ['performance', 'correlation'])
    assert {one['measure'] for one in read_manifest(folder)['measured']} == {'performance', 'correlation'}
    measure_results('results')
    assert {one['measure'] for one in read_manifest(folder)['measured']} == {*asked_measures(asked)}


def test_measure_again_what_other_code_has_measured(there, monkeypatch):
    results = swept(write_config(), there / 'results')
    first, second = sorted((results / 'runs').iterdir())
    older_code(first, 'correlation'), older_code(second, 'weight_mask')
    monkeypatch.setattr(engine, 'train', None)
    taken, real = [], engine.measured
    monkeypatch.setattr(engine, 'measured', lambda entry, *rest: taken.append(entry.name) or real(entry, *rest))
    measure_results(results)
    assert taken == []
    measure_results(results, ['correlation'], outdated=True)
    assert taken == ['correlation']
    measure_results(results, outdated=True)
    assert taken == ['correlation', 'weight_mask']


def test_measure_refuses(there):
    "what does not exist, what the networks cannot have, and where there are none"
    swept(write_config(sparsities=[1.]), there / 'results')
    layers = Path('layers.yaml')
    layers.write_text('study: upstream_downstream\nsettings: {layers: "8", epochs: 1, n_pairs: 100}\nseeds: 1\n')
    swept(layers, there / 'layers')
    check = partial(refused, unchanged=there)
    check(lambda: measure_results('results', ['cor']), "measure must be one of .*'correlation'.*got 'cor'")
    check(lambda: measure_results('layers', ['correlation']), 'correlation needs subnetworks.*upstream_downstream')
    check(lambda: measure_results('nowhere'), 'nowhere holds no results', error=ResultError)
    shutil.rmtree('results/runs')
    check(lambda: measure_results('results'), 'only tables.*modspec measure results --retrain', error=ResultError)


def test_a_bar_over_the_runs(there, capfd, monkeypatch):
    "in a log; and one that somebody looks at"
    results = swept(write_config(sparsities=[0.01, 0.3, 1.]), there / 'results')
    for folder in (results / 'runs').iterdir(): older_code(folder, 'performance')
    monkeypatch.setattr(LogLines, 'every', 0.)
    capfd.readouterr()
    measure_results(results, outdated=True)
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith('measuring p1.0_seeds0-0, 100% after') and all('measuring' in line for line in lines)
    assert 'MODSPEC_PROGRESS' not in os.environ


# tables whose networks are gone

def test_networks_are_trained_again(there):
    "into the folder of the tables; how well they agree is said, and nothing else is needed than the tables"
    config = write_config(axes={'mask_fraction': [0.05, 0.2]}, variations={'fast': {'lr': 0.9}}, seeds=2)
    results, before = swept(config, there / 'results'), weights(there / 'results')
    tables = {name: (results / name).read_bytes() for name in FILES - {'manifest.json'}}
    shutil.rmtree(results / 'runs'), config.unlink()
    found, worst = trained_again(results)
    assert worst == 0 and weights(results) == before
    measure_results(results)
    collect_sweep(found, results)
    assert {name: (results / name).read_bytes() for name in tables} == tables


def test_other_networks_are_told_apart(there):
    "The largest difference between accuracies is said; the tables are still those from before"
    results = swept(write_config(sparsities=[1.]), there / 'results')
    shutil.rmtree(results / 'runs')
    values = pd.read_parquet(results / 'values.parquet')
    at = values.index[(values['measure'] == 'accuracy') & (values['epoch'] > 0)][0]
    values.loc[at, 'value'] += 0.25
    values.to_parquet(results / 'values.parquet')
    manifest = {name: value for name, value in read_manifest(results, verify=False).items() if name != 'files'}
    write_manifest(results, manifest, [*FILES - {'manifest.json'}])
    _, worst = trained_again(results)
    assert worst == pytest.approx(0.25)


def test_training_again_goes_on(there, monkeypatch):
    "where it stopped"
    results = swept(write_config(), there / 'results')
    first, second = sorted((results / 'runs').iterdir())
    shutil.rmtree(second)
    before = contents(first)
    trained_again(results)
    assert contents(first) == before and (second / 'manifest.json').exists()
    monkeypatch.setattr(engine, 'train', None)
    trained_again(results)


def test_training_again_refuses(there):
    check = partial(refused, unchanged=there, error=ResultError)
    computed(CONFIG, there / 'one')
    check(lambda: trained_again('one'), 'one is a run.*leave --retrain away')
    check(lambda: trained_again('nowhere'), 'nowhere holds no')


def test_training_again_wants_its_networks_in_the_table(there):
    results = swept(write_config(sparsities=[1.]), there / 'results')
    shutil.rmtree(results / 'runs')
    manifest = read_manifest(results)
    manifest['config']['settings']['lr'] = 0.1
    (results / 'manifest.json').write_text(as_text(manifest))
    with pytest.raises(ResultError, match='not in the table'): trained_again(results)


# progress

@pytest.fixture
def bars(monkeypatch):
    "The progress bars that are made, shown although nobody looks"
    made = []
    class Bar(SteadyBar):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | dict(disable=False, file=StringIO()))
            made.append(self)
    for module in (sweep, progress):
        monkeypatch.setattr(module, 'SteadyBar', Bar)
        monkeypatch.setattr(module, 'watched', lambda: True)
    return made


@pytest.fixture
def four(tmp_path, monkeypatch):
    "Folders of four runs, which are finished when they have a manifest"
    monkeypatch.setattr(sweep.FinishedRuns, 'has', lambda runs, folder: (folder / 'manifest.json').exists())
    return {tmp_path / name: CONFIG for name in 'abcd'}


def test_read_progress(tmp_path):
    "Nothing yet, or half a file, is no error"
    path = progress_file(tmp_path / 'p0.1')
    assert path.parent == tmp_path and read_progress(path) == dict(n=0, total=1, text='starting')
    path.write_text('{"n": 3')
    assert read_progress(path) == dict(n=0, total=1, text='starting')
    with ProgressFile(path, 10) as bar:
        bar.update(4)
        bar.set_description('training')
        assert read_progress(path) == dict(n=4, total=10, text='training')


def test_sweep_progress_counts_finished_and_running_runs(four, bars):
    finished, running, _, ended = four
    for folder in (finished, ended): folder.mkdir()
    (finished / 'manifest.json').touch()
    with sweep_progress(four, 'title'):
        assert bars[0].total == 4 and bars[0].n == 1
        progress_file(running).write_text(json.dumps(dict(n=5, total=10, text='half')))
        (ended / 'manifest.json').touch()
        progress_file(ended).write_text(json.dumps(dict(n=9, total=10, text='ended')))
    assert bars[0].n == 2.4 and 'half' in bars[0].postfix


def test_the_stages_of_a_sweep(four, bars):
    "are named, also while no run is being computed; the bar is full when the tables are joined, and not before"
    with sweep_progress(four, 'title'):
        until(lambda: 'waiting for the next run' in (bars[0].postfix or ''))
        for folder in four: progress_file(folder).write_text(json.dumps(dict(n=0, total=1, text='starting')))
        until(lambda: 'starting (4)' in bars[0].postfix)
        for folder in four:
            folder.mkdir()
            (folder / 'manifest.json').touch(), progress_file(folder).unlink()
        until(lambda: 'joining the tables' in bars[0].postfix)
        assert 3.9 < bars[0].n < 4
    assert bars[0].n == 4


def test_the_stages_of_a_run(tmp_path, bars):
    "what its kernel cannot say is said for it; and it is alive, however long a step takes"
    path = tmp_path / '.out.progress.json'
    with shown_progress(path):
        assert read_progress(path)['text'] == 'starting'
        with ProgressFile(path, 10) as inside:
            inside.set_description('training')
            until(lambda: 'training' in bars[0].desc)
            os.utime(path, (0, 0))
            until(lambda: time.time() - path.stat().st_mtime < 60)
        until(lambda: 'writing its page' in bars[0].desc)
        until(lambda: read_progress(path)['text'] == 'writing its page')
    assert list(tmp_path.iterdir()) == []


def shares(course, seconds=300):
    "The share that is done at each second, for a work that goes like that"
    return [(second, min(1., max(0., course(second)))) for second in range(1, seconds + 1)]


STEADY = {'even': lambda t: t / 300, 'late': lambda t: (t - 30) / 270}
SWINGING = {'nothing': lambda t: 0, 'a jump': lambda t: 0.5 * (t > 280), 'slower': lambda t: 0.1 * t ** 0.3,
            'faster': lambda t: (t / 300) ** 2, 'waves': lambda t: t / 300 * (1 + 0.4 * math.sin(t ** .7))}


@pytest.mark.parametrize('name', [*STEADY, *SWINGING])
def test_no_time_is_said_before_it_is_steady(name):
    left = TimeLeft()
    said = {t: left.after(t, share) for t, share in shares((STEADY | SWINGING)[name])}
    told = {t: seconds for t, seconds in said.items() if seconds is not None}
    if name in SWINGING: assert len(told) < 30, told
    else: assert len(told) > 100 and min(told) >= 20
    if name in STEADY: assert all(abs(seconds - (300 - t)) <= 0.3 * 300 for t, seconds in told.items())


def test_bars_say_a_question_mark_before_that():
    "also those that begin in the middle"
    for initial in (0, 50):
        bar = SteadyBar(total=100, initial=initial, file=StringIO())
        bar.update(25)
        assert '<?' in str(bar) and '?it/s' in str(bar)
        bar.left.after = lambda seconds, share: 9.
        assert '<?' not in str(bar)
        bar.close()


def test_a_run_counts_as_finished_when_it_has_all_that_is_asked_for(there):
    folders = load_config(write_config()).folders('results')
    (folder, asked), *_ = folders.items()
    runs = sweep.FinishedRuns(folders)
    assert not runs.has(folder)
    run(asked, folder, only=['performance'])
    assert not runs.has(folder)
    computed(asked, folder)
    assert runs.has(folder)
    (folder / 'manifest.json').write_text('{')
    assert not runs.has(folder)


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
        until(lambda: bars[0].n == 5)
        assert bars[0].total == 10 and 'half' in bars[0].desc


@pytest.mark.provokes('killed sweep')
def test_what_a_killed_run_said_is_forgotten(tmp_path, bars):
    path = tmp_path / '.out.progress.json'
    path.write_text(json.dumps(dict(n=9, total=10, text='before')))
    (tmp_path / f'.{path.name}.123.tmp').write_text('{"n"')
    with shown_progress(path): assert list(tmp_path.iterdir()) == [path] and read_progress(path)['text'] == 'starting'
    assert bars[0].desc != 'before'


def test_a_log_gets_a_line_per_finished_run(four, capfd):
    first, second, *_ = four
    for folder in (first, second): folder.mkdir()
    (first / 'manifest.json').touch()
    with sweep_progress(four, 'mine'):
        assert capfd.readouterr().err == ''
        (second / 'manifest.json').touch()
    assert capfd.readouterr().err == 'mine: 2 of 4 runs done, 50% after 0 min\n'


def test_a_log_gets_a_line_from_time_to_time(four, tmp_path, capfd, monkeypatch):
    "also while no run ends, and of one run; nothing else is written"
    monkeypatch.setattr(LogLines, 'every', 0.)
    path = progress_file(tmp_path / 'a')
    said = ''
    with shown_progress(path):
        path.write_text(json.dumps(dict(n=5, total=10, text='half')))
        while '\n' not in said: said += capfd.readouterr().err
    said += capfd.readouterr().err  # all that was written until the end
    assert set(said.splitlines()) <= {'starting, 0% after 0 min', 'half, 50% after 0 min'} and said.endswith('\n')
    path.write_text(json.dumps(dict(n=5, total=10, text='half')))
    with sweep_progress(four, 'mine'): pass
    assert set(capfd.readouterr().err.splitlines()) == {'mine: 0 of 4 runs done, 12% after 0 min'}
