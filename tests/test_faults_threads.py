"""Runs with one thread or two, in processes of their own: tables alike within a stated tolerance, and recorded"""
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pandas as pd
import pytest

from modspec.experiment import RunConfig, read_manifest, read_table
from modspec.training import Parameters

SHORT = Parameters(n_hidden=20, n_pairs=640, epochs=1, bottleneck_epochs=1, readout_epochs=1)
CONFIG = RunConfig((.0025, 1.), seeds=2, parameters=SHORT)
PROGRAM = ('import json, sys; from modspec.experiment import RunConfig, run\n'
           'run(RunConfig.from_dict(json.loads(sys.argv[1])), sys.argv[2], threads=int(sys.argv[3]))')
TOLERANCE = .03  # of accuracies and metrics: sums in another order turn a few of 4,000 answers


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='one processor')
@pytest.mark.provokes('threads and devices', rounds=2)
def test_one_thread_or_two(tmp_path):
    tables = []
    for threads in (1, 2):
        out, env = tmp_path / str(threads), {'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'passive'}
        command = [sys.executable, '-c', PROGRAM, json.dumps(asdict(CONFIG)), out, str(threads)]
        subprocess.run(command, env=os.environ | env, check=True, capture_output=True)
        manifest = read_manifest(out)
        assert (manifest['threads'], manifest['device']) == (threads, 'cpu')
        tables.append(read_table(out))
    first, second = tables
    columns = [name for name in first if name != 'value']
    pd.testing.assert_frame_equal(first[columns], second[columns])
    assert (first['value'] - second['value']).abs().max() < TOLERANCE
