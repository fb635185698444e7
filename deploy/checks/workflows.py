"""Checks that the workflows run recipes and files that exist, and actions by the hash of a commit."""

import re
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

recipes = set(subprocess.run(["just", "--summary"], check=True, text=True, capture_output=True).stdout.split())
failures = []
steps = []
for path in sorted(Path(".github/workflows").glob("*.yml")):
    for job in YAML(typ="safe").load(path)["jobs"].values():
        steps += [(path.name, step) for step in job["steps"]]
for name, step in steps:
    for action in filter(None, [step.get("uses")]):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action):
            failures.append(f"{name}: {action} is not named by the hash of a commit")
    for recipe in re.findall(r"\bjust ([a-z0-9-]+)", step.get("run", "").replace("rust-just", "")):
        if recipe not in recipes:
            failures.append(f"{name}: there is no recipe {recipe}")
    for file in re.findall(r"\b(?:deploy|tests|benches)/[\w./-]+", step.get("run", "")):
        if not Path(file).exists():
            failures.append(f"{name}: there is no {file}")
if not steps:
    failures.append("there is no workflow")
print("\n".join(failures))
sys.exit(bool(failures))
