"""Run and figure notebooks: their parameters, how a run gets its place, and what an executed one shows"""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.image
import nbformat
import papermill
import pytest
import yaml
from sweeps import CONFIG, computed, contents, weights

from modspec.analysis.tables import read_table
from modspec.core.files import ResultError, read_manifest
from modspec.engine import notebook as pages
from modspec.engine.attempts import RunFailed, attempt
from modspec.engine.config import load_config
from modspec.engine.notebook import (
    RUN_PARAMETERS,
    check_injected,
    draw_figures,
    execute,
    figure_notebooks,
    notebook_parameters,
    repository,
    run_notebook,
    seal,
)
from modspec.engine.plan import make_run, study_named
from modspec.engine.run import run
from modspec.engine.store import NOTEBOOK, TABLES, WEIGHTS, is_finished, lacking
from modspec.studies.extreme_sparsity.config import sparsity_run

ROOT = repository()
RUNS = sorted(path for path in (ROOT / 'nbs' / 'runs').glob('*.ipynb') if path.stem != 'inspect')  # of studies
RUN = ROOT / 'nbs' / 'runs' / 'extreme_sparsity.ipynb'
FIGURES = sorted((ROOT / 'nbs' / 'studies').glob('*/figures/*.ipynb'))
PAPER_FIGURES = [path for path in FIGURES if 'extreme_sparsity' in path.parts]  # those of the smoke sweep
each_notebook = pytest.mark.parametrize('path', [*RUNS, *FIGURES], ids=lambda path: path.stem)


def other(p): return replace(CONFIG, settings=replace(CONFIG.settings, sparsity=p))


def tagged(path):
    "Indices of the cells tagged `parameters`"
    cells = nbformat.read(path, 4).cells
    return [i for i, cell in enumerate(cells) if 'parameters' in cell.metadata.get('tags', [])]


def outputs(path, kind):
    "All outputs of one mime type in an executed notebook"
    found = [output for cell in nbformat.read(path, 4).cells for output in cell.get('outputs', [])]
    return [''.join(output['data'][kind]) for output in found if kind in output.get('data', {})]


def assert_executed(path):
    "Every code cell ran, in order, without an error or a warning"
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != 'error' and 'Warning' not in output.get('text', ''), output


def refused(action, message, *, error=ValueError, unchanged):
    "An action that must fail and change nothing"
    before = contents(unchanged), sorted(unchanged.rglob('*'))
    with pytest.raises(error, match=message) as caught: action()
    assert (contents(unchanged), sorted(unchanged.rglob('*'))) == before and '\n' not in str(caught.value)


@pytest.fixture
def played(monkeypatch):
    "Play the kernel's part: the run that is asked for, in this process; a failure if it is told to"
    def make(config, error=None, only=None):
        def play(notebook, target, values):
            assert json.loads(json.dumps(values)) == values
            target.write_text('{}')
            run(config, values['out'], only=only, outdated=values['outdated'])
            if error: raise error
        monkeypatch.setattr(pages, 'execute', play)
    return make


# parameters

def test_there_is_a_notebook_for_every_study():
    studies = {load_config(path).study.name for path in (ROOT / 'config').glob('*/*.yaml')}
    assert {path.stem for path in RUNS} == studies


@pytest.mark.provokes('parameters tag')
@each_notebook
def test_one_cell_holds_the_parameters(path):
    "and only that cell: the next one, which checks them, comes right after"
    index, = tagged(path)
    assert nbformat.read(path, 4).cells[index + 1].cell_type == 'code'
    names = set(papermill.inspect_notebook(path))
    if path in RUNS: assert names == {*RUN_PARAMETERS} | {*study_named(path.stem).needed}
    else: assert {'results', 'out'} <= names


@pytest.mark.provokes('parameters tag')
@each_notebook
def test_parameters_tag_survives_cleaning(path, tmp_path):
    "nbdev_clean strips the tags of any repository that does not say otherwise in settings.ini"
    copy = tmp_path / path.relative_to(ROOT)
    copy.parent.mkdir(parents=True)
    shutil.copy(path, copy)
    shutil.copy(ROOT / 'settings.ini', tmp_path)
    subprocess.run([Path(sys.executable).with_name('nbdev_clean'), '--fname', copy], cwd=tmp_path, check=True,
                   capture_output=True)
    assert tagged(copy) == tagged(path) and copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize('path', RUNS, ids=lambda path: path.stem)
