"""Folders of results: what they hold, which code it came from, what is damaged, and what is left alone"""
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sweeps import CONFIG, NORM, TINY, computed, contents, forgetting_plugins

from modspec.analysis.tables import read_table
from modspec.core.files import (
    ResultError,
    as_text,
    make_folder,
    read_manifest,
    sha256,
    write_manifest,
    written_whole,
)
from modspec.core.registry import add_plugin
from modspec.engine import store
from modspec.engine.plan import study_named
from modspec.engine.run import run
from modspec.engine.store import (
    NOTEBOOK,
    TABLES,
    WEIGHTS,
    code_hash,
    codes,
    computing,
    damages,
    is_finished,
    lacking,
    older_parts,
    run_manifest,
    sources,
    without_comments,
)
from modspec.engine.weights import load_networks, save_networks
from modspec.studies.extreme_sparsity.config import sparsity_run

PARTS = 'training', 'bottleneck', 'correlation', 'links', 'performance', 'states', 'weight_mask'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "The folder of a finished run; nobody writes into it"
    return computed(CONFIG, tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture
def altered(finished, tmp_path):
    "A copy of the finished run, to be damaged"
    return shutil.copytree(finished, tmp_path / 'copy')


def file_of(folder, name):
    "A table of a run, or another of its files"
    return folder / read_manifest(folder, verify=False)['tables'].get(name, name)


# which code it was

def test_comments_are_no_code():
    text = '# begin\nx = 1  # one\n\n\ny = "# two"\n    # three\n'
    assert without_comments(text) == 'x = 1\ny = "# two"'
    assert without_comments(text.replace('begin', 'other')) == without_comments('\n' + text)
    assert without_comments(text) != without_comments(text.replace('= 1', '= 2'))


def test_a_part_is_what_computes_it():
    "its own module and what that one imports, as far as it can change a number; no drawing, no logging, no files"
    for part in PARTS:
        found = sources(*computing(CONFIG, part))
        assert {'modspec.networks.recurrent', 'modspec.core.data', 'modspec.core.tasks'} <= found.keys()
        for word in ('plot', 'drawing', 'figures', 'progress', 'files', 'engine', 'analysis', 'claims', 'cli'):
            assert not any(word in name.split('.') for name in found), (part, word)
        assert (f'modspec.measures.{part}' in found) == (part != 'training')
        assert ('modspec.causes.deep_r' in found) == (part == 'training')
    assert 'modspec.studies.extreme_sparsity.run' in sources(*computing(CONFIG, 'training'))


@pytest.fixture
def edit(monkeypatch):
    "Let the code of a module seem changed"
    def change(module, old, new):
        real = sources
        monkeypatch.setattr(store, 'sources', lambda *modules: {
            name: text.replace(old, new) if name == module else text for name, text in real(*modules).items()})
    return change


@pytest.mark.parametrize('module, outdated', [
    ('modspec.measures.correlation', {'correlation'}), ('modspec.measures.bottleneck', {'bottleneck'}),
    ('modspec.causes.deep_r', {'training'}), ('modspec.studies.extreme_sparsity.run', {'training'}),
    ('modspec.networks.recurrent', set(PARTS)), ('modspec.analysis.plot', set()), ('modspec.engine.progress', set())])
def test_a_changed_line_outdates_what_it_computes(edit, finished, module, outdated):
    "and nothing else; what is outdated stays a finished run"
    before = codes(CONFIG)
    edit(module, 'return ', 'return +')
    now, manifest = codes(CONFIG), read_manifest(finished)
    assert {part for part in PARTS if now[part] != before[part]} == outdated == set(older_parts(manifest, CONFIG))
    assert {name for name, _ in lacking(manifest, CONFIG, outdated=True)} == outdated - {'training'}
    assert is_finished(finished, CONFIG) and not lacking(manifest, CONFIG)


def test_a_comment_in_a_file_outdates_nothing(tmp_path):
    "a blank line neither; a line of code does"
    with forgetting_plugins():
        path = tmp_path / 'mine.py'
        def found(text):
            path.write_text(text)
            sources.cache_clear()
            return code_hash('modspec_plugin_mine')
        path.write_text(NORM), add_plugin(path)
        first = found(NORM)
        assert found(NORM.replace('import torch', 'import torch  # for tensors\n\n# nothing else\n')) == first
        assert found(NORM.replace('dim=(2, 3)', 'dim=(2, 3), keepdim=False')) != first


def test_converted_results_are_of_no_other_code(finished):
    "They have been compared once, and are not warned of for ever after"
    manifest = read_manifest(finished)
    old = [one | dict(code='converted') for one in manifest['measured']]
    training = manifest['training'] | dict(code='converted')
    assert older_parts(manifest | dict(training=training, measured=old), CONFIG) == []
    old = [one | dict(code='0' * 12) for one in manifest['measured']]
    assert older_parts(manifest | dict(measured=old), CONFIG) == [*PARTS[1:]]


def test_a_measure_of_a_plugin_that_is_missing_is_not_outdated(altered, tmp_path):
    "It cannot be computed again either"
    with forgetting_plugins():
        (tmp_path / 'norm.py').write_text(NORM), add_plugin(tmp_path / 'norm.py')
        run(recorded := sparsity_run(0.07, seeds=1, **TINY), altered)
        assert 'norm' in {one['measure'] for one in read_manifest(altered)['measured']}
    manifest = read_manifest(altered)
    assert older_parts(manifest, CONFIG) == [] and lacking(manifest, CONFIG, outdated=True) == []
    assert is_finished(altered, CONFIG) and recorded.settings.power == 2.


# what a folder holds

def test_manifest(finished):
    manifest = read_manifest(finished)
    names = {path.name for path in finished.iterdir()}
    assert names == {*manifest['tables'].values(), WEIGHTS, NOTEBOOK, 'manifest.json'}
    assert manifest['files'] == {name: sha256(finished / name) for name in names - {'manifest.json'}}
    for name, file in manifest['tables'].items(): assert file == f'{name}-{sha256(finished / file)[:8]}.parquet'
    assert manifest['training']['code'] == codes(CONFIG)['training'] and len(manifest['measured']) == len(PARTS) - 1
    for about in (manifest['training'], *manifest['measured']):
        assert about['device'] == 'cpu' and about['threads'] == 1 and about['seconds'] >= 0
        assert about['versions'].keys() == {'torch', 'numpy', 'pandas', 'modspec', 'python'}
        assert about['provenance'].keys() == {'date', 'host', 'processor', 'commit', 'clean'}
    assert {one['measure']: one['code'] for one in manifest['measured']} | {
        'training': manifest['training']['code']} == codes(CONFIG)
    assert set(read_table(finished)['measure']) <= manifest['measures'].keys()


def test_checksum_is_sha256(tmp_path):
    (tmp_path / 'file').write_bytes(b'abc')
    assert sha256(tmp_path / 'file') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'


@pytest.mark.parametrize('before', [None, b'old'])
def test_written_whole_leaves_nothing_behind(tmp_path, before):
    path = tmp_path / 'file'
    if before: path.write_bytes(before)
    with pytest.raises(KeyError), written_whole(path) as temporary:
        temporary.write_bytes(b'half')
        raise KeyError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({'file': before} if before else {})
    with written_whole(path) as temporary:
        temporary.write_bytes(b'new')
        assert (path.read_bytes() if path.exists() else None) == before
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {'file': b'new'}


@pytest.mark.parametrize('change, said', [
    ({'sparsity': 0.5}, 'sparsity: [0.07], asked [0.5]'), ({'lr': 0.4}, "lr: ['as always'], asked [0.4]"),
    ({'dataset': 'mnist'}, "dataset: ['digits'], asked ['mnist']"),
    ({'architecture': 'both'}, "architecture: ['standard'], asked ['both']")])
def test_another_run_is_left_alone(finished, change, said):
    before = contents(finished)
    other = replace(CONFIG, settings=replace(CONFIG.settings, **change))
    with pytest.raises(ResultError) as error: run(other, finished)
    assert str(error.value) == f'{finished} holds another run ({said}); choose another with --out'
    assert contents(finished) == before


@pytest.mark.parametrize('change, said', [
    ({'seeds': 3}, 'seeds: 1, asked 3'), ({'first_seed': 2}, 'first_seed: 0, asked 2'),
    ({'stacked': (0.07, 0.5)}, 'sparsity: [0.07], asked [0.07, 0.5]')])
def test_another_number_of_networks_is_left_alone(finished, change, said):
    with pytest.raises(ResultError) as error: run_manifest(finished, replace(CONFIG, **change))
    assert said in str(error.value)


@pytest.mark.parametrize('strange', ['thesis.tex', 'runs/p0.1/manifest.json', 'values.csv', 'networks-mine.parquet'])
def test_somebody_elses_folder_is_left_alone(tmp_path, strange):
    path = tmp_path / 'mine' / strange
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    before = contents(tmp_path)
    message = f"mine is no folder of a run, it holds '{Path(strange).parts[0]}'; choose another with --out"
    with pytest.raises(ResultError, match=message): run(CONFIG, tmp_path / 'mine')
    assert contents(tmp_path) == before


def test_a_look_does_not_spoil_a_run(altered):
    "JupyterLab leaves its checkpoints beside a notebook that somebody read"
    (altered / '.ipynb_checkpoints').mkdir()
    assert is_finished(altered, CONFIG)


def test_rest_of_an_interrupted_run_is_no_run(tmp_path):
    names = {'networks-0123abcd.parquet', 'values.parquet', WEIGHTS, NOTEBOOK, 'history-0123abcd.parquet', '.x.12.tmp'}
    for name in names: (tmp_path / name).write_text('half')
    assert run_manifest(tmp_path, CONFIG) is None and not is_finished(tmp_path, CONFIG)
    assert contents(tmp_path).keys() == {Path(name) for name in names}


def test_probe_of_a_killed_process_does_no_harm(tmp_path, monkeypatch):
    "Killed between making sure that a folder can be written to and tidying up"
    monkeypatch.setattr(Path, 'unlink', lambda *_, **__: None)
    make_folder(tmp_path)
    assert list(tmp_path.iterdir()) and not is_finished(tmp_path, CONFIG)


# damage

def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {'flipped': flip, 'truncated': lambda path: path.write_bytes(path.read_bytes()[:-1]), 'missing': Path.unlink,
          'empty': lambda path: path.write_bytes(b'')}


@pytest.mark.provokes('damaged results')
@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize('name', [*TABLES, WEIGHTS, NOTEBOOK])
def test_damage_is_noticed(altered, name, damage):
    "by everything that reads a run, and the message names the file"
    path = file_of(altered, name)
    damage(path)
    for reading in (lambda: read_manifest(altered), lambda: read_table(altered), lambda: is_finished(altered, CONFIG),
                    lambda: run(CONFIG, altered)):
        with pytest.raises(ResultError, match=f'{path.name} has SHA-256 .*run again'): reading()
    assert list(damages(altered)) == [path]


@pytest.mark.provokes('damaged results')
@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{}', '{"config": {}}', '{"files": {}}', '\x00\x01',
                                  '"config files"', '{"config": 1, "files": {}}', '{"config": {}, "files": ["a"]}'])
