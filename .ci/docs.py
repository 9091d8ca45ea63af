"""Builds the site of the documentation into site/. A warning is a failure: Zensical's own, and Griffe's about docstrings.

python .ci/docs.py
"""

import subprocess
import sys

done = subprocess.run(
    ["zensical", "build", "--clean", "--strict"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
)
print(done.stdout, end="")
# Zensical prints them and does not count them.
warnings = [line for line in done.stdout.splitlines() if line.startswith("griffe: ")]
sys.exit(f"{len(warnings)} warnings about docstrings" if warnings else done.returncode)
