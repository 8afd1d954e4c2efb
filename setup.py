"""Package metadata, read from settings.ini: edit there, not here. A wheel also gets the files that it lists."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(root / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']


class BuildWithFiles(build_py):
    "Modules, and in `modspec/shipped` a copy of the files that `modspec.core.shipped` finds beside them in a checkout"
    shipped = sorted(str(path.relative_to(root)) for pattern in cfg['shipped'].split() for path in root.glob(pattern))

    def run(self):
        super().run()
        if self.editable_mode: return  # the checkout itself is used
        for name, target in zip(self.shipped, self.copies()):
            self.mkpath(str(Path(target).parent))
            self.copy_file(name, target)

    def copies(self):
        "Where the files go, in their order"
        return [str(Path(self.build_lib, cfg['lib_path'], 'shipped', name)) for name in self.shipped]

    def get_source_files(self):  # what a source distribution takes along
        return [*super().get_source_files(), *self.shipped]

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self.copies())]


setup(
    version=cfg['version'],
    description=cfg['description'],
    long_description=(root / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license={'apache2': 'Apache-2.0'}[cfg['license']],
    url=cfg['git_url'],
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]),
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in ('tensorboard', 'dev')},
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f'{cfg["lib_path"]}={cfg["lib_path"]}._modidx:d'],  # lets nbdev link names in prose to their docs
    },
    cmdclass={'build_py': BuildWithFiles},
    classifiers=[f'Intended Audience :: {cfg["audience"]}', 'Programming Language :: Python :: 3'],
)