def test_damaged_manifest(altered, text):
    (altered / 'manifest.json').write_text(text)
    for reading in (lambda: read_manifest(altered), lambda: is_finished(altered, CONFIG), lambda: read_table(altered)):
        with pytest.raises(ResultError, match='manifest.json is damaged: .*run again'): reading()
    assert list(damages(altered)) == [altered / 'manifest.json']


@pytest.mark.provokes('damaged results')
def test_other_ends_of_lines_are_damage(tmp_path):
    "A manifest whose text means the same, but is not that which was written"
    write_manifest(tmp_path, dict(config={}), [])
    whole = (tmp_path / 'manifest.json').read_bytes()
    at = [i for i, byte in enumerate(whole) if byte == ord('\n')]
    assert len(at) > 3
    for i in at:
        (tmp_path / 'manifest.json').write_bytes(whole[:i] + b'\r' + whole[i + 1:])
        with pytest.raises(ResultError, match='does not have the checksum that it says'): read_manifest(tmp_path)


def test_no_manifest_no_result(altered):
    (altered / 'manifest.json').unlink()
    with pytest.raises(ResultError, match='manifest.json is missing'): read_manifest(altered)
    with pytest.raises(ResultError, match='holds no results; make them with'): read_table(altered)
    assert not is_finished(altered, CONFIG)


