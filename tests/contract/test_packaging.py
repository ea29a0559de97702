"""What is installed: the wheel holds what the package reads, locks and licences are those of the packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import before_setup
import cpu_lock
import pytest
import third_party
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.wheel import make_wheel

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
ONE_DOOR = "import sys; from slamray.commands.door import console; sys.exit(console())"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(make_wheel(folder)) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow  # pip builds in an environment of its own
def test_the_wheel_holds_every_file_that_the_package_reads(installed: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "slamray"], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = [name for name in listed.stdout.split() if name != "slamray/tuning"]  # a link to the folder of that name
    wanted += [f"slamray/tuning/{path.name}" for path in (ROOT / "tuning").glob("*.py")]
    assert len(wanted) > 250 and [name for name in wanted if not (installed / name).is_file()] == []
    (said,) = installed.glob("*.dist-info/entry_points.txt")
    assert "slamray = slamray.commands.door:console" in said.read_text()


def of_wheel(installed: Path, folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Python in an empty folder, which knows slamray from the wheel alone."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_of_the_wheel_lists_recipes_finds_its_assets_and_its_sweeps(
    installed: Path, tmp_path: Path
) -> None:
    done = of_wheel(installed, tmp_path, ONE_DOOR, "list")
    assert done.returncode == 0 and "\n  demo " in done.stdout, done.stderr
    code = (
        "from slamray.commands.sweep_space import load_tuning\nfrom slamray.config.base import asset_path\n"
        "print(load_tuning('dpo_budget').__file__, asset_path('assets:story-lm'))"
    )
    found = of_wheel(installed, tmp_path, code).stdout.split()
    assert found == [f"{installed}/slamray/tuning/dpo_budget.py", f"{installed}/slamray/assets/story-lm"]


def test_the_command_does_what_the_scripts_of_jobs_do(tmp_path: Path) -> None:
    scripts = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    alone = of_wheel(ROOT, tmp_path, ONE_DOOR)
    assert {line.split()[0] for line in alone.stdout.splitlines() if line.startswith("  ")} == scripts | {"list"}
    command = [sys.executable, ROOT / "jobs" / "convert_vocoder.py", "IN.pt"]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    same = of_wheel(ROOT, tmp_path, ONE_DOOR, "convert_vocoder", "IN.pt")
    assert job.stderr.startswith("error: give IN.pt CONFIG.json OUT") and (same.returncode, same.stderr) == (
        2,
        job.stderr,
    )
    wrong = of_wheel(ROOT, tmp_path, ONE_DOOR, "swep")
    assert wrong.returncode == 2 and re.match(r"error: swep: no such job; there are slam .*sweep.* list", wrong.stderr)


def test_the_licences_of_all_that_is_locked_are_listed() -> None:
    assert (ROOT / "THIRD_PARTY.md").read_text() == third_party.page(), "run `make third-party`"


def test_what_torch_for_cpus_does_without_nothing_else_needs() -> None:
    kept = cpu_lock.without_cuda(LOCK)
    names = {canonicalize_name(line.partition("==")[0]) for line in kept}
    dropped = {canonicalize_name(line.partition("==")[0]) for line in LOCK} - names
    assert {"triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= dropped and "torch==2.11.0+cpu" in kept
    needed = {
        (package.name, canonicalize_name(wanted.name))
        for package in distributions()
        if canonicalize_name(package.name) in names - {"torch"}
        for wanted in map(Requirement, package.requires or ())
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    }
    assert len(needed) > 100 and {pair for pair in needed if pair[1] in dropped} == set()


@pytest.mark.parametrize(
    ("python", "has_venv", "has_compiler", "free_gb", "said"),
    [
        ((3, 9), True, True, 100, r"^Python 3\.9: slamray needs 3\.11 or 3\.12; .* make setup PYTHON=python3\.12$"),
        ((3, 13), True, True, 100, r"^Python 3\.13: slamray needs 3\.11 or 3\.12"),
        ((3, 11), False, True, 100, r"^Python 3\.11 has no module venv; .*apt-get install python3\.11-venv"),
        ((3, 12), True, False, 100, r"^Python 3\.12 needs a C compiler.*apt-get install gcc python3\.12-dev"),
        ((3, 12), True, True, 2.5, r"^2\.5 GB of disk are free here, and \.venv needs 8; "),
        ((3, 11), True, False, 100, r"^$"),
        ((3, 12), True, True, 100, r"^$"),
    ],
)
def test_setup_says_first_what_the_machine_lacks(
    python: tuple[int, int], has_venv: bool, has_compiler: bool, free_gb: float, said: str
) -> None:
    line = before_setup.lacks(python, has_venv, has_compiler, free_gb)
    assert re.search(said, line) and "\n" not in line
    assert "demo takes" in before_setup.notes(2.0) and not before_setup.notes(8.0)


def test_setup_without_the_python_that_was_named_is_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    command = ["make", "setup", "PYTHON=no-such-python"]
    # `make test` runs this test itself, and a make under another one prints its level and its folder.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    said, *others = done.stderr.splitlines()
    assert said.startswith("error: no no-such-python here; install it (Debian 12") and "python3-venv" in said
    assert done.returncode == 2 and all(line.startswith("make: ***") for line in others)
    assert not (tmp_path / ".venv").exists()
