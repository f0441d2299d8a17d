"""PostgreSQL from the distribution's source package: its server, and the test programs that no package ships."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.demo.programs import need

_CACHE = Path(__file__).parents[2] / ".venv-conformance" / "postgresql"
_SOURCES = Path("/etc/apt")
_BUILD_S = 3_600
_PARTS = (
    ("all",),
    ("all", "-C", "contrib/spi"),
    ("all", "-C", "src/test/regress"),
    ("all", "-C", "src/test/isolation"),
    ("all", "-C", "src/test/modules/libpq_pipeline"),
    ("install",),
    ("install", "-C", "contrib/spi"),
)


@dataclass(frozen=True, slots=True)
class Built:
    """`install` is the prefix of what was built, `tests` the folder `src/test` with its programs."""

    version: str
    install: Path
    tests: Path


def build() -> Built:
    """Fetch and build it, or find what an earlier run has built. Minutes of work on a small machine."""
    done = _CACHE / "done"
    if not done.exists():
        shutil.rmtree(_CACHE, ignore_errors=True)
        _CACHE.mkdir(parents=True)
        need(["psql", "gcc", "make", "dpkg-source"])
        tree = _fetch()
        _make(tree)
        done.write_text(tree.name)
    tree = _CACHE / done.read_text()
    return Built(tree.name.rpartition("-")[2], _CACHE / "install", tree / "src" / "test")


def _fetch() -> Path:
    """The newest version that can be had: an update's source may be missing from a mirror that has its packages."""
    options = _apt_with_sources()
    subprocess.run(["apt-get", "-qq", *options, "update"], timeout=_BUILD_S, check=False)  # some archive may have none
    major = _major()
    listed = _run("apt-cache", *options, "showsrc", f"postgresql-{major}")
    versions = re.findall(r"^Version: (\S+)", listed, re.MULTILINE)
    if not versions:
        raise RuntimeError(f"apt-get knows no source package postgresql-{major}")
    for version in reversed(versions):
        done = subprocess.run(
            ["apt-get", "-qq", *options, "source", f"postgresql-{major}={version}"],
            cwd=_CACHE, capture_output=True, text=True, timeout=_BUILD_S, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            (tree,) = _CACHE.glob(f"postgresql-{major}-*/")
            return tree
        _say(f"no source of {version}: {done.stderr.strip().splitlines()[-1:]}")
    raise RuntimeError("no source package could be fetched")


def _major() -> str:
    about = _run("apt-cache", "depends", "postgresql")
    found = re.search(r"postgresql-(\d+)$", about, re.MULTILINE)
    if found is None:
        raise RuntimeError("apt-cache does not tell which postgresql-NN is the distribution's")
    return found[1]


def _apt_with_sources() -> list[str]:
    """Options for apt: the machine's own sources, asked for source packages, and lists kept apart from the system's."""
    parts, lists = _CACHE / "sources.list.d", _CACHE / "lists"
    parts.mkdir()
    (lists / "partial").mkdir(parents=True)
    for file in (_SOURCES / "sources.list", *(_SOURCES / "sources.list.d").iterdir()):
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        text = re.sub(r"^Types:.*$", "Types: deb-src", file.read_text(), flags=re.MULTILINE)
        text = re.sub(r"^deb ", "deb-src ", text, flags=re.MULTILINE)
        (parts / file.name).write_text(text)
    return [
        "-o", "Dir::Etc::sourcelist=/dev/null",
        "-o", f"Dir::Etc::sourceparts={parts}",
        "-o", f"Dir::State::lists={lists}",
    ]  # fmt: skip


def _make(tree: Path) -> None:
    # No TLS of its own: the programs run with the system's libpq, which has it, as people's do.
    _say(f"Building {tree.name} (some minutes) …")
    install = _CACHE / "install"
    configure = ["--without-readline", "--without-zlib", "--without-icu", "--disable-rpath"]
    known = _run("./configure", "--help", cwd=tree)
    configure = [each for each in configure if each != "--without-icu" or "--without-icu" in known]
    _run("nice", "./configure", "--quiet", f"--prefix={install}", *configure, cwd=tree)
    jobs = str(os.cpu_count() or 1)
    for part in _PARTS:
        _run("nice", "make", "--silent", "-j", jobs, *part, cwd=tree)


def _run(*argv: str, cwd: Path | None = None) -> str:
    # Whoever is not the outermost make builds no generated headers, and `make conformance` is one around this.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
