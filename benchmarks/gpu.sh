#!/bin/sh
# Runs benchmarks/gpu.py on a machine with one GPU, a Python of 3.11 or 3.12 and nothing of this project installed.
#
#     sh benchmarks/gpu.sh [words of gpu.py]          PYTHON, SITE, WHEELS, COMMIT: see below
#     sh benchmarks/gpu.sh prepare FOLDER [VERSION]   wheels for a machine without network, for a Python of that VERSION
#
# PYTHON runs it: .venv/bin/python where `make setup` was run, else python3, which should have torch 2.11 for its GPU.
# What that Python lacks is installed into SITE (build/gpu), at the versions of requirements.lock, from the network or
# from WHEELS, a folder. Make that folder where there is a network by `prepare`; it holds what a machine with torch,
# transformers' own needs and pyarrow lacks, 21 MB, and can be passed on with the repository:
#
#     sh benchmarks/gpu.sh prepare wheels 3.12
#     WHEELS=wheels COMMIT=$(git rev-parse --short HEAD) sh benchmarks/gpu.sh --out results     # over there
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
: "${PYTHON:=$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python3)}"
: "${SITE:=$root/build/gpu}"
: "${COMMIT:=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)}"
SMALL="deepspeed transformers trl datasets dill multiprocess pydantic pydantic_core annotated-types typing-inspection \
soundfile cffi pycparser hjson"
EXACT="deepspeed transformers trl"
NEEDED="$SMALL accelerate einops fsspec huggingface_hub Jinja2 msgpack ninja numpy packaging pandas psutil py-cpuinfo \
pyarrow PyYAML regex safetensors scipy tokenizers tqdm typing_extensions xxhash"

pins() { for name in "$@"; do grep "^$name==" "$root/requirements.lock"; done; }

if [ "${1:-}" = prepare ]; then
    version=${3:-3.12}
    $PYTHON -m pip wheel --quiet --no-deps --wheel-dir "$2" $(pins deepspeed)
    platforms=$(printf -- '--platform manylinux%s_x86_64 ' _2_39 _2_34 _2_28 _2_27 _2_24 _2_17 2014)
    $PYTHON -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
        $platforms --dest "$2" $(pins $SMALL | grep -v ^deepspeed)
    exit
fi

if ! $PYTHON -c 'import torch'; then
    echo "$PYTHON has no torch; say PYTHON=one that has torch 2.11 for its GPU" >&2
    exit 2
fi
export PYTHONPATH="$SITE:$root${PYTHONPATH:+:$PYTHONPATH}" COMMIT
missing=$($PYTHON - "$EXACT" $(pins $NEEDED) <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
for pin in sys.argv[2:]:
    name, wanted = pin.split("==")
    try:
        fits = version(name) == wanted or name not in sys.argv[1].split()
    except PackageNotFoundError:
        fits = False
    if not fits:
        print(pin)
PYTHON
)
if [ -n "$missing" ]; then
    $PYTHON -m pip install --quiet --no-deps --no-compile --upgrade --target "$SITE" \
        ${WHEELS:+--no-index --find-links "$WHEELS"} $missing
fi
exec $PYTHON "$root/benchmarks/gpu.py" "$@"
