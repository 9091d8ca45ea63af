"""Builds the documentation's site into site/. A warning is a failure: Zensical's own, and Griffe's about docstrings.

python .ci/docs.py
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

done = subprocess.run(
    ["zensical", "build", "--clean", "--strict"],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
)
print(done.stdout, end="")
# Zensical prints them and does not count them.
problems = [line for line in done.stdout.splitlines() if line.startswith("griffe: ")]
# An example that is taken for prose becomes a quotation.
for page in sorted((ROOT / "site" / "api").glob("*.html")):
    if "<blockquote>" in page.read_text(encoding="utf-8"):
        problems.append(f"{page}: an example is not rendered as code")
sys.exit("\n".join(problems) or done.returncode)