def test_defaults_are_a_smoke_test(path):
    "The notebook on its own is done in seconds"
    cells, values = nbformat.read(path, 4).cells, {}
    exec(cells[tagged(path)[0]].source, values)
    several = [values['sparsity']] if 'sparsity' in values else []
    config = make_run(path.stem, values['settings'], several, seeds=values['seeds'], first_seed=values['first_seed'],
                      measuring=values['measuring'])
    assert config.settings.dataset in ('digits', 'retina') and config.seeds <= 3 and config.settings.epochs == 1
    assert getattr(config.settings, 'bottleneck_epochs', 1) == 1 and 0 < config.settings.n_pairs <= 5000


def test_notebook_parameters_say_what_differs():
    how = dict(device='cpu', threads=1, outdated=False)
    found = notebook_parameters(CONFIG, Path('out'), **how)
    tiny = dict(architecture='standard', epochs=1, n_hidden=10, n_pairs=100)
    same = dict(sparsity=0.07, seeds=1, first_seed=0, measuring=[{}], out='out', plugins=[]) | how
    assert found == same | dict(settings=tiny)
    several = notebook_parameters(sparsity_run((0.1, 1.), seeds=1, first_seed=5), Path('out'), **how)
    assert several == same | dict(sparsity=[0.1, 1.], first_seed=5, settings={})
    ways = notebook_parameters(replace(CONFIG, measuring=({}, {'mask_fraction': 0.1})), Path('out'), **how)
    assert ways == found | dict(measuring=[{}, {'mask_fraction': 0.1}])
    layers = notebook_parameters(make_run('upstream_downstream', {'layers': '8'}, seeds=1), Path('out'), **how)
    assert layers == {k: v for k, v in same.items() if k != 'sparsity'} | dict(settings={'layers': '8'})
    for path, values in ((RUN, several), (RUNS[-1], layers)):
        assert values.keys() <= set(papermill.inspect_notebook(path))


