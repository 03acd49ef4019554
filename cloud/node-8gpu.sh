#!/usr/bin/env bash
# Train on one node with 8 GPUs.
#
#   cloud/node-8gpu.sh one     one process with all GPUs: the simplest, and the right one mostly
#   cloud/node-8gpu.sh eight   a process a GPU, started and restarted by flaxcnn launch
#   cloud/node-8gpu.sh seeds   8 seeds of one recipe, a GPU each: no exchange at all
#
# Needs: the NVIDIA driver, and an environment with flaxcnn and its CUDA plugin (cuda12 for drivers
# older than 580; constraints.txt is what the tests run with):
#   python3 -m venv venv && . venv/bin/activate && pip install -c constraints.txt '.[cuda13]'
#   flaxcnn doctor --numerics
set -euo pipefail

EXPERIMENT=${EXPERIMENT:-cifar-tuning/model1}
DATASET=${DATASET:-cifar10}
RUN=${RUN:-runs/cifar-model1}
# Where the node may vanish (spot), a place that outlives it: gs://bucket/path or a mounted disk.
CHECKPOINTS=${CHECKPOINTS:-$RUN/checkpoints}
BATCH=${BATCH:-1024} # 128 a GPU; see docs/scaling.md for the batch that pays
BASE_BATCH=${BASE_BATCH:-32} # the batch for which the recipe's learning rate was chosen

settings=(-s precision=bfloat16 -s "batch_size=$BATCH"
  -s learning_rate_scaling=sqrt -s "base_batch_size=$BASE_BATCH")

# Epochs that are recorded. A program that cannot be compiled aborts too (134), before the first of
# them and every time.
epochs() {
  wc -l 2> /dev/null < "$RUN/metrics.jsonl" || echo 0
}

# jit over all GPUs of the process. SIGTERM ends it with 75, and the loop goes on from the last
# checkpoint. Other codes would come again, so they end it.
one() {
  local status restarts=0 before
  before=$(epochs)
  while true; do
    status=0
    flaxcnn train "$EXPERIMENT" "${settings[@]}" \
      --run-dir "$RUN" --checkpoint-dir "$CHECKPOINTS" --resume-if-any || status=$?
    if [[ $status == 134 ]] && (($(epochs) <= before)); then
      echo "flaxcnn: exit code 134 before an epoch was recorded: it would come again" >&2
      return 1
    fi
    case $status in
      75 | 134 | 137 | 139) restarts=$((restarts + 1)) ;;
      *) return "$status" ;;
    esac
    if ((restarts > ${MAX_RESTARTS:-5})); then return "$status"; fi
    sleep 5
  done
}

# A process a GPU: for input that one Python process cannot feed, or to rehearse several hosts on one.
eight() {
  flaxcnn launch --processes 8 --max-restarts 5 -- \
    train "$EXPERIMENT" "${settings[@]}" \
    --run-dir "$RUN" --checkpoint-dir "$CHECKPOINTS" --resume-if-any
}

# With determinism=exact each run has the bits it would have alone.
seeds() {
  flaxcnn study "$EXPERIMENT" --seeds 8 -s precision=bfloat16 -s determinism=exact
}

case ${1:-} in
  one | eight | seeds)
    flaxcnn data prepare "$DATASET"
    "$1"
    ;;
  *)
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
