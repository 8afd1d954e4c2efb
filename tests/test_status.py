"""What is said of a sweep without computing anything: its state, what would be done, and whether it is whole"""
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import COMMITTED
from sweeps import BAD_PAST, NORM, computed, contents, forgetting_plugins, older_code, swept, write_config

from modspec.core.files import ResultError, read_manifest
from modspec.engine import store
from modspec.engine.config import load_config
from modspec.engine.notebook import repository
from modspec.engine.progress import progress_file
from modspec.engine.run import run
from modspec.engine.status import (
    other_code,
    planned,
    run_state,
    seconds_left,
    status_text,
    sweep_status,
    verify_results,
)
from modspec.engine.store import WEIGHTS


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "Results of a small sweep; nobody writes into them"
    folder = tmp_path_factory.mktemp('whole')
    return swept(write_config(folder / 'sweep.yaml'), folder / 'results')


@pytest.fixture
def results(whole, tmp_path):
    "The same, to be changed; the sweep's file is beside them"
    shutil.copy(whole.with_name('sweep.yaml'), tmp_path)
    return shutil.copytree(whole, tmp_path / 'results')


# states

def test_states(there):
    sparsities = [0.01, 0.1, 0.3, 0.5, 0.7, 1.]
    folders = load_config(write_config(sparsities=sparsities)).folders('results')
    done, missing, other, running, trained, failed = folders
    assert {one['state'] for one in sweep_status('sweep.yaml', 'results')} == {'missing'}
    assert not Path('results').exists()
    computed(folders[done], done), computed(folders[missing], other)
    run(folders[trained], trained, only=['correlation'])
    for folder in (running, failed): progress_file(folder).write_text(json.dumps(dict(n=1, total=4, text='training')))
    long_ago = progress_file(failed).stat().st_mtime - 3600
    os.utime(progress_file(failed), (long_ago, long_ago))  # of a run that was killed
    failed.with_name(f'{failed.name}.failed').mkdir()
    status = sweep_status('sweep.yaml', 'results')
    assert [one['run'] for one in status] == [folder.name for folder in folders]
    assert [one['state'] for one in status] == ['done', 'missing', 'other', 'running', 'trained', 'failed']
    assert [one['progress'] for one in status][:4] == [1, 0, 0, .25] and 0 < status[4]['progress'] < 1
    assert status[0]['seconds'] > 0 and status[3]['seconds'] is None
    before = contents(there)
    lines = planned('sweep.yaml', 'results').splitlines()
    said = ['nothing', 'train and measure', 'refused', 'being', 'measure', 'again']
    for word, line in zip(said, lines): assert word in line
    assert 'weight_mask' in lines[4] and 'correlation' not in lines[4] and contents(there) == before


def test_starting(there):
    "A worker that loads its libraries has an attempt and says nothing yet; of one that was killed the trace grows old"
    first, second = load_config(write_config()).folders('results')
    for folder in (first, second): folder.with_name(f'.{folder.name}.attempt-1').mkdir(parents=True)
    long_ago = time.time() - 3600
    os.utime(second.with_name(f'.{second.name}.attempt-1'), (long_ago, long_ago))
    status = sweep_status('sweep.yaml', 'results')
    assert [one['state'] for one in status] == ['starting', 'missing'] and '1 starting' in status_text(status)
    assert 'being computed' in planned('sweep.yaml', 'results').splitlines()[0]


SQUEUE = """#!/bin/sh
echo '7|PENDING'; echo '8|RUNNING'; echo '9_1|PENDING'; echo '9_2|RUNNING'
"""


def test_jobs_of_a_cluster(there, monkeypatch):
    "A run waits or starts as its last job does; what has left files is known by these"
    folders = load_config(write_config(sparsities=[0.01, 0.1, 0.3, 0.5, 0.7, 1.])).folders('results')
    queued, starting, *arrays, ended, running = folders
    begun = [f'rule run:\n    jobid: {i}\n    wildcards: run={folder.name}\n' for i, folder in enumerate(folders)]
    jobs = [f'Job {i} has been submitted with SLURM jobid {number} (log: x).\n'
            for i, number in enumerate([6, 8, 4, 5, 10, 7])]
    array = 'Submitted array job with Snakemake IDs 2,3 and SLURM job ID 9. The individual task IDs are 1-2.\n'
    again = 'Job 0 has been submitted with SLURM jobid 7 (log: x).\n'
    running.parent.mkdir(parents=True)
    Path('results/sweep.log').write_text(''.join([*begun, *jobs, array, again]))
    progress_file(running).write_text(json.dumps(dict(n=1, total=4, text='training')))
    Path('squeue').write_text(SQUEUE)
    Path('squeue').chmod(0o755)
    monkeypatch.setenv('PATH', f'{there}{os.pathsep}{os.environ["PATH"]}')
    states = {one['run']: one['state'] for one in sweep_status('sweep.yaml', 'results')}
    assert [*states.values()] == ['queued', 'starting', 'queued', 'starting', 'missing', 'running']
    assert 'queue' in planned('sweep.yaml', 'results').splitlines()[0]
    Path('squeue').write_text('#!/bin/sh\nexit 1\n')
    assert sweep_status('sweep.yaml', 'results')[0]['state'] == 'missing'


def test_a_run_without_a_page_is_not_done(there):
    (folder, asked), *_ = load_config(write_config()).folders('results').items()
    run(asked, folder)
    assert run_state(folder, asked)['state'] == 'trained' and 'page' in planned('sweep.yaml', 'results')
    computed(asked, folder)
    assert run_state(folder, asked)['state'] == 'done'


