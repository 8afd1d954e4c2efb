"""Where results come from: what is recorded, what it does not decide, and how folders are shown and compared"""
import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sweeps import CONFIG, computed, contents, swept, weights, write_config
from typer.testing import CliRunner

from modspec.analysis.compare import compared, compared_in_words, paired_differences, pairing, settings_that_differ
from modspec.analysis.specialization import mean_interval
from modspec.analysis.tables import read_table
from modspec.cli import app
from modspec.core.files import ResultError, as_text, read_manifest
from modspec.engine import provenance as origin
from modspec.engine import run as running
from modspec.engine.collect import collect_sweep
from modspec.engine.config import load_config
from modspec.engine.provenance import checked_out, git_says, provenance
from modspec.engine.show import shown, shown_in_words
from modspec.engine.status import is_complete, other_code
from modspec.engine.store import is_finished, run_manifest

ELSEWHERE = dict(date='2031-01-01T00:00:00+00:00', host='elsewhere', processor='another', commit='f' * 40, clean=False)
ours = {name: value for name, value in os.environ.items() if not name.startswith('GIT_')}
AUTHOR = {f'GIT_{who}_{what}': 'a@b' for who in ('AUTHOR', 'COMMITTER') for what in ('NAME', 'EMAIL')}


def git(folder, *words):
    subprocess.run(['git', '-C', folder, *words], check=True, capture_output=True, env=ours | AUTHOR)


@pytest.fixture
def repository(tmp_path):
    "A repository with one file"
    if not shutil.which('git'): pytest.skip('no Git here')
    folder = tmp_path / 'repository'
    folder.mkdir()
    (folder / 'package.py').write_text('a = 1')
    for words in ('init -q', 'add package.py', 'commit -qm first'): git(folder, *words.split())
    checked_out.cache_clear()
    yield folder
    checked_out.cache_clear()


# what is recorded

def test_commit_and_whether_it_was_clean(repository):
    "A file that Git does not know changes nothing; one that it knows does, wherever it lies"
    file = repository / 'package.py'
    commit, clean = checked_out(file)
    assert len(commit) == 40 and clean is True and commit == git_says('rev-parse', 'HEAD', at=repository)
    (repository / 'results.csv').write_text('new')
    checked_out.cache_clear()
    assert checked_out(file) == (commit, True)
    file.write_text('a = 2')
    assert checked_out(file) == (commit, True)  # of this process: the code that it has loaded
    checked_out.cache_clear()
    assert checked_out(file) == (commit, False)


def test_a_package_within_the_repository_of_somebody_else(repository):
    "has no commit of its own"
    inside = repository / '.venv' / 'package.py'
    inside.parent.mkdir()
    inside.write_text('a = 1')
    assert checked_out(inside) == (None, None)


@pytest.mark.parametrize('why', ['no Git', 'no repository', 'no commit', 'damaged'])
def test_without_a_commit(repository, tmp_path, monkeypatch, why):
    "nothing fails, and nothing is claimed"
    if why == 'no Git': monkeypatch.setenv('PATH', str(tmp_path))
    if why in ('no repository', 'no commit'): shutil.rmtree(repository / '.git')
    if why == 'no commit': git(repository, 'init', '-q'), git(repository, 'add', 'package.py')
    if why == 'damaged': (repository / '.git' / 'HEAD').write_text('nothing')
    assert checked_out(repository / 'package.py') == (None, None)
    assert json.loads(json.dumps(provenance())).keys() == ELSEWHERE.keys()


def test_asking_git_writes_nothing(repository):
    os.utime(repository / 'package.py', (1, 1))  # Git would like to note the new time
    before = contents(repository)
    assert checked_out(repository / 'package.py')[1] is True and contents(repository) == before


# what it does not decide

@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    return swept(write_config(folder / 'sweep.yaml', seeds=3), folder / 'results')


@pytest.fixture
def elsewhere(monkeypatch): monkeypatch.setattr(running, 'provenance', lambda device: ELSEWHERE)


def test_every_manifest_says_where_it_comes_from(results):
    for folder in (results / 'runs').iterdir():
        manifest = read_manifest(folder)
        for part in (manifest['training'], *manifest['measured']): assert part['provenance'].keys() == ELSEWHERE.keys()
    runs = read_manifest(results)['runs'].values()
    assert len(runs) == 2 and all(one['provenance']['host'] for one in runs)