def test_write_manifest_wants_its_files(tmp_path):
    with pytest.raises(FileNotFoundError): write_manifest(tmp_path, {'config': {}}, ['values.parquet'])
    assert list(tmp_path.iterdir()) == []


def vouched(folder, path, change):
    "A file with a change, and a manifest that vouches for it"
    change(path)
    manifest = read_manifest(folder, verify=False)
    about = {name: value for name, value in manifest.items() if name not in ('files', 'sha256')}
    write_manifest(folder, about, manifest['files'])


def test_whole_run(altered):
    assert damages(altered) == {}


@pytest.mark.parametrize('name, change, reason', [
    ('values', lambda table: table.assign(value=np.nan), 'holds numbers that are not finite: value'),
    ('history', lambda table: table.assign(loss=np.inf), 'holds numbers that are not finite: loss'),
    ('networks', lambda table: table.assign(lr=np.inf), 'holds numbers that are not finite: lr'),
    ('networks', lambda table: table.assign(lr=np.nan), 'holds numbers that are not finite: lr'),
    ('networks', lambda table: table.assign(connection_lr=np.inf), 'holds numbers that are not finite: connection_lr'),
    ('networks', lambda table: table.drop(columns=['dataset', 'seed']), 'lacks the columns dataset, seed')])
def test_content_with_the_right_checksum(altered, name, change, reason):
    path = file_of(altered, name)
    vouched(altered, path, lambda path: change(pd.read_parquet(path)).to_parquet(path))
    assert damages(altered) == {path: reason}


