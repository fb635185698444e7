"""Checks that the Dockerfile copies what a build needs: its stages `dependencies` and `source`.

What the two stages copy is laid out alone, as far as .dockerignore admits it, and `cargo check` takes the place of the
build. The check uses the dependencies that are compiled in `target` already.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

STAGES = ("dependencies", "source")

tracked = subprocess.run(["git", "ls-files"], check=True, text=True, capture_output=True).stdout.splitlines()
admitted = [line[1:] for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")]


def copies():
    """The words of each COPY of the stages."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", Path("Dockerfile").read_text(), flags=re.M))
    stage = None
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[-1]
        elif stage in STAGES and word == "COPY":
            yield shlex.split(rest)


def is_admitted(path):
    parts = path.split("/")
    heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(fnmatch(head, pattern) for head in heads for pattern in admitted)


def copy(source, destination, root):
    files = [path for path in tracked if path == source or path.startswith(source + "/")]
    files = [path for path in files if is_admitted(path)]
    if not files:
        sys.exit(f"COPY {source}: there is no such file, or .dockerignore leaves it out")
    for path in files:
        if path != source:
            target = root / destination / os.path.relpath(path, source)
        elif destination.endswith("/"):
            target = root / destination / os.path.basename(source)
        else:
            target = root / destination
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    for *sources, destination in copies():
        for source in sources:
            copy(source, destination, root)
    environment = {**os.environ, "CARGO_TARGET_DIR": str(Path("target").resolve())}
    # PROFILED=yes also runs the benchmark.
    command = ["cargo", "check", "--quiet", "--locked", "--bin", "bearerd"]
    if subprocess.run(command, cwd=root, env=environment).returncode != 0:
        sys.exit(f"{shlex.join(command)} fails with what the Dockerfile copies")
    for script in ("benches/profiled", "benches/compare"):
        if not (root / script).is_file():
            sys.exit(f"the Dockerfile does not copy {script}, which PROFILED=yes runs")