def test_tables_and_weights_do_not_depend_on_it(results, tmp_path, elsewhere):
    "The same sweep elsewhere and later: every byte but those of manifests"
    again = swept(results.with_name('sweep.yaml'), tmp_path / 'again')
    for name in ('networks', 'values', 'history'):
        assert (again / f'{name}.parquet').read_bytes() == (results / f'{name}.parquet').read_bytes()
    assert weights(again) == weights(results)
    for folder in (results / 'runs').iterdir():
        one, other = (read_manifest(place / 'runs' / folder.name) for place in (results, again))
        assert one['tables'] == other['tables'] and one['training']['identity'] == other['training']['identity']
        assert other['training']['provenance'] == ELSEWHERE != one['training']['provenance']


def test_it_decides_nothing(results, tmp_path):
    "Runs from elsewhere, and from before anything was recorded, are complete, the same, and of today's code"
    config = results.with_name('sweep.yaml')
    copied = shutil.copytree(results, tmp_path / 'copied')
    first, second = load_config(config).folders(copied).items()
    for (folder, asked), said in zip((first, second), (ELSEWHERE, None)):
        manifest = read_manifest(folder)
        for part in (manifest['training'], *manifest['measured']):
            del part['provenance']
            if said: part['provenance'] = said
        (folder / 'manifest.json').write_text(as_text(manifest))
        assert is_finished(folder, asked) and run_manifest(folder, asked)
    collect_sweep(config, copied)
    assert is_complete(copied, load_config(config)) and other_code([copied, first[0], second[0]]) == {}
    for name in ('networks', 'values', 'history'):
        assert (copied / f'{name}.parquet').read_bytes() == (results / f'{name}.parquet').read_bytes()
    assert shown(copied)['origins']['host'] == ['elsewhere']
    assert shown(second[0])['origins']['date'] == [] and 'not recorded' in shown_in_words(shown(second[0]))


def test_a_measure_taken_elsewhere_has_its_own(tmp_path, monkeypatch):
    running.run(CONFIG, tmp_path / 'out', only=['performance'])
    monkeypatch.setattr(running, 'provenance', lambda device: ELSEWHERE)
    running.run(CONFIG, tmp_path / 'out')
    stages = {stage['stage']: stage for stage in shown(tmp_path / 'out')['stages']}
    hosts = {name: stage['host'] for name, stage in stages.items()}
    assert hosts.pop('training') == hosts.pop('performance') != 'elsewhere'
    assert set(hosts.values()) == {'elsewhere'} and all(stage['seconds'] >= 0 for stage in stages.values())
    text = shown_in_words(shown(tmp_path / 'out'))
    assert 'elsewhere' in text and 'with changes that are in no commit' in text


