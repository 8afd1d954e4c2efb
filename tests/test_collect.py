"""Tables of a sweep: all its runs, in one order, of one configuration, and never fewer than they say"""
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from sweeps import CONFIG, NORM, computed, contents, forgetting_plugins, swept, write_config

from modspec.analysis.tables import read_table
from modspec.core.files import ResultError, as_text, read_manifest, write_manifest
from modspec.engine.collect import collect_sweep
from modspec.engine.config import load_config
from modspec.engine.notebook import draw_figures
from modspec.engine.run import run
from modspec.engine.status import is_collected, meaning
from modspec.engine.store import TABLES, WEIGHTS, asked_measures

FILES = {f'{name}.parquet' for name in TABLES}


def refused(action, message, *, error=ResultError, unchanged):
    "An action that must fail and change nothing"
    before = contents(unchanged), sorted(unchanged.rglob('*'))
    with pytest.raises(error, match=message) as caught: action()
    assert (contents(unchanged), sorted(unchanged.rglob('*'))) == before and '\n' not in str(caught.value)


def altered(folder, **change):
    "A manifest with other entries, which vouches for itself"
    (folder / 'manifest.json').write_text(as_text(read_manifest(folder) | change))


def test_what_results_mean(tmp_path):
    "is what their manifest says, and nothing of how networks were packed"
    path = tmp_path / 'sweep.yaml'
    plain, varied = (meaning(load_config(write_config(path, seeds_per_run=2, values_per_run=2, **more)))
                     for more in ({}, {'variations': {'still': {'walk': 0}}}))
    assert plain.keys() == {'study', 'settings', 'axes', 'seeds'} and varied.keys() - plain.keys() == {'variations'}
    assert plain == meaning(load_config(write_config(path))) and plain['axes'] == {'sparsity': [0.01, 1.]}
    assert varied['variations'] == {'still': {'walk': 0}} and plain['settings']['n_hidden'] == 10


def test_tables_of_a_sweep(there):
    config = write_config(axes={'lr': [0.5, 1]}, seeds=2, seeds_per_run=1)
    results = swept(config, there / 'results')
    manifest = read_manifest(results)
    assert manifest['files'].keys() == FILES and manifest['config'] == meaning(load_config(config))
    assert list(manifest['runs']) == list(load_config(config).runs()) and len(manifest['runs']) == 8
    known = {'device', 'threads', 'versions', 'provenance', 'seconds'}
    assert all(one.keys() == known for one in manifest['runs'].values())
    assert manifest['codes'].keys() == {'training', *asked_measures(next(iter(load_config(config).runs().values())))}
    for codes in manifest['codes'].values(): assert [*codes.values()] == [list(manifest['runs'])]
    networks = read_table(results, 'networks')
    assert networks['network'].tolist() == [*range(8)]
    found = [*zip(networks['sparsity'], networks['lr'], networks['seed'])]
    assert found == sorted(found) and len(found) == len(set(found)) == 8
    values = read_table(results)
    for folder, asked in load_config(config).folders(results).items():
        alone, same = read_table(folder), values
        for name in ('lr', 'sparsity'): same = same[same[name] == getattr(asked.settings, name)]
        same = same[same['seed'] == asked.first_seed].reset_index(drop=True)
        by = ['measure', 'epoch', 'time', 'subnetwork', 'subtask']
        one, other = (t.sort_values(by, ignore_index=True).drop(columns='network') for t in (alone, same))
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize('axis, values, column', [
    ('architecture', ['standard', 'bottleneck'], ['bottleneck', 'standard']), ('rewire', [True, False], [False, True]),
    ('n_hidden', [12, 10], [10, 12]), ('task', ['parity', 'parity_sentence'], ['parity', 'parity_sentence'])])
def test_any_axis_is_a_column(there, axis, values, column):
    "by which networks are sorted"
    config = write_config(sparsities=[1.], axes={axis: values}, settings=dict(bottleneck_epochs=1, readout_epochs=1))
    networks = read_table(swept(config, there / 'results'), 'networks')
    assert networks[axis].tolist() == column


