"""What comes with the package: found under every name that the documentation uses, own files first"""
import json
from pathlib import Path

import pytest
from conftest import ROOT
from test_cli import invoke, one_line

from modspec.core import shipped
from modspec.core.files import ResultError
from modspec.core.shipped import find_shipped, near_config, repository, root_beside, shipped_configs, working_copy
from modspec.engine.config import load_config
from modspec.engine.sweep import run_sweep

CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / 'config').rglob('*.yaml'))
SMOKE = 'axes: {sparsity: [0.5]}\nseeds: 1\n'


@pytest.fixture
def lacking(monkeypatch, tmp_path):
    "A package whose files are gone"
    monkeypatch.setattr(shipped.resources, 'files', lambda name: tmp_path / 'lib' / name)


def test_a_package_without_its_files(lacking):
    with pytest.raises(ResultError, match='lacks the notebooks that come with it; install it again'): repository()


def test_a_checkout_goes_first(tmp_path):
    package = tmp_path / 'modspec'
    for root in (package / 'shipped', tmp_path):
        (root / 'nbs' / 'runs').mkdir(parents=True)
        assert root_beside(package) == root


@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_every_sweep_is_found_from_everywhere(there, config):
    "by its path in a checkout, with and without `config`, with and without the ending"
    below = config.relative_to('config')
    for name in (config, below, below.with_suffix('')): assert find_shipped(name) == ROOT / config
    assert below.with_suffix('').as_posix() in shipped_configs()


@pytest.mark.parametrize('name', ['config/extreme_sparsity/quick.yaml', 'extreme_sparsity/quick'])
def test_own_files_go_first(there, name):
    assert load_config(name).seeds > 1
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text(SMOKE)
    assert load_config(name).seeds == 1 and find_shipped(name) == Path(name)


@pytest.mark.parametrize('name', ['quick.old', 'extreme_sparsity/quick.old', '/extreme_sparsity/quick', 'quick'])
def test_nothing_else_is_found(there, name):
    assert find_shipped(name) == Path(name)


def test_hints(there):
    assert near_config('mine.yaml') == ''
    for slip in ('extreme_sparsity/quik', 'config/extreme_sparsity/quik.yaml', 'extreme_sparity/quick.yaml'):
        assert near_config(slip) == '; did you mean extreme_sparsity/quick?'
    (there / 'extreme_sparsity').mkdir()
    (there / 'extreme_sparsity' / 'quik').touch()
    assert near_config('extreme_sparsity/quik') == ''  # it is there, and something else is wrong with it
    with pytest.raises(ValueError, match='cannot be read: .*did you mean causes/wide'): load_config('causes/wid.yaml')


def test_plugins_of_a_shipped_name_are_looked_for_beside_the_file(there, monkeypatch):
    (there / 'lib' / 'config' / 'mine').mkdir(parents=True)
    (there / 'lib' / 'config' / 'mine' / 'one.yaml').write_text(SMOKE + 'plugins: [none.py]\n')
    monkeypatch.setattr(shipped, 'repository', lambda: there / 'lib')
    with pytest.raises(ValueError, match=str(there / 'lib' / 'config' / 'mine' / 'none.py')): load_config('mine/one')


def test_profiles_are_found(there, monkeypatch):
    "by the name that they have in a checkout"
    def stop(config, results, cores, *, profile, **_): raise ResultError(f'the profile is {profile}')
    monkeypatch.setattr('modspec.engine.sweep.snakemake_command', stop)
    with pytest.raises(ResultError, match=str(ROOT / 'workflow' / 'profiles' / 'slurm')):
        run_sweep('extreme_sparsity/smoke', 'results', profile='workflow/profiles/slurm')


# nothing is made before something is refused

ASKED = ['run --sparsity 0.1 --out results/one', 'sweep {}', 'reproduce {}', 'figures {results}', 'explore']
WRONG = {
    'sweep {} --profile nope': 'no Snakemake profile', 'reproduce {} --profile nope': 'no Snakemake profile',
    'sweep {} --device cuda:99': 'cuda:99', 'run --sparsity 0.1 --out one --device cuda:99': 'cuda:99',
    'sweep {} --out of{{braces}}': 'braces', 'reproduce {} --out of{{braces}}': 'braces',
    'run --sparsity 7 --out one': 'sparsity', 'run --sparsity 0.1 --out one --threads 100000': 'threads',
    'run --config {} --name none --out one': 'none', 'collect {} --out none': 'none',
    'figures none': 'none', 'figures {results} --also none': 'none', 'measure none': 'none', 'verify none': 'none',
    'claims none': 'none', 'sweep none.yaml': 'none.yaml', 'status none.yaml': 'none.yaml'}


def left_behind(there, line, words):
    "What lies in an empty folder after a command was refused"
    config = ROOT / 'config' / 'extreme_sparsity' / 'smoke.yaml'
    answer = invoke(*line.format(config, results=ROOT / 'results' / 'paper').split())
    assert words in one_line(answer.exit_code, answer.stderr)
    return [*there.iterdir()]


@pytest.mark.parametrize('line', ASKED)
def test_without_the_files_nothing_is_left_behind(there, lacking, line):
    assert not left_behind(there, line, 'install it again')


@pytest.mark.parametrize('line', WRONG)
def test_what_is_refused_leaves_nothing_behind(there, line):
    assert not left_behind(there, line, WRONG[line])


# a notebook to work in

def test_the_explorer_is_copied_with_its_pictures(there, monkeypatch):
    "once, where a package is installed, and JupyterLab opens the copy"
    calls = []
    monkeypatch.setattr('modspec.cli.os.execv', lambda path, command: calls.append(command))
    (there / 'lib').mkdir()
    (there / 'lib' / 'shipped').symlink_to(ROOT)
    monkeypatch.setattr(shipped, 'repository', lambda: there / 'lib' / 'shipped')
    assert invoke('explore').exit_code == 0 and calls[0][-2:] == ['jupyterlab', 'explore.ipynb']
    page = json.loads(Path('explore.ipynb').read_text())
    original = json.loads((ROOT / 'nbs' / 'explorer' / 'explore.ipynb').read_text())
    texts = [cell['source'] for cell in page['cells'] if cell['cell_type'] == 'markdown']
    assert not any('](../' in text or '.ipynb)' in text for text in texts)
    pictures = [*(ROOT / 'nbs' / 'images').glob('explorer_*.png')]
    assert sum(text.count('](attachment:') for text in texts) == len(pictures)
    assert [c for c in page['cells'] if c['cell_type'] == 'code'] == \
           [c for c in original['cells'] if c['cell_type'] == 'code']
    Path('explore.ipynb').write_text('mine')
    assert invoke('explore').exit_code == 0 and Path('explore.ipynb').read_text() == 'mine'


def test_a_folder_that_takes_no_copy(tmp_path):
    with pytest.raises(ResultError, match='none cannot be written to .*start in another folder'):
        working_copy(repository() / 'nbs' / 'runs' / 'causes.ipynb', tmp_path / 'none')
