"""The lowest versions that setup.cfg allows, as constraints for pip: `python .ci/lowest.py > constraints.txt`."""

import configparser
import re
from pathlib import Path

settings = configparser.ConfigParser()
settings.read(Path(__file__).parent.parent / "setup.cfg")
for line in f"{settings['options']['install_requires']}\n{settings['options.extras_require']['dev']}".splitlines():
    if found := re.match(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", line.strip()):
        print(f"{found[1]}=={found[2]}")
