"The command as a module: `python -m modspec`"
from .cli import app

app()