def test_a_row_for_every_way_of_measuring(there):
    "of networks that were trained once"
    config = write_config(axes={'mask_fraction': [0.05, 0.2]})
    results = swept(config, there / 'results')
    assert len(list(results.glob(f'runs/*/{WEIGHTS}'))) == 2
    networks, values = read_table(results, 'networks'), read_table(results)
    assert [*zip(networks['sparsity'], networks['mask_fraction'])] == [(p, f) for p in (0.01, 1.) for f in (0.05, 0.2)]
    rows = values.pivot_table(index=['measure', 'epoch', 'sparsity', 'subnetwork', 'subtask'], columns='mask_fraction',
                              values='value', dropna=False, observed=True).dropna(how='all')
    same = (rows[0.05] == rows[0.2]).groupby('measure').all()
    assert same['correlation'] and same['cka'] and not same['weight_mask'] and not rows.isna().any(axis=None)
    assert read_table(results, 'history').groupby('mask_fraction')['loss'].sum().nunique() == 1


@pytest.mark.parametrize('fractions', [[0.2], [0.2, 0.05], [0.05, 0.1]])
def test_ways_of_measuring_come_and_go(there, fractions):
    "A table holds those that the file asks for; the runs keep all; nothing is trained again"
    results = swept(write_config(axes={'mask_fraction': [0.05, 0.2]}), there / 'results')
    before = {path: path.read_bytes() for path in results.rglob(WEIGHTS)}
    swept(config := write_config(axes={'mask_fraction': fractions}), results)
    assert set(read_table(results)['mask_fraction']) == set(fractions)
    assert {path: path.read_bytes() for path in results.rglob(WEIGHTS)} == before
    whole = swept(config, there / 'whole')
    for name in FILES: assert (results / name).read_bytes() == (whole / name).read_bytes()


def test_settings_of_two_measures_are_combined(there):
    "Values that are there are put together to a way of measuring that is new"
    first = {'variations': {'one': {'mask_fraction': 0.2}, 'two': {'readout_epochs': 1}}}
    results = swept(write_config(**first), there / 'results')
    both = {'variations': {'both': {'mask_fraction': 0.2, 'readout_epochs': 1}}}
    for asked in load_config(write_config('both.yaml', **both)).folders(results).items(): run(asked[1], asked[0])
    collect_sweep('both.yaml', results)
    whole = swept(Path('both.yaml'), there / 'whole')
    for name in FILES: assert (results / name).read_bytes() == (whole / name).read_bytes()


def test_refuses_an_incomplete_sweep(there):
    "and leaves the tables that are there as they are"
    write_config(), write_config('other.yaml', settings={'dataset': 'mnist'})
    write_config('more.yaml', [0.01, 0.3, 1]), write_config('seeds.yaml', seeds=2)
    results = swept(Path('sweep.yaml'), there / 'results')
    check, folder = partial(refused, unchanged=there), results / 'runs' / 'p1.0_seeds0-0'
    check(lambda: collect_sweep('other.yaml', results), "holds other results .dataset: .*asked 'mnist'.*choose another")
    check(lambda: collect_sweep('more.yaml', results), r'lacks 1 of 3 runs: p0.3_seeds0-0; .*modspec sweep more.yaml')
    check(lambda: collect_sweep('seeds.yaml', results), 'lacks 2 of 2 runs: p0.01_seeds0-1, p1.0_seeds0-1')
    check(lambda: collect_sweep('sweep.yaml', there / 'nowhere'), 'lacks 2 of 2 runs')
    history = folder / read_manifest(folder)['tables']['history']
    content = history.read_bytes()
    history.write_bytes(content[:-1] + b'?')
    check(lambda: collect_sweep('sweep.yaml', results), f'p1.0_seeds0-0/{history.name} has SHA-256')
    history.unlink()
    check(lambda: collect_sweep('sweep.yaml', results), f'p1.0_seeds0-0/{history.name} has SHA-256 no file')
    history.write_bytes(content)
    altered(folder, measured=read_manifest(folder)['measured'][1:])
    check(lambda: collect_sweep('sweep.yaml', results), 'p1.0_seeds0-0 lacks .*; compute it with: modspec sweep')
    (folder / 'manifest.json').unlink()
    check(lambda: collect_sweep('sweep.yaml', results), 'lacks 1 of 2 runs: p1.0_seeds0-0')