@pytest.mark.provokes('parameters tag')
@pytest.mark.parametrize('notebook', [RUN, RUNS[-1], PAPER_FIGURES[0]], ids=lambda path: path.stem)
def test_misspelt_parameter_is_refused(tmp_path, notebook):
    "where papermill would only warn"
    with pytest.raises(ValueError, match=f"{notebook.name}: 'outt'; did you mean 'out'"):
        execute(notebook, tmp_path / 'out.ipynb', {'outt': str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_a_run_notebook_checks_what_papermill_injects():
    check_injected(['x = 1', '# Parameters\nseeds = 1\nsparsity = 0.1\n'], 'sparsity')
    for cell in ('# Parameters\nsparsty = 0.1\n', '# Parameters\nseeds = 1\nsparsity2 = 1\n'):
        with pytest.raises(ValueError, match="unknown parameter 'spars.*; did you mean 'sparsity'"):
            check_injected([cell], 'sparsity')
    with pytest.raises(ValueError, match="unknown parameter 'sparsity'"):
        check_injected(['# Parameters\nsparsity = 0.1\n'])


@pytest.mark.provokes('parameters tag')
def test_misspelt_parameter_of_papermill_alone(tmp_path):
    "papermill only warns; the run notebook refuses, before any work"
    out = tmp_path / 'out'
    command = [Path(sys.executable).with_name('papermill'), RUN, tmp_path / 'page.ipynb', '-k', 'python3']
    said = subprocess.run([*command, '-p', 'out', out, '-p', 'sparsty', '0.1'], capture_output=True, text=True)
    assert "unknown parameter 'sparsty'; did you mean 'sparsity'?" in said.stderr
    assert said.returncode and not out.exists()


@pytest.mark.provokes('parameters tag')
def test_notebook_without_its_tag_is_refused(tmp_path, checkout):
    "and not executed with its defaults under another name"
    checkout(tagged=False)
    with pytest.raises((RunFailed, ValueError), match='parameter'): run_notebook(CONFIG, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'manifest.json').exists()


# one run

@pytest.mark.provokes('illegal values')
def test_run_notebook_refuses(tmp_path, monkeypatch):
    "before a kernel starts, and leaves not even an empty folder"
    def forbidden(*_, **__): raise AssertionError('a kernel was started')
    monkeypatch.setattr(pages, 'execute', forbidden)
    monkeypatch.setenv('MODSPEC_DATA', str(tmp_path / 'nowhere'))
    mnist, out = replace(CONFIG, settings=replace(CONFIG.settings, dataset='mnist')), tmp_path / 'deep' / 'out'
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
    (tmp_path / 'done' / NOTEBOOK).unlink()
    check(lambda: run_notebook(CONFIG, tmp_path / 'done'), 'notebook.ipynb has SHA-256 no file.*run again')


@pytest.mark.provokes('parameters tag')
def test_seal(tmp_path):
    "takes the notebook into the manifest, of the right run only"
    run(CONFIG, tmp_path)
    page = tmp_path / NOTEBOOK
    page.write_text('{}')
    before = read_manifest(tmp_path)
    for wrong in (other(0.5), replace(CONFIG, measuring=({'mask_fraction': 0.1},))):
        refused(lambda wrong=wrong: seal(tmp_path, page, wrong), 'computed another run .* tagged', unchanged=tmp_path)
    seal(tmp_path, page, CONFIG)
    after = read_manifest(tmp_path)
    assert after['files'].keys() - before['files'].keys() == {NOTEBOOK}
    changed = {'files', 'sha256'}  # the second is the manifest's own checksum
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


@pytest.mark.parametrize('link', [False, True])
def test_run_notebook_puts_a_run_in_its_place(tmp_path, played, link):
    "over the rest of an interrupted one, and also where a link points"
    played(CONFIG)
    folder = tmp_path / 'real'
    (folder if link else tmp_path / 'out').mkdir()
    if link: (tmp_path / 'out').symlink_to(folder)
    (tmp_path / 'out' / 'values.parquet').write_text('half')
    (tmp_path / 'out.failed').mkdir()
    run_notebook(CONFIG, tmp_path / 'out')
    assert {path.name for path in (tmp_path / 'out').iterdir()} - {'manifest.json'} == {
        *read_manifest(tmp_path / 'out')['files']}
    assert is_finished(tmp_path / 'out', CONFIG) and 'MODSPEC_PROGRESS' not in os.environ
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'out.failed') == ['out', 'real'] if link else ['out']


def test_a_page_is_made_for_what_was_measured_without_one(tmp_path, played):
    "also if more has been measured than is asked for"
    run(replace(CONFIG, measuring=({}, {'mask_fraction': 0.1})), tmp_path / 'out')
    played(CONFIG)
    run_notebook(CONFIG, tmp_path / 'out')
    assert is_finished(tmp_path / 'out', CONFIG)


def test_a_failed_measure_keeps_the_networks(tmp_path, played):
    "in a run that has its name, lacks what could not be measured, and is completed by the next attempt"
    played(CONFIG, KeyError('a bug'), only=['performance'])
    with pytest.raises(RunFailed, match='a bug'): run_notebook(CONFIG, tmp_path / 'out')
    assert (tmp_path / 'out.failed' / NOTEBOOK).exists()
    before = weights(tmp_path)
    lacks = {name for name, _ in lacking(read_manifest(tmp_path / 'out'), CONFIG)}
    assert len(before) == 1 and {'bottleneck', 'weight_mask', 'correlation'} <= lacks and 'performance' not in lacks
    with pytest.raises(RunFailed, match='a bug'): run_notebook(CONFIG, tmp_path / 'out')
    played(CONFIG)
    run_notebook(CONFIG, tmp_path / 'out')
    assert is_finished(tmp_path / 'out', CONFIG) and weights(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_networks_of_other_code_are_trained_again_if_asked(tmp_path, played, monkeypatch):
    played(CONFIG)
    run_notebook(CONFIG, tmp_path / 'out')
    before, page = read_manifest(tmp_path / 'out'), (tmp_path / 'out' / 'manifest.json').stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(pages, 'older_parts', lambda *_: ['training'])
        run_notebook(CONFIG, tmp_path / 'out')
        assert read_manifest(tmp_path / 'out') == before
        run_notebook(CONFIG, tmp_path / 'out', outdated=True)
    after = read_manifest(tmp_path / 'out')
    assert (tmp_path / 'out' / 'manifest.json').stat().st_ino != page  # another folder
    assert after['files'][WEIGHTS] == before['files'][WEIGHTS] and [p.name for p in tmp_path.iterdir()] == ['out']


def test_run_of_another_configuration_is_refused(tmp_path, played):
    "A notebook that ignored its parameters: nothing gets the name of the run that was asked for"
    played(CONFIG)
    with pytest.raises(RunFailed, match='p=0.5 failed, the notebook computed .*is its parameters cell tagged'):
        run_notebook(other(0.5), tmp_path / 'new')
    assert (tmp_path / 'new.failed' / NOTEBOOK).exists() and not (tmp_path / 'new' / 'manifest.json').exists()


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
    with attempt(out) as mine: assert set(tmp_path.iterdir()) == {*others, theirs, mine}
    living.kill(), living.communicate()
    assert theirs.exists()
    with attempt(out): pass
    assert set(tmp_path.iterdir()) == {*others}


@pytest.mark.provokes('killed kernel')
def test_kernel_that_dies(tmp_path, checkout):
    "is a failed run, although its notebook holds no error"
    checkout('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)')
    with pytest.raises(RunFailed, match='p=0.07 failed, the kernel died.*out.failed/notebook.ipynb'):
        run_notebook(CONFIG, tmp_path / 'out')
    assert (tmp_path / 'out.failed' / NOTEBOOK).exists() and not (tmp_path / 'out' / 'manifest.json').exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != 'out') == ['checkout', 'out.failed']


@pytest.mark.provokes('two sweeps')
def test_kernels_of_parallel_runs_share_no_socket(there):
    "whatever folder they are started in"
    notebook = nbformat.read(RUN, 4)
    look = nbformat.v4.new_code_cell('from ipykernel.connect import get_connection_info\nprint(get_connection_info())')
    notebook.cells = [cell for cell in notebook.cells if cell.metadata.get('tags') == ['parameters']] + [look]
    nbformat.write(notebook, 'notebook.ipynb')
    for name in ('a.ipynb', 'b.ipynb'): execute(Path('notebook.ipynb'), there / name, {})
    places = [json.loads(nbformat.read(there / name, 4).cells[-1].outputs[0].text) for name in ('a.ipynb', 'b.ipynb')]
    assert {place['transport'] for place in places} == {'ipc'} and places[0]['ip'] != places[1]['ip']
    for place in places:
        folder = Path(place['ip']).parent
        assert folder.is_absolute() and folder.name.startswith('.modspec-') and not folder.exists()
    assert {path.name for path in there.iterdir()} == {'notebook.ipynb', 'a.ipynb', 'b.ipynb'}


# executed

def test_bare_papermill_computes_the_same(smoke, tmp_path):
    "The documented call gives the tables of `modspec run`, byte for byte; its folder is a finished run"
    out, config = tmp_path / 'out', load_config(smoke.config)
    out.mkdir()
    settings = yaml.safe_load(smoke.config.read_text())['settings']
    command = [Path(sys.executable).with_name('papermill'), RUN, out / NOTEBOOK, '-p', 'sparsity', '0.0001',
               '-p', 'seeds', str(config.seeds), '-p', 'out', out, '-y', json.dumps({'settings': settings})]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {'OMP_NUM_THREADS': '1'}, check=True, capture_output=True)
    folder = smoke.results / 'runs' / 'p0.0001_seeds0-1'
    one, two = (read_manifest(path) for path in (out, folder))
    assert one['tables'] == two['tables'] and one['files'][WEIGHTS] == two['files'][WEIGHTS] and len(one['tables']) == 3
    seal(out, out / NOTEBOOK, config.runs()[folder.name])
    assert is_finished(out, config.runs()[folder.name])
    assert_executed(out / NOTEBOOK)


