#!/usr/bin/env bash
# Train on a Cloud TPU slice: ask for it, install, train, come back after preemptions, delete it.
#
#   cloud/tpu-vm.sh up       ask for the slice and wait until it is there
#   cloud/tpu-vm.sh train    install and train; a preempted slice is asked for again
#   cloud/tpu-vm.sh down     delete it (it costs money until then)
#   cloud/tpu-vm.sh all      up, train, down
#
#   PROJECT=p BUCKET=b WHEEL=dist/flaxcnn-0.1.0-py3-none-any.whl cloud/tpu-vm.sh all
#
# Needs: gcloud with a project, the TPU API, quota for the accelerator type, and a bucket in the
# region of the zone that the service account of the TPU VMs may write.
set -euo pipefail

PROJECT=${PROJECT:?the Google Cloud project}
BUCKET=${BUCKET:?the bucket for checkpoints, without gs://}
WHEEL=${WHEEL:?the package: python -m build --wheel writes dist/flaxcnn-*.whl}
CONSTRAINTS=${CONSTRAINTS:-constraints.txt} # the versions that the tests run with
ZONE=${ZONE:-us-west4-a}
TPU=${TPU:-flaxcnn}
# 16 chips of v5e on several hosts. Others: v6e-16 with v2-alpha-tpuv6e, v5p-32 with v2-alpha-tpuv5.
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
SPOT=${SPOT:-yes} # yes: cheap and preemptible; no: on demand
EXPERIMENT=${EXPERIMENT:-cifar-tuning/model1}
BATCH=${BATCH:-2048} # 128 a chip; see docs/scaling.md for the batch that pays
BASE_BATCH=${BASE_BATCH:-32} # the batch for which the recipe's learning rate was chosen
RUN=${RUN:-cifar-model1} # another name, another run
DATASET=${DATASET:-cifar10}
MAX_RESTARTS=${MAX_RESTARTS:-20}

CHECKPOINTS=gs://$BUCKET/$RUN/checkpoints
HERE=(--project="$PROJECT" --zone="$ZONE")

state() {
  gcloud compute tpus queued-resources describe "$TPU" "${HERE[@]}" --format='value(state.state)' \
    2>/dev/null || echo ABSENT
}

down() {
  [[ $(state) == ABSENT ]] || # --force also deletes the TPU VMs of an active request
    gcloud compute tpus queued-resources delete "$TPU" "${HERE[@]}" --force --quiet
}

# Queued, so that it waits for capacity instead of failing.
up() {
  local spot=()
  if [[ $SPOT == yes ]]; then spot=(--spot); fi
  while true; do
    case $(state) in
      ACTIVE) return ;;
      ABSENT)
        gcloud compute tpus queued-resources create "$TPU" "${HERE[@]}" --node-id="$TPU" \
          --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${spot[@]}"
        ;;
      FAILED | SUSPENDED) down ;; # a preempted slice never comes back: ask anew
      *) sleep 30 ;;
    esac
  done
}

on_all() { # every host of the slice runs the same command at the same time
  gcloud compute tpus tpu-vm ssh "$TPU" "${HERE[@]}" --worker=all --command="$1"
}

install() {
  gcloud compute tpus tpu-vm scp "$WHEEL" "$CONSTRAINTS" "$TPU:" "${HERE[@]}" --worker=all || return
  # The runtime's own Python is older than 3.11. libtpu comes with the extra tpu; requests is what JAX
  # asks the metadata server with who its peers are.
  on_all "set -e
    command -v python3.11 > /dev/null || {
      sudo add-apt-repository -y ppa:deadsnakes/ppa
      sudo apt-get install -y python3.11-venv; }
    test -x ~/flaxcnn/bin/pip || python3.11 -m venv ~/flaxcnn
    ~/flaxcnn/bin/pip install --quiet -c \$HOME/'${CONSTRAINTS##*/}' \
      \$HOME/'${WHEEL##*/}[cloud,tpu]' requests"
}

# flock: when the connection breaks, the command may go on without it. A second one waits for it to
# end rather than fight for the chips.
#
# The compile cache is JAX's own, in the bucket: a new slice finds what the old one compiled. Small
# networks compile in less than JAX's usual threshold of a second, hence the two limits.
#
# Every host writes its exit code down and the first one is asked, since gcloud folds those of several
# hosts into one of its own.
train_once() {
  on_all "set -u
    export JAX_COMPILATION_CACHE_DIR=gs://$BUCKET/compiled
    export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
    PATH=~/flaxcnn/bin:\$PATH
    flaxcnn data prepare $DATASET
    flock ~/chips flaxcnn train $EXPERIMENT --distributed -s precision=bfloat16 \
      -s batch_size=$BATCH -s learning_rate_scaling=sqrt -s base_batch_size=$BASE_BATCH \
      --run-dir ~/runs/$RUN --checkpoint-dir $CHECKPOINTS --resume-if-any
    echo \$? > ~/exit-code" || true
}

exit_code() { # nothing, where the slice is gone
  gcloud compute tpus tpu-vm ssh "$TPU" "${HERE[@]}" --worker=0 \
    --command='cat ~/exit-code; rm -f ~/exit-code' 2>/dev/null | tr -dc '0-9' || true
}

# The checkpoints there are, a folder an epoch; nothing before the first.
saved() {
  gcloud storage ls "$CHECKPOINTS/" 2>/dev/null || true
}

train() {
  local code restarts=0 before
  before=$(saved)
  while true; do
    up
    code=
    if install; then # it fails where the slice goes meanwhile
      train_once
      code=$(exit_code)
    fi
    echo "flaxcnn: exit code ${code:-none, the slice or the connection is gone}"
    # A program that cannot be compiled aborts too, before the first epoch and every time: on rented
    # chips nobody wants that MAX_RESTARTS times.
    if [[ $code == 134 && $(saved) == "$before" ]]; then
      echo "flaxcnn: exit code 134 before an epoch was saved: it would come again" >&2
      exit 1
    fi
    case ${code:-gone} in
      0) break ;;
      # preempted, or a peer died: the same command goes on from the last checkpoint
      75 | 134 | 137 | 139 | gone) restarts=$((restarts + 1)) ;;
      *) exit "$code" ;; # 1 to 6 and 130 would come again
    esac
    if ((restarts > MAX_RESTARTS)); then
      echo "gave up after $MAX_RESTARTS restarts" >&2
      exit 1
    fi
    sleep 60 # a preempted slice is ACTIVE for a little longer
  done
  # The records are written by process 0 on its own disk, which dies with the slice.
  gcloud compute tpus tpu-vm ssh "$TPU" "${HERE[@]}" --worker=0 \
    --command="gcloud storage cp --recursive ~/runs/$RUN gs://$BUCKET/$RUN/records"
}

case ${1:-} in
  up | train | down) "$1" ;;
  all)
    up
    train
    down
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
