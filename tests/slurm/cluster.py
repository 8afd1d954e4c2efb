"""A Slurm of one node on loopback, started for tests and stopped after them"""
import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

from sweeps import until

PROGRAMS = 'munged', 'slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue', 'scancel', 'scontrol'
SYSTEM = os.pathsep.join([os.environ['PATH'], '/usr/sbin', '/sbin'])  # where the daemons are


def missing_programs() -> str:
    "Those that a Slurm needs and that are not here"
    return ', '.join(name for name in PROGRAMS if not shutil.which(name, path=SYSTEM))


def free_ports(n: int) -> list[int]:
    "Ports that nobody uses"
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets: one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]


def answer(*command) -> str:
    "What a command of Slurm says; nothing if it fails"
    said = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60)
    return said.stdout if said.returncode == 0 else ''


@contextmanager
def daemon(name: str, *args, log: Path) -> Iterator[None]:
    "A program that runs in the foreground of nobody, stopped by its process"
    with open(log, 'w') as output:
        process = subprocess.Popen([shutil.which(name, path=SYSTEM), *map(str, args)], stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try: yield
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()
        process.wait()


def write_conf(folder: Path) -> Path:
    "slurm.conf with the paths, the ports and the user of this test"
    controller, node = free_ports(2)
    text = (Path(__file__).parent / 'slurm.conf').read_text()
    values = dict(folder=folder, user=getpass.getuser(), controller=controller, node=node)
    (folder / 'slurm.conf').write_text(Template(text).substitute(values))
    return folder / 'slurm.conf'


def own_srun(folder: Path, conf: Path) -> Path:
    "A folder with an `srun` that knows where the configuration is: within a job the executor hides the variable"
    (folder / 'bin').mkdir()
    (folder / 'bin' / 'srun').write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shutil.which("srun")} "$@"\n')
    (folder / 'bin' / 'srun').chmod(0o755)
    return folder / 'bin'


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    "Munge, the controller and one node; commands find them by SLURM_CONF, which is set"
    for name in ('state', 'spool'): (folder / name).mkdir()
    conf, key, munge = write_conf(folder), folder / 'munge.key', folder / 'munge.socket'
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    path, before = os.environ['PATH'], os.environ.get('SLURM_CONF')
    os.environ |= {'SLURM_CONF': str(conf), 'PATH': f'{own_srun(folder, conf)}{os.pathsep}{path}'}
    files = [f'--{name}-file={folder / f"munge.{name}"}' for name in ('pid', 'seed', 'log')]
    try:
        with ExitStack() as running:
            def start(name, *args): running.enter_context(daemon(name, *args, log=folder / f'{name}.out'))
            start('munged', '--foreground', '--force', f'--socket={munge}', f'--key-file={key}', *files)
            until(munge.exists, 20)
            start('slurmctld', '-D', '-f', conf)
            start('slurmd', '-D', '-N', 'localhost', '-f', conf)
            until(lambda: answer('sinfo', '-h', '-o', '%T').strip() == 'idle', 60)
            yield
            answer('scancel', '--user', getpass.getuser())
            until(lambda: not answer('squeue', '-h'), 60)
    finally:
        os.environ['PATH'] = path
        if before is None: del os.environ['SLURM_CONF']
        else: os.environ['SLURM_CONF'] = before