@pytest.mark.parametrize('p', [0.0001, 1.])
def test_executed_run(smoke, p):
    "shows its configuration, the history, the interconnections and the measures"
    path = smoke.results / 'runs' / f'p{p!r}_seeds0-1' / NOTEBOOK
    assert_executed(path)
    injected = [cell for cell in nbformat.read(path, 4).cells if 'injected-parameters' in cell.metadata.get('tags', [])]
    assert len(injected) == 1 and f'sparsity = {p}' in injected[0].source
    assert any(f'sparsity={p}, ' in text for text in outputs(path, 'text/plain'))
    assert len(outputs(path, 'image/png')) == 2
    table = outputs(path, 'text/html')[-1]
    for name in set(read_table(path.parent)['measure']): assert f'>{name}<' in table
    assert 'NaN' not in table.split('<tbody>')[1].replace('<th>NaN</th>', '').replace('<th>&lt;NA&gt;</th>', '')


def test_executed_run_of_several_sparsities(tmp_path):
    "shows a line for every network, and means at each sparsity"
    config = sparsity_run((0.05, 1.), seeds=2, first_seed=3, architecture='standard', n_hidden=10, epochs=2,
                          n_pairs=100)
    path = run_notebook(config, tmp_path / 'out') / NOTEBOOK
    assert_executed(path)
    table = outputs(path, 'text/html')[-1]
    assert '>0.05<' in table and '>1.00<' in table and set(read_table(path.parent)['seed']) == {3, 4}


