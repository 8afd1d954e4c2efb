"""Run and figure notebooks: their parameters, and what an executed one shows"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import nbformat
import papermill
import pytest
import yaml

from modspec.experiment import TABLES, RunConfig, is_finished, read_manifest, read_table
from modspec.sweep import RunFailed, load_config, repository, run_notebook
from modspec.training import Parameters

ROOT = repository()
RUN = ROOT / 'nbs' / 'runs' / 'sparsity.ipynb'
FIGURES = sorted((ROOT / 'nbs' / 'figures').glob('*.ipynb'))
PARAMETRIZED = [RUN, *FIGURES]
each_notebook = pytest.mark.parametrize('path', PARAMETRIZED, ids=lambda path: path.stem)


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


# parameters

@pytest.mark.provokes('parameters tag')
@each_notebook
def test_one_cell_holds_the_parameters(path):
    "and only that cell: the next one, which checks them, comes right after"
    index, = tagged(path)
    assert nbformat.read(path, 4).cells[index + 1].cell_type == 'code'
    names = {'results', 'out'}
    if path == RUN: names = {'sparsity', 'dataset', 'seeds', 'first_seed', 'architecture', 'parameters', 'device',
                              'threads', 'out'}
    assert set(papermill.inspect_notebook(path)) == names


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


def test_defaults_are_a_smoke_test():
    "The notebook on its own is done in seconds"
    cells = nbformat.read(RUN, 4).cells
    values = {}
    exec(cells[tagged(RUN)[0]].source, values)
    config = RunConfig(values['sparsity'], values['dataset'], values['seeds'], values['architecture'],
                       Parameters(**values['parameters']), values['first_seed'])
    assert config.dataset == 'digits' and config.seeds <= 3
    assert config.parameters.epochs == config.parameters.bottleneck_epochs == 1
    assert 0 < config.parameters.n_pairs <= 5000


@pytest.mark.provokes('parameters tag')
def test_notebook_without_its_tag_is_refused(tmp_path, checkout):
    "and not executed with its defaults under another name"
    checkout(tagged=False)
    config = RunConfig(0.5, seeds=1, architecture='standard', parameters=Parameters(n_hidden=10, epochs=1, n_pairs=100))
    with pytest.raises((RunFailed, ValueError), match='parameter'): run_notebook(config, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'manifest.json').exists()


# executed

def test_bare_papermill_computes_the_same(smoke, tmp_path):
    "The documented call gives the tables of `modspec run`, byte for byte; its folder is a finished run"
    out, config = tmp_path / 'out', load_config(smoke.config)
    out.mkdir()
    parameters = yaml.safe_load(smoke.config.read_text())['parameters']
    command = [Path(sys.executable).with_name('papermill'), RUN, out / 'notebook.ipynb', '-p', 'sparsity', '0.0001',
               '-p', 'seeds', str(config.seeds), '-p', 'out', out, '-y', json.dumps({'parameters': parameters})]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {'OMP_NUM_THREADS': '1'}, check=True, capture_output=True)
    for name in (*TABLES, 'networks.safetensors'):
        assert (out / name).read_bytes() == (smoke.results / 'runs' / 'p=0.0001,seeds=0-1' / name).read_bytes()
    assert is_finished(out, config.runs()['p=0.0001,seeds=0-1'])
    assert read_manifest(out)['files'].keys() == {*TABLES, 'networks.safetensors'}
    assert_executed(out / 'notebook.ipynb')


@pytest.mark.parametrize('p', [0.0001, 1.])
def test_executed_run(smoke, p):
    "shows its configuration, the history, the interconnections and the metrics"
    path = smoke.results / 'runs' / f'p={p!r},seeds=0-1' / 'notebook.ipynb'
    assert_executed(path)
    injected = [cell for cell in nbformat.read(path, 4).cells if 'injected-parameters' in cell.metadata.get('tags', [])]
    assert len(injected) == 1 and f'sparsity = {p}' in injected[0].source
    assert any(f'RunConfig(sparsity={p}, ' in text for text in outputs(path, 'text/plain'))
    assert len(outputs(path, 'image/png')) == 2
    table = outputs(path, 'text/html')[-1]
    for name in set(read_table(path.parent)['metric']): assert f'>{name}<' in table
    assert 'NaN' not in table.split('<tbody>')[1].replace('<th>NaN</th>', '')


def test_executed_run_of_several_sparsities(tmp_path):
    "shows a line for every network, and means at each sparsity"
    config = RunConfig((0.05, 1.), seeds=2, first_seed=3, architecture='standard',
                       parameters=Parameters(n_hidden=10, epochs=2, n_pairs=100))
    path = run_notebook(config, tmp_path / 'out') / 'notebook.ipynb'
    assert_executed(path)
    shown = [text for text in outputs(path, 'text/plain') if 'RunConfig(sparsity=(0.05, 1.0), ' in text]
    assert 'first_seed=3)' in shown[0]
    table = outputs(path, 'text/html')[-1]
    assert '>0.05<' in table and '>1.00<' in table and set(read_table(path.parent)['seed']) == {3, 4}


def test_executed_figures(smoke):
    "A page for each notebook, and pictures that are not blank"
    folder = smoke.results / 'figures'
    assert {path.name for path in folder.glob('*.ipynb')} == {path.name for path in FIGURES}
    pictures = sorted(folder.glob('*.png'))
    names = ['accuracy', 'architecture_bottleneck', 'architecture_standard', 'parameters', 'raw_metrics',
             'specialization', 'specialization_by_role']
    assert [path.stem for path in pictures] == names
    for path in pictures:
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 100 and image[..., :3].std() > 0.02
        pdf = path.with_suffix('.pdf').read_bytes()
        assert pdf.startswith(b'%PDF') and len(pdf) > 2000


@pytest.mark.parametrize('name', [path.stem for path in FIGURES])
def test_executed_figure(smoke, name):
    "Each shows a picture of these results; the caption of one with intervals says how many networks it is about"
    path = smoke.results / 'figures' / f'{name}.ipynb'
    assert_executed(path)
    assert outputs(path, 'image/png')
    if name == 'parameters': assert '2*64 (paper: 2*784)' in outputs(path, 'text/html')[0]
    elif name == 'architectures': assert '10000' in outputs(path, 'text/html')[0]
    else:
        caption = outputs(path, 'text/markdown')[0]
        assert 'n = 2 ' in caption and '95 %' in caption and 'interval' in caption and 'Failed: none of' in caption