def test_a_value_may_be_empty_if_it_says_why(altered):
    path = file_of(altered, 'values')
    vouched(altered, path, lambda path: pd.read_parquet(path).assign(value=np.nan, reason='no unit').to_parquet(path))
    assert damages(altered) == {}


@pytest.mark.parametrize('name', ['values', WEIGHTS])
def test_unreadable_with_the_right_checksum(altered, name):
    path = file_of(altered, name)
    vouched(altered, path, lambda path: path.write_text('nonsense'))
    (where, reason), = damages(altered).items()
    assert where == path and reason.startswith('cannot be read: ')


def test_weights_that_are_not_finite(altered):
    def spoil(path):
        networks = load_networks(path)
        networks['standard'].weights['W_sparse'][0, 0, 0, 0] = torch.nan
        save_networks(networks, path)
    vouched(altered, altered / WEIGHTS, spoil)
    assert damages(altered) == {altered / WEIGHTS: 'holds numbers that are not finite: standard.W_sparse'}


def test_manifest_that_vouches_for_too_little(altered):
    manifest = read_manifest(altered)
    rest = manifest['tables']['values'], NOTEBOOK
    about = {name: value for name, value in manifest.items() if name not in ('files', 'sha256')}
    write_manifest(altered, about, rest)
    expected = [altered / name for name in (manifest['tables']['networks'], manifest['tables']['history'], WEIGHTS)]
    assert damages(altered) == dict.fromkeys(expected, 'is not in the manifest')


def test_manifest_of_something_else(altered):
    "A folder of a run whose manifest is that of another kind of result"
    (altered / 'manifest.json').write_text(as_text(dict(config=dict(study='extreme_sparsity'), files={})))
    with pytest.raises(ResultError, match='choose another with --out'): is_finished(altered, CONFIG)
    assert json.loads((altered / 'manifest.json').read_text())['files'] == {}


def test_settings_were_introduced_as_they_were_before():
    "A new default keeps the old one as `introduced`: the committed results stay what they are"
    recorded = read_manifest(Path(__file__).parent.parent / 'results' / 'paper', verify=False)['config']['settings']
    before = {f.name: f.metadata['introduced'] for f in fields(study_named('extreme_sparsity').settings)}
    differ = {name: value for name, value in recorded.items() if value != before[name]}
    assert differ == dict(dataset='mnist', architecture='both', precision='bf16')
