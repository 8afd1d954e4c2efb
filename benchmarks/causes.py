"""What the study of causes costs: stacks on the retina, clusterings, pairs of digits, and its quick reproduction"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.clock import seconds_of, spread
from benchmarks.commands import Rows, cell, modspec
from modspec.core.data import load_dataset
from modspec.core.registry import entries
from modspec.engine.config import load_config
from modspec.engine.identity import as_recorded
from modspec.engine.plan import RunConfig
from modspec.studies.extreme_sparsity.config import ARCHITECTURES
from modspec.training.loop import pairs_per_epoch

CORES = 2  # What projections are for, and processes that measure at the same time
PROJECTED = 1200  # Networks on the retina
GRAPHS = 51  # A network and fifty shuffles of one kind
SPARSITY = 0.01  # Of the pairs of digits that are measured


def line(part: str, what: str, networks: int, values: Sequence[float], how: str, unit: str = 's') -> dict:
    "A row of the table"
    return dict(part=part, what=what, networks=networks, unit=unit, **spread(values, 'value'), how=how)


def size(run: RunConfig) -> int:
    "Networks of a run, of all its architectures"
    return len(run.networks) * len(ARCHITECTURES.get(getattr(run.settings, 'architecture', ''), ['']))


def ends(runs: Sequence[RunConfig]) -> list[RunConfig]:
    "As many runs as there are cores, from the first to the last"
    return [runs[round(i)] for i in np.linspace(0, len(runs) - 1, CORES)]


def together(runs: list[RunConfig], device: str, n_pairs: list[int], at_first: list[str]) -> list[Rows]:
    "Runs at the same time, each in a process of its own: see the cell `run`"
    def one(run): return cell('run', 1, device, record=as_recorded(run), n_pairs=n_pairs, at_first=at_first)
    with ThreadPoolExecutor(len(runs)) as pool: return [*pool.map(one, runs)]


def memory(part: str, networks: int, found: Rows) -> dict:
    "The row of the peak memory"
    how = f'of each of {CORES} processes that train and measure, {found[0]["n_pairs"]} pairs per epoch'
    return line(part, 'peak memory', networks, [row['peak_mb'] for row in found], how, 'MB')


def retina(config: Path, device: str) -> Rows:
    "Stages of a whole stack, of which nothing is left out, and from them the time of many networks"
    runs = ends([*load_config(config).runs().values()])
    found = [row for row, in together(runs, device, [runs[0].settings.n_pairs], [])]
    n, how = size(runs[0]), f'{CORES} runs of {config.name} at once; measures before and after training'
    seconds = pd.DataFrame([row['seconds'] for row in found])
    seconds['n-cut, value alone'] = [row['ncut_value_s'] for row in found]
    seconds['n-cut, nulls'] = seconds['clusterability'] - seconds['n-cut, value alone']
    rows = [line('retina', stage, n, values, how) for stage, values in seconds.items()]
    projected = dict(many=seconds['total'] - seconds['n-cut, nulls'], nulls=seconds['n-cut, nulls'])
    texts = dict(many='all but n-cut, nulls', nulls='n-cut, nulls')
    rows += [line('retina, whole', texts[name], PROJECTED, values * PROJECTED / n / CORES,
                  f'projected from stacks of {n}, on {CORES} cores, without starting processes')
             for name, values in projected.items()]
    return [*rows, memory('retina', n, found)]


def digit_pairs(config: Path, device: str, n_pairs: tuple[int, int]) -> Rows:
    """Seconds per network, of a sweep of both architectures, and from them its whole time.

    Two seeds and two small numbers of pairs per epoch, after a first time that warms up. Training, and measures that
    train something, are followed along the line through the two numbers; all else is taken as it is.
    """
    sweep = load_config(config)
    of_p = ends([run for run in sweep.runs().values() if run.points[0].sparsity == SPARSITY])
    runs = [replace(run, seeds=2) for run in of_p]
    trained = [name for name in sweep.study.measures if 'steps' in entries('measure')[name].about]
    found = together(runs, device, [n_pairs[0], *n_pairs], trained)
    few, many = (pd.DataFrame([rows[place]['seconds'] for rows in found]) for place in (1, 2))
    whole, n = pairs_per_epoch(load_dataset(sweep.settings.dataset), sweep.settings), size(runs[0])
    reach, once = (whole - n_pairs[0]) / (n_pairs[1] - n_pairs[0]), f'{CORES} runs at once'
    along = f'{once}, to {whole} pairs per epoch from {n_pairs[0]} and {n_pairs[1]}'
    seconds = many.drop(columns='total')
    for stage in ('training', *trained): seconds[stage] = few[stage] + reach * (many[stage] - few[stage])
    seconds, networks = seconds / n, sum(map(size, sweep.runs().values()))
    rows = [line('digit_pairs, each', stage, n, values, along if stage in few else once)
            for stage, values in seconds.items()]
    total = seconds.sum(axis=1)
    return [*rows, line('digit_pairs, each', 'total', n, total, 'sum of the stages'),
            line('digit_pairs, whole', 'total', networks, total * networks / CORES,
                 f'projected from p = {SPARSITY}, on {CORES} cores, without starting processes'),
            memory('digit_pairs', n, [rows[-1] for rows in found])]


def reproduce(config: Path, device: str) -> Rows:
    "A sweep, its figures and its claims, by the command"
    networks = sum(map(size, load_config(config).runs().values()))
    with TemporaryDirectory() as folder:
        wall = seconds_of(partial(modspec, 'reproduce', config, '--out', folder, '--device', device))
    return [line('reproduce', config.name, networks, [wall], f'measured once, on {os.cpu_count()} cores')]


def clusterings(layers: Sequence[Sequence[int]], n_graphs: int, device: str) -> Rows:
    "Seconds and n-cut of ours and of scikit-learn's clustering, of as many graphs as a network and its shuffles are"
    rows = []
    for one in cell('clustering', 1, device, layers=layers, n_graphs=n_graphs):
        part = f'n-cut, {one["sizes"]}'
        how = f'median of {n_graphs} graphs' + f', times {GRAPHS}'
        rows += [line(part, f'{who}, {GRAPHS} graphs', 1, np.array(one[who]['seconds']) * GRAPHS, how)
                 for who in one['who']]
        rows += [line(part, f'{who}, n-cut', 1, [np.mean(one[who]['ncut'])], f'mean of {n_graphs} graphs', 'n-cut')
                 for who in one['who']]
    return rows