def test_processor_of_an_unknown_system(monkeypatch):
    monkeypatch.setattr(origin.Path, 'read_text', lambda *args, **how: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr(origin.platform, 'processor', lambda: '')
    assert origin.processor() == origin.platform.machine() != ''


# show

def test_show_tells_what_is_there(results, tmp_path):
    about = shown(results)
    assert about['kind'] == 'sweep' and about['runs'] == 2 and about['axes'] == {'sparsity': [0.01, 1.]}
    assert about['changed']['n_hidden'] == 10 and not {'n_hidden', 'sparsity'} & {*about['usual']}
    assert {stage['runs'] for stage in about['stages']} == {2}
    folder = computed(CONFIG, tmp_path / 'run')
    about = shown(folder)
    assert about['kind'] == 'run' and about['networks'] == 1 and about['lacking'] == about['other_code'] == []
    assert about['files'] == {name: (folder / name).stat().st_size for name in read_manifest(folder)['files']}
    for each in (about, shown(results)):
        text = shown_in_words(each)
        assert max(map(len, text.splitlines())) <= 80 and each['study'] in text
        names = [*each['files'], *each['changed'], *(stage['stage'] for stage in each['stages'])]
        assert all(name in text for name in names)
        json.dumps(each, allow_nan=False)


def test_show_refuses(results, tmp_path):
    with pytest.raises(ResultError, match='holds no finished run'): shown(tmp_path)
    copied = shutil.copytree(results, tmp_path / 'copied')
    (copied / 'values.parquet').write_bytes(b'X')
    with pytest.raises(ResultError, match='SHA-256'): shown(copied)


# compare

def test_compare_with_itself(results):
    found = compared(results, results)
    assert found['settings'] == {} and found['pairs'] == ['architecture', 'seed', 'sparsity']
    assert {(row['difference'], row['seeds']) for row in found['measures']} == {(0., 3)}
    assert 'no setting differs' in compared_in_words(found)


def test_compare_two_sweeps(results, tmp_path):
    "Settings that differ, and the mean difference of pairs of one seed and sparsity, with Student's interval"
    config = write_config(tmp_path / 'other.yaml', seeds=3, settings=dict(lr=0.1), sparsities=(0.01, 0.5))
    other = swept(config, tmp_path / 'other')
    found = compared(results, other)
    assert found['settings'] == {'lr': ([0.5], [0.1]), 'sparsity': ([0.01, 1.], [0.01, 0.5])}
    accuracy, = (row for row in found['measures'] if row['measure'] == 'accuracy')
    tables = [read_table(folder).query('measure == "accuracy" and trained and sparsity == 0.01') for folder in
              (results, other)]
    pairs = [table.set_index('seed')['value'] for table in tables]
    by_hand = pairs[1] - pairs[0]
    assert accuracy['difference'] == pytest.approx(by_hand.mean()) and accuracy['seeds'] == 3
    assert (accuracy['low'], accuracy['high']) == pytest.approx(mean_interval(by_hand))
    assert any('specialization' in row['measure'] for row in found['measures'])
    lines = compared_in_words(found).splitlines()
    assert '  lr: 0.5 | 0.1' in lines and max(map(len, lines[3:])) <= 80


def test_compare_two_runs(results):
    "of different sparsities, by seed alone; those of one seed have no interval"
    one, other = sorted((results / 'runs').iterdir())
    found = compared(one, other)
    assert [*found['settings']] == ['sparsity'] and found['pairs'] == ['architecture', 'seed']
    assert all(row['seeds'] == 3 for row in found['measures'])


def test_compare_one_seed(tmp_path):
    folder = computed(CONFIG, tmp_path / 'run')
    answer = CliRunner().invoke(app, ['compare', str(folder), str(folder), '--json'])
    rows = json.loads(answer.stdout, parse_constant=pytest.fail)['measures']
    assert {(row['seeds'], row['low'], row['high']) for row in rows} == {(1, None, None)}
    assert '[' not in compared_in_words(compared(folder, folder)).splitlines()[-1]


def test_pairing_by_seed_is_narrower():
    "than the difference of two means, where seeds differ more than folders do"
    rng = np.random.default_rng(0)
    of = pd.DataFrame(dict(measure='accuracy', architecture='standard', seed=range(8), value=rng.normal(0, 1, 8)))
    other = of.assign(value=of['value'] + .1 + rng.normal(0, .01, 8))
    row, = paired_differences(of, other.sample(frac=1, random_state=1), ['architecture', 'seed']).to_dict('records')
    assert .05 < row['low'] < row['high'] < .15
    low, high = mean_interval(other['value'])
    assert high - low > 20 * (row['high'] - row['low'])


def test_seeds_that_only_one_has_are_left_out():
    of = pd.DataFrame(dict(measure='accuracy', architecture='standard', seed=range(5), value=np.arange(5.)))
    row, = paired_differences(of, of[of['seed'] > 2], ['architecture', 'seed']).to_dict('records')
    assert row['seeds'] == 2 and row['a'] == row['b'] == 3.5
    assert paired_differences(of[:2], of[3:], ['architecture', 'seed']).empty


def test_settings_that_are_not_recorded():
    here = pd.DataFrame(dict(architecture='standard', seed=[0, 1], lr=.5))
    there = here.assign(noise=np.nan, lr=[.5, .25])
    assert settings_that_differ(here, there, ['lr', 'noise'])['lr'] == ([.5], [.5, .25])
    assert settings_that_differ(here, there, ['noise'])['noise'][0] is None
    assert settings_that_differ(there, there, ['lr', 'noise']) == {}
    assert pairing(here, there, ['lr', 'noise']) == ['architecture', 'seed', 'lr']


def test_compare_refuses(results, tmp_path):
    "what is not there, and networks that have no seed in common"
    with pytest.raises(ResultError, match='holds no'): compared(results, tmp_path / 'nowhere')
    other = computed(replace(CONFIG, first_seed=7), tmp_path / 'run')
    with pytest.raises(ResultError, match='have no networks in common by architecture, seed'): compared(results, other)
