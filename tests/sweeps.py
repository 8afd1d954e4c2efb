"""Runs and sweeps that take a moment, for all tests that need finished results"""
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import yaml

from modspec.core.files import as_text, read_manifest
from modspec.core.registry import PLUGINS
from modspec.engine.collect import collect_sweep
from modspec.engine.config import load_config
from modspec.engine.notebook import seal
from modspec.engine.plan import RunConfig
from modspec.engine.run import run
from modspec.engine.store import NOTEBOOK, WEIGHTS, sources
from modspec.studies.extreme_sparsity.config import sparsity_run

TINY = dict(architecture='standard', epochs=1, n_hidden=10, n_pairs=100)
CONFIG = sparsity_run(0.07, seeds=1, **TINY)


def write_config(path='sweep.yaml', sparsities=(0.01, 1.), settings=None, axes=None, **more) -> Path:
    "A sweep's file: two sparsities, one seed, tiny networks; `settings` and `axes` add to that, or replace it"
    axes = dict(sparsity=list(sparsities)) | (axes or {})
    common = {name: value for name, value in (TINY | (settings or {})).items() if name not in axes}
    values = dict(axes=axes, settings=common, seeds=1) | more
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False))
    return Path(path)


def computed(config: RunConfig, out: Path, **how) -> Path:
    "What `run_notebook` leaves, without a kernel"
    run(config, out, **how)
    if NOTEBOOK not in read_manifest(out)['files']:
        (out / NOTEBOOK).write_text('{}')
        seal(out, out / NOTEBOOK, config)
    return out


def swept(config: Path, results: Path) -> Path:
    "What `run_sweep` leaves, without Snakemake"
    for folder, asked in load_config(config).folders(results).items(): computed(asked, folder)
    return collect_sweep(config, results)


def contents(folder) -> dict:
    "Every file below a folder, with its bytes and its time"
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(Path(folder).rglob('*')) if path.is_file()}


def weights(results: Path) -> dict[str, str]:
    "The checksum of the trained networks of every run below a folder"
    return {path.parent.name: read_manifest(path.parent)['files'][WEIGHTS] for path in results.rglob(WEIGHTS)}


def until(true, seconds: float = 300) -> float:
    "Wait for something that other processes do; how long it took"
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds, 'nothing happens'
        time.sleep(0.05)
    return time.monotonic() - begin


NORM = """
import torch

REGISTERED = [dict(kind='measure', name='norm', object='norm', values={'norm': dict(axes=['subnetwork'], label='norm')},
                   settings={'power': dict(default=2.0, least=0, most=9)})]

def norm(stack, dataset, parameters, *, bar):
    "Of the weights within each sub-network"
    return dict(norm=stack.weights['W_hh'].norm(p=parameters.power, dim=(2, 3)))
"""  # a user's own measure, with a setting of its own


@contextmanager
def forgetting_plugins():
    "What plugins register is forgotten afterwards, as at the end of a process"
    try: yield
    finally:
        for name in [name for name in sys.modules if name.startswith('modspec_plugin_')]: del sys.modules[name]
        PLUGINS.clear(), sources.cache_clear()


BAD_PAST = '0' * 12  # a hash that no code has


def older_code(folder: Path, *parts: str) -> None:
    "Let parts of a run seem computed by other code"
    manifest = read_manifest(folder)
    if 'training' in parts: manifest['training']['code'] = BAD_PAST
    for one in manifest['measured']:
        if one['measure'] in parts: one['code'] = BAD_PAST
    (folder / 'manifest.json').write_text(as_text(manifest))
