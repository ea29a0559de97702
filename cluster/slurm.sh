#!/usr/bin/env bash
# A Ray cluster of whole Slurm nodes for one command. From the repository's root, set up on a disk that all nodes see:
#     sbatch --nodes=4 cluster/slurm.sh recipe=slam profile=cluster root=/shared/runs
#SBATCH --job-name=slam
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address="$head:6379"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$PWD/.venv/ray-token}"
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592
[ -s "$RAY_AUTH_TOKEN_PATH" ] || (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")

# Starts Ray on every node, runs the command on the first, and stops Ray when it has ended.
exec srun .venv/bin/ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    env RAY_ADDRESS="$address" .venv/bin/python jobs/slam.py "$@"