def test_why_a_run_failed_is_said(there):
    folder, _ = load_config(write_config()).folders('results')
    failed = folder.with_name(f'{folder.name}.failed')
    failed.mkdir(parents=True)
    (failed / 'reason.txt').write_text('the loss became nan\n')
    assert 'the loss became nan' in planned('sweep.yaml', 'results').splitlines()[0]


def test_folder_of_something_else(results):
    "is another one, whatever kind of result it is"
    folder = results / 'runs' / 'p1.0_seeds0-0'
    shutil.copy(results / 'manifest.json', folder / 'manifest.json')
    assert [one['state'] for one in sweep_status(results.with_name('sweep.yaml'), results)] == ['done', 'other']


def test_a_new_measure_is_seen(results):
    "and more seeds, more values, another way of measuring: only what is new"
    with forgetting_plugins():
        (results.parent / 'norm.py').write_text(NORM)
        path = write_config(results.with_name('norm.yaml'), plugins=['norm.py'])
        assert [one['state'] for one in sweep_status(path, results)] == ['trained'] * 2
        assert all('measure norm' in line for line in planned(path, results).splitlines()[:2])
    path = write_config(results.with_name('more.yaml'), [0.01, 0.3, 1.], axes={'mask_fraction': [0.05, 0.1]})
    assert [one['state'] for one in sweep_status(path, results)] == ['trained', 'missing', 'trained']
    assert 'measure weight_mask' in planned(path, results).splitlines()[0]
    path = write_config(results.with_name('seeds.yaml'), seeds=2, seeds_per_run=1)
    assert [one['state'] for one in sweep_status(path, results)] == ['done', 'missing'] * 2


def test_seconds_left():
    status = [dict(state=state, progress=progress, seconds=seconds) for state, progress, seconds in
              zip(['done', 'running', 'running', 'missing'], [1, .5, .5, 0], [10., None, None, None])]
    assert seconds_left(status) == 10  # two more runs' worth of work, two at once
    assert seconds_left(status[1:]) is None
    assert seconds_left(status[:1]) == 0
    full = [one | dict(run=f'run{i}', older='') for i, one in enumerate(status)]
    assert status_text(full).splitlines()[-1].startswith('1 done, 2 running, 1 missing')


# verify

def test_whole_results(results):
    folders, wrong = verify_results(results)
    assert wrong == {} and folders == [results, *sorted((results / 'runs').iterdir())] and other_code(folders) == {}
    folder = results / 'runs' / 'p0.01_seeds0-0'
    assert verify_results(folder) == ([folder], {})
    shutil.rmtree(results / 'runs')  # the tables alone, as in the repository
    assert verify_results(results) == ([results], {}) and other_code([results]) == {}


def test_everything_damaged_is_named(results):
    first, second = sorted((results / 'runs').iterdir())
    values = first / read_manifest(first)['tables']['values']
    (results / 'history.parquet').unlink()
    with open(first / WEIGHTS, 'r+b') as file: file.write(b'XX')
    with open(values, 'r+b') as file: file.truncate(100)
    (second / 'manifest.json').write_text('{')
    (results / 'runs' / 'p1.0_seeds1-1.failed').mkdir(), (results / 'runs' / '.p1.0.attempt-1').mkdir()
    _, wrong = verify_results(results)
    assert list(wrong) == [results / 'history.parquet', values, first / WEIGHTS, second / 'manifest.json']
    reasons = ['is missing', 'has 100 bytes with SHA-256 ', ' expected ', 'is damaged']
    assert all(part in reason for part, reason in zip(reasons, wrong.values()))


def test_run_without_a_folder_is_named(results):
    shutil.rmtree(results / 'runs' / 'p1.0_seeds0-0')
    assert list(verify_results(results)[1]) == [results / 'runs' / 'p1.0_seeds0-0' / 'manifest.json']


def test_unfinished_sweep_lacks_its_tables(results):
    (results / 'manifest.json').unlink()
    assert list(verify_results(results)[1]) == [results / 'manifest.json']


def test_verify_wants_results(tmp_path):
    with pytest.raises(ResultError, match='holds no results: neither manifest.json nor runs'): verify_results(tmp_path)


@pytest.mark.parametrize('name', COMMITTED)
def test_committed_results_are_whole(name):
    "what the figures and claims of the paper, and the pages beside it, are read from; the first is of no other code"
    folders, wrong = verify_results(repository() / 'results' / name)
    assert wrong == {}
    if name in ('paper',): assert other_code(folders) == {}


# other code

def test_other_code_is_named(results):
    "by part, with the number of runs; such runs are done"
    first, second = sorted((results / 'runs').iterdir())
    older_code(first, 'correlation', 'training'), older_code(second, 'correlation')
    folders, wrong = verify_results(results)
    assert wrong == {} and other_code(folders) == {'training': 1, 'correlation': 2}
    status = sweep_status(results.with_name('sweep.yaml'), results)
    assert [one['state'] for one in status] == ['done', 'done']
    assert [one['older'] for one in status] == ['training, correlation', 'correlation']
    lines = status_text(status).splitlines()
    assert 'correlation' in lines[1] and 'training' not in lines[1]


def test_a_changed_module_is_noticed(results, monkeypatch):
    "by what it computes, and by nothing else"
    real = store.sources
    def edited(module): return lambda *modules: {
        name: text + '\nx = 1' * (name == module) for name, text in real(*modules).items()}
    for module, parts in {'modspec.measures.weight_mask': {'weight_mask': 2}, 'modspec.analysis.plot': {}}.items():
        monkeypatch.setattr(store, 'sources', edited(module))
        assert other_code(verify_results(results)[0]) == parts
    assert BAD_PAST not in str(read_manifest(results)['codes'])