def test_results_of_several_versions_are_joined(there):
    "and the manifest says so"
    config, folder = write_config(), there / 'results' / 'runs' / 'p1.0_seeds0-0'
    results = swept(config, there / 'results')
    measured = [one | dict(code='0' * 12) if one['measure'] == 'correlation' else one
                for one in read_manifest(folder)['measured']]
    altered(folder, measured=measured)
    codes = read_manifest(collect_sweep(config, results))['codes']
    assert [*codes['correlation'].values()] == [['p0.01_seeds0-0'], ['p1.0_seeds0-0']]
    assert codes['correlation']['0' * 12] == ['p1.0_seeds0-0']
    assert len(codes['training']) == len(codes['weight_mask']) == 1
    assert 'correlation' in read_table(results).attrs['mixed']


def test_collected_sweep_is_recognized(there):
    "by what its results mean: packed otherwise, or collected before later settings existed"
    results = swept(write_config(), there / 'results')
    wanted, packed = (load_config(write_config('packed.yaml', **more))
                      for more in ({}, dict(seeds_per_run=1, values_per_run=2)))
    assert is_collected(results, wanted) and is_collected(results, packed)
    config = read_manifest(results)['config']
    del config['settings']['walk']
    altered(results, config=config)
    assert is_collected(results, wanted)
    for more in (dict(seeds=2), dict(sparsities=[0.01, 0.5, 1]), dict(variations={'still': {'walk': 0}}),
                 dict(axes={'lr': [0.5, 1]})):
        assert not is_collected(results, load_config(write_config('more.yaml', **more)))  # an extension
    for other in (dict(architecture='both'), dict(dataset='mnist'), dict(walk=0), dict(mask_fraction=0.1)):
        with pytest.raises(ResultError, match=f'holds other results .{[*other][0]}: '):
            is_collected(results, load_config(write_config('other.yaml', settings=other)))
    computed(CONFIG, there / 'one')
    with pytest.raises(ResultError, match='one holds other results .*choose another with --out'):
        is_collected(there / 'one', wanted)


def test_a_new_measure_leaves_tables_to_be_made(there):
    results = swept(config := write_config(), there / 'results')
    with forgetting_plugins():
        Path('norm.py').write_text(NORM)
        assert not is_collected(results, load_config(write_config('norm.yaml', plugins=['norm.py'])))
        with pytest.raises(ResultError, match='p0.01_seeds0-0 lacks norm'): collect_sweep('norm.yaml', results)
    assert is_collected(results, load_config(config))


@pytest.mark.provokes('order and processes')
def test_tables_do_not_depend_on_packing(there):
    "The same rows in the same order"
    settings = dict(architecture='both', bottleneck_epochs=1, readout_epochs=1)
    write_config('one.yaml', [1, 0.01], settings, seeds=2, seeds_per_run=1)
    write_config('all.yaml', [1, 0.01], settings, seeds=2, values_per_run=2)
    apart, together = (swept(Path(f'{path}.yaml'), there / path) for path in ('one', 'all'))
    assert [len(load_config(path).runs()) for path in ('one.yaml', 'all.yaml')] == [4, 1]
    for name in TABLES:
        one, other = read_table(apart, name), read_table(together, name)
        pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-3, atol=1e-3)
    networks = read_table(apart, 'networks')
    order = [*zip(networks['n_connections'], networks['architecture'], networks['seed'])]
    assert order == sorted(order) and len(order) == 8


def test_tables_of_variations(there):
    "have a column that names them; the baseline is what a sweep without variations finds"
    changes = {'still': {'walk': 0}, 'small': {'mask_fraction': 0.2}, 'fast': {'lr': 0.9}}
    results = swept(write_config(variations=changes), there / 'results')
    unvaried = swept(write_config('plain.yaml'), there / 'plain')
    for name in TABLES:
        table, plain = read_table(results, name), read_table(unvaried, name)
        assert list(table['variation'].unique()) == ['baseline', *changes] and 'variation' not in plain
        baseline = table[table['variation'] == 'baseline'].drop(columns='variation')
        pd.testing.assert_frame_equal(baseline, plain)
    table = read_table(results)
    of = {name: rows.reset_index(drop=True) for name, rows in table.groupby('variation')}
    differs = of['small'].loc[of['small']['value'] != of['baseline']['value'], 'measure']
    assert set(differs) <= {'weight_mask', 'weight_mask_accuracy'} and len(differs)
    assert read_manifest(results)['config']['variations'] == changes and len(read_manifest(results)['runs']) == 6
    refused(lambda: draw_figures(results), 'holds variations, which the figures would mix', unchanged=there)