def test_executed_run_of_layers(tmp_path):
    "The page of the other study"
    config = make_run('upstream_downstream', dict(layers='8', epochs=1, n_pairs=100), seeds=1)
    path = run_notebook(config, tmp_path / 'out')
    assert_executed(path / NOTEBOOK)
    assert len(outputs(path / NOTEBOOK, 'image/png')) == 1 and '>accuracy<' in outputs(path / NOTEBOOK, 'text/html')[-1]
    with pytest.raises(ResultError, match='no_such has no figures yet'): figure_notebooks('no_such')


def test_executed_figures(smoke):
    "A page for each notebook, and pictures that are not blank"
    folder = smoke.results / 'figures'
    assert {path.name for path in folder.glob('*.ipynb')} == {path.name for path in PAPER_FIGURES}
    pictures = sorted(folder.glob('*.png'))
    assert {'accuracy', 'architecture_standard', 'specialization'} <= {path.stem for path in pictures}
    for path in pictures:
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 100 and image[..., :3].std() > 0.02
        pdf = path.with_suffix('.pdf').read_bytes()
        assert pdf.startswith(b'%PDF') and len(pdf) > 2000


@pytest.mark.parametrize('name', [path.stem for path in PAPER_FIGURES])
def test_executed_figure(smoke, name):
    "Each shows a picture of these results; the caption of one with intervals says how many networks it is about"
    path = smoke.results / 'figures' / f'{name}.ipynb'
    assert_executed(path)
    assert outputs(path, 'image/png')
    if name == 'parameters': assert '<td>ours</td>' in outputs(path, 'text/html')[0]
    elif name == 'architectures': assert '10000' in outputs(path, 'text/html')[0]
    else:
        caption = outputs(path, 'text/markdown')[0]
        assert 'n = 2 ' in caption and '95 %' in caption and 'interval' in caption


@pytest.mark.parametrize('kind', ['nowhere', 'damaged'])
def test_figures_want_whole_tables(smoke, tmp_path, monkeypatch, kind):
    def forbidden(*_, **__): raise AssertionError('a kernel was started')
    monkeypatch.setattr(pages, 'execute', forbidden)
    if kind == 'damaged':
        shutil.copytree(smoke.results, tmp_path / kind, ignore=shutil.ignore_patterns('runs', 'figures', 'logs'))
        (tmp_path / kind / f'{TABLES[1]}.parquet').write_bytes(b'')
    messages = dict(nowhere='nowhere holds no', damaged='values.parquet has SHA-256')
    refused(lambda: draw_figures(tmp_path / kind), messages[kind], error=ResultError, unchanged=tmp_path)
