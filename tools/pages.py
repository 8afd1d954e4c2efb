"""Pages that are put together when the website is built.

Named in settings.ini among `procs`. What such a page shows is in other files already, so no copy of it is stored.
"""

from contextlib import chdir
from pathlib import Path

import yaml
from execnb.shell import CaptureShell
from nbdev.config import get_config
from nbdev.process import Processor


class built(Processor):
    "A cell that begins with `#| built` is executed, after those before it, in the folder of its chapter"
    def _built_(self, cell):
        shell = CaptureShell()
        with chdir(Path(self.nb.path_).parent):
            for one in self.nb.cells[:cell.idx_ + 1]:
                if one.cell_type == 'code': shell.cell(one)
                if shell.exc: raise RuntimeError(f'{self.nb.path_}, cell {one.idx_}') from shell.exc


def foot(config) -> dict:
    "What Quarto is told of the foot of all pages: version and licence"
    said = f'{config.title} {config.version}, [Apache 2.0]({config.git_url}/blob/{config.branch}/LICENSE)'
    return dict(website={'page-footer': dict(left=said)})


class footed(Processor):
    "The version stands in settings.ini alone: with the home page, what the foot says is written beside it"
    def begin(self):
        config = get_config()
        if Path(self.nb.path_).resolve() != (Path(config.nbs_path) / 'index.ipynb').resolve(): return
        made = Path(config.config_path) / '_proc' / 'footer.yml'
        made.parent.mkdir(exist_ok=True)
        made.write_text(yaml.safe_dump(foot(config), allow_unicode=True), encoding='utf-8')