# what is left of sweeps that went wrong

@pytest.mark.provokes('damaged results', rounds=3)
@pytest.mark.parametrize('damage', [b'', b'{', b'{"config": 1}'])
def test_damaged_manifest_of_tables(there, damage):
    "The tables are made anew from the runs; without these the folder is refused"
    results = swept(config := write_config(), there / 'results')
    before = {name: (results / name).read_bytes() for name in (*FILES, 'manifest.json')}
    (results / 'manifest.json').write_bytes(damage)
    with pytest.raises(ResultError, match='manifest.json is damaged: .*; modspec collect, or the same modspec sweep'):
        read_table(results)
    assert not is_collected(results, load_config(config))
    collect_sweep(config, results)
    assert {name: (results / name).read_bytes() for name in before} == before
    (results / 'manifest.json').write_bytes(damage)
    shutil.rmtree(results / 'runs')
    with pytest.raises(ResultError, match='delete the folder and run again'): is_collected(results, load_config(config))


@pytest.mark.provokes('divergence')
def test_tables_of_what_is_finished(there):
    "Only when asked to: what is missing, and why, is in the manifest; the next sweep computes it"
    config = write_config(sparsities=[0.01, 0.5, 1.])
    results = swept(config, there / 'results')
    lost, other = (results / 'runs' / f'p{p}_seeds0-0' for p in (0.5, 1.))
    for folder in (lost, other): os.replace(folder, there / folder.name)
    failed = lost.with_name(f'{lost.name}.failed')
    failed.mkdir()
    (failed / 'reason.txt').write_text('NonFiniteLoss: the loss became nan\n')
    with pytest.raises(ResultError, match='lacks 2 of 3 runs'): collect_sweep(config, results)
    collect_sweep(config, results, finished_only=True)
    manifest = read_manifest(results)
    assert manifest['missing'] == {lost.name: 'NonFiniteLoss: the loss became nan', other.name: 'no attempt has ended'}
    assert set(read_table(results)['sparsity']) == {0.01} and set(manifest['runs']) == {'p0.01_seeds0-0'}
    assert not is_collected(results, load_config(config))
    for folder in (lost, other): os.replace(there / folder.name, folder)
    assert read_manifest(collect_sweep(config, results))['missing'] == {} and is_collected(results, load_config(config))
    shutil.rmtree(results / 'runs')
    with pytest.raises(ResultError, match='no run of sweep.yaml is finished in'):
        collect_sweep(config, results, finished_only=True)


def test_a_run_that_lacks_a_measure_is_not_finished(there):
    config = write_config()
    results, (first, second) = there / 'results', load_config(config).folders(there / 'results').items()
    computed(first[1], first[0]), run(second[1], second[0], only=['performance'])
    collect_sweep(config, results, finished_only=True)
    assert [*read_manifest(results)['missing']] == [second[0].name]


@pytest.mark.provokes('full disk')
def test_tables_that_find_no_room(there, monkeypatch):
    "leave the older ones whole"
    results = swept(config := write_config(), there / 'results')
    swept(more := write_config('more.yaml', [0.01, 0.3, 1.]), there / 'more')
    shutil.copytree(there / 'more' / 'runs' / 'p0.3_seeds0-0', results / 'runs' / 'p0.3_seeds0-0')
    def full(*_): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as patch:
        patch.setattr('modspec.engine.collect.write_manifest', full)
        refused(lambda: collect_sweep(more, results), 'No space left', error=OSError, unchanged=there)
    assert is_collected(results, load_config(config))
    collect_sweep(more, results)
    assert is_collected(results, load_config(more))


def test_a_run_of_other_settings_is_not_joined(there):
    results = swept(config := write_config(), there / 'results')
    folder = results / 'runs' / 'p1.0_seeds0-0'
    shutil.rmtree(folder)
    computed(replace(CONFIG, settings=replace(CONFIG.settings, sparsity=0.5)), folder)
    (results / 'manifest.json').unlink()
    refused(lambda: collect_sweep(config, results), 'p1.0_seeds0-0 holds another run .sparsity: ', unchanged=there)
    write_manifest(results, dict(config=dict(study='extreme_sparsity')), [])
    refused(lambda: collect_sweep(config, results), 'choose another with --out', unchanged=there)
