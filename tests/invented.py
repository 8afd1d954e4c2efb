"""Invented tables of values, as `read_table` gives them, and folders that hold them: one builder for all tests"""
import numpy as np
import pandas as pd

from modspec.analysis.specialization import MEASURED, VALUE, naming
from modspec.core.files import write_manifest
from modspec.core.sparsity import q_from_sparsity


def network(sparsity=.01, seed=0, trained=True, architecture='standard', **more):
    "The columns that name a network and the moment at which it was measured; `more` adds or replaces some"
    return dict(dataset='digits', architecture=architecture, sparsity=sparsity, q=q_from_sparsity(sparsity),
                n_connections=max(1, round(sparsity * 1e4)), seed=seed, trained=trained) | more


def rows(of, measure, m, axes=('subnetwork', 'subtask')):
    "One row per value of a measure: a number, one per sub-network (or what `axes` says), or a matrix M(n, k)"
    m = np.asarray(m, dtype=float)
    return [of | dict(measure=measure, value=m[index]) | dict(zip(axes, index)) for index in np.ndindex(m.shape)]


def table_of(found):
    "Rows as a table of values"
    empty = dict(subnetwork=pd.array([], dtype='Int64'), subtask=pd.array([], dtype='Int64'))
    table = pd.DataFrame(found)
    for name in empty:
        if name not in table: table[name] = pd.NA
    return table.astype(dict.fromkeys(empty, 'Int64'))


def specialized(spec, scale=.5):
    "M(n, k) of two sub-networks with the same specialization"
    return [[scale * (1 + spec if n == k else 1 - spec) for k in (0, 1)] for n in (0, 1)]


def results_folder(folder, table, **manifest):
    "Results as a sweep leaves them, from a table of values"
    folder.mkdir(parents=True)
    name = [c for c in naming(table) if c not in ('trained', *MEASURED)]
    table = table.assign(network=table.groupby(name, dropna=False, sort=False).ngroup())
    networks = table.drop_duplicates('network').reset_index(drop=True)[['network', *name]]
    values = table[['network', *(c for c in (*MEASURED, *VALUE) if c in table)]]
    if 'epoch' not in values: values = values.assign(epoch=np.where(table['trained'], 5, 0))
    history = networks[['network']].assign(epoch=5, loss=.1, accuracy=.9)
    for kind, one in dict(networks=networks, values=values, history=history).items():
        one.to_parquet(folder / f'{kind}.parquet', index=False)
    about = dict(config=dict(study='extreme_sparsity', settings=dict(dataset='digits', architecture='both'))) | manifest
    write_manifest(folder, about, ['networks.parquet', 'values.parquet', 'history.parquet'])
    return folder
