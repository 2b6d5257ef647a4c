#!/bin/bash
# Trains on two machines of a Slurm cluster, one worker each with all its GPUs:
#   sbatch training/cluster/slurm.sh --recipe imagenet_paper --data DATA --output RUN
# from the checkout; DATA and RUN on a file system that all machines share. A job that is preempted
# or reaches its time limit saves the run, and waits in the queue to go on.
#SBATCH --job-name=preact-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# SIGTERM to the workers, two minutes before the end.
#SBATCH --signal=TERM@120

set -uo pipefail

port=$((20000 + SLURM_JOB_ID % 10000))
addresses=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd,)
export ADDRESSES=$addresses

# --kill-on-bad-exit: when a worker dies, the others are stopped.
srun --kill-on-bad-exit=1 bash -c '
    export TF_CONFIG="{\"cluster\": {\"worker\": [$ADDRESSES]},
        \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
    exec python -m training.train "$@"
' worker "$@"
status=$?

# 75: saved and stopped as asked. Above 128: a signal ended a worker.
if ((status == 75 || status > 128)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
