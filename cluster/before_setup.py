"""What `make setup` needs of a machine, looked at before it begins: one line for what is missing, and what to install.

Written for any Python 3, so that one that is too old can say so.
"""

import os
import shutil
import sys

PYTHONS = (3, 11), (3, 12)  # pyproject.toml, requires-python
COMPILED = ((3, 12),)  # pocketsphinx 5.1.1 has no build for it, and is compiled
DISK_GB = 8  # .venv with the CUDA libraries of torch takes 6.2, and a run some more
MEMORY_GB = 4.3  # the most that the demo held (README.md)


def lacks(python, has_venv, has_compiler, free_gb):
    """The line of what is missing, or none. python: (major, minor); free_gb: where .venv will lie."""
    name = "%d.%d" % python
    if python not in PYTHONS:
        return (
            "Python %s: slamray needs 3.11 or 3.12; install one (Debian 12, Ubuntu 24.04: apt-get install python3 "
            "python3-venv; elsewhere from python.org, or by uv or pyenv) and say make setup PYTHON=python3.12" % name
        )
    if not has_venv:
        return "Python %s has no module venv; install it (Debian: apt-get install python%s-venv)" % (name, name)
    if python in COMPILED and not has_compiler:
        return (
            "Python %s needs a C compiler, for PocketSphinx; install it (Debian: apt-get install gcc python%s-dev), or "
            "take 3.11, which needs none: make setup PYTHON=python3.11" % (name, name)
        )
    if free_gb < DISK_GB:
        return "%.1f GB of disk are free here, and .venv needs %d; free some, or clone to a larger disk" % (
            free_gb,
            DISK_GB,
        )
    return ""


def notes(memory_gb):
    """The line of what is little, or none."""
    if memory_gb < MEMORY_GB:
        return "%.1f GB of memory: the demo takes %.1f, so a larger machine must run it" % (memory_gb, MEMORY_GB)
    return ""


def has_venv():
    """Whether a virtual environment can be made: Debian leaves ensurepip out of python3."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


def has_compiler():
    """Whether there is one for C, by the names that CMake tries."""
    return any(shutil.which(name) for name in ("cc", "gcc", "clang"))


def main():
    """Print what is missing; 2 where setup would fail."""
    free_gb = shutil.disk_usage(os.getcwd()).free / 1e9
    missing = lacks(tuple(sys.version_info[:2]), has_venv(), has_compiler(), free_gb)
    little = notes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    for kind, line in (("error", missing), ("note", little)):
        if line:
            sys.stderr.write("%s: %s\n" % (kind, line))
    return 2 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
