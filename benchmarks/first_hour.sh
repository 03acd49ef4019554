#!/usr/bin/env bash
# The first hour on an accelerator: what plans and compilers predict, measured.
#
#   benchmarks/first_hour.sh [FOLDER]           results go to FOLDER, first-hour without one
#   benchmarks/first_hour.sh --quick [FOLDER]   every step in small, on a CPU: does it run at all?
#
# Needs: an environment with flaxcnn and its plugin (README.md, Start) in PATH, this checkout, and
# better yet the prepared data of mnist and cifar10 (flaxcnn data prepare); without them random
# images do, and the time to accuracy is left out. Peers are measured where they are installed.
#
# A step has a time limit and ends alone: what fails or takes too long stops no other. Each leaves
# NAME.json (what it printed) and NAME.log; summary.json and the table at the end say what came out.
# BUDGET=3600 bounds all of it: what no longer fits is left out, and said.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

quick=no
if [[ ${1:-} == --quick ]]; then
  quick=yes
  shift
fi
if [[ ${1:-} == -* || $# -gt 1 ]]; then
  sed -n '4,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
FOLDER=${1:-first-hour}
[[ $FOLDER == /* ]] || FOLDER=$here/$FOLDER
BUDGET=${BUDGET:-3600}
export TF_CPP_MIN_LOG_LEVEL=3

mkdir -p "$FOLDER"
if [[ -e $FOLDER/steps.tsv ]]; then
  echo "error: $FOLDER holds an hour already; allowed is another folder" >&2
  exit 2
fi
: > "$FOLDER/steps.tsv"

# What a step may take at least to be begun at all.
SHORTEST=10

# step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 began=$SECONDS status=0 verdict
  shift 2
  local left=$((BUDGET - SECONDS))
  if ((left < SHORTEST)); then
    printf '%s\t%s\t%s\n' "$name" "left out" 0 >> "$FOLDER/steps.tsv"
    echo "$name: left out, the budget of $BUDGET s is spent"
    return
  fi
  if ((limit > left)); then limit=$left; fi
  # A process that does not hear SIGTERM is killed: the chips are needed by the next step.
  timeout --kill-after=20 "$limit" "$@" \
    > "$FOLDER/$name.json" 2> "$FOLDER/$name.log" < /dev/null &
  child=$!
  wait "$child" || status=$?
  verdict="exit code $status"
  if [[ $status == 0 ]]; then verdict=done; fi
  # 137 is also what the kernel's out-of-memory killer leaves, and that before the time is over.
  if [[ $status == 124 ]] || { [[ $status == 137 ]] && ((SECONDS - began >= limit)); }; then
    verdict="stopped after $limit s"
  fi
  printf '%s\t%s\t%s\n' "$name" "$verdict" $((SECONDS - began)) >> "$FOLDER/steps.tsv"
  echo "$name: $verdict, $((SECONDS - began)) s"
}

summary() {
  python -m benchmarks.first_hour summary "$FOLDER"
}
child=
trap '[[ -z $child ]] || kill -TERM "$child" 2> /dev/null || true; summary; exit 130' INT TERM

# -- what there is -------------------------------------------------------------------------------

step machine 120 bash -c 'nvidia-smi -q; ls -l /dev/nvidia* /dev/accel* /dev/vfio; python -m pip freeze'
step platform 120 python -m benchmarks.first_hour platform
PLATFORM=$(python -m benchmarks.first_hour said "$FOLDER/platform.json" backend cpu)
DEVICES=$(python -m benchmarks.first_hour said "$FOLDER/platform.json" devices 1)
step numerics 300 flaxcnn doctor --numerics --json

# One device of several, by what each platform calls its chips.
one=(env JAX_NUM_CPU_DEVICES=1)
if [[ $PLATFORM == gpu ]]; then one=(env CUDA_VISIBLE_DEVICES=0); fi
if [[ $PLATFORM == tpu ]]; then
  one=(env TPU_VISIBLE_CHIPS=0 TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1 TPU_PROCESS_BOUNDS=1,1,1)
fi

if [[ $quick == yes ]]; then
  bench=(--mode train --dtype f32 --repeats 1 --seconds 0.02) rows=1024 epochs=1 long=2 seeds=2 batch=256
else
  bench=(--dtype f32,bf16 --repeats 5 --seconds 1) rows=60000 epochs=3 long=20 seeds=8 batch=1024
fi
runs=$FOLDER/runs

# MNIST where it is prepared. Without it images of its shape that can be learned, from a file.
mnist=no cifar=no data=mnist
if [[ $quick == no ]]; then
  if flaxcnn data verify mnist > "$FOLDER/mnist.log" 2>&1; then mnist=yes; fi
  if flaxcnn data verify cifar10 > "$FOLDER/cifar.log" 2>&1; then cifar=yes; fi
fi
if [[ $mnist == no ]]; then
  data=npz:$FOLDER/rows.npz
  step data 120 python -m benchmarks.first_hour data "$FOLDER/rows.npz" "$rows"
fi

# -- speed: 1. ours, float32 and bfloat16, with CUDA graphs and without --------------------------

for network in mnist-ladder/model10 cifar-tuning/model1 digits/quickstart \
  benchmarks/peers/models.py:batchnorm-cnn; do
  name=${network##*[/:]}
  step "bench-$name" 200 \
    flaxcnn bench "$network" --synthetic "${bench[@]}" --json
  if [[ $PLATFORM == gpu || $quick == yes ]]; then # elsewhere there are no graphs to leave out
    step "bench-$name-no-graphs" 200 env FLAXCNN_GPU_GRAPHS=0 \
      flaxcnn bench "$network" --synthetic "${bench[@]}" --json
  fi
done

# 2. The floor of a step, and images per second above it: docs/scaling.md has guesses for both.
sizes=8,128,1024,8192
if [[ $quick == yes ]]; then sizes=8,128; fi
step bench-batches 200 \
  flaxcnn bench mnist-ladder/model10 --synthetic "${bench[@]}" --mode train --batch-sizes "$sizes" --json

# -- 3. the same bits twice ----------------------------------------------------------------------

for turn in 1 2; do
  # Without kept programs the second one compiles, and tunes, anew.
  step "exact-$turn" 200 \
    flaxcnn train mnist-ladder/model10 -s "dataset=$data" -s split=archive -s determinism=exact \
    -s "epochs=$epochs" --run-dir "$runs/exact-$turn" --no-cache --json
done

# -- 4. seeds side by side, and one after the other ----------------------------------------------

for how in map vmap; do
  step "study-$how" 300 \
    flaxcnn study mnist-ladder/model10 --seeds "$seeds" -s "dataset=$data" -s split=archive \
    -s "epochs=$epochs" --how "$how" --study-dir "$runs/study-$how" --json
done

# -- 5. all devices against one, at the recipe's batch and at a large one ------------------------

if ((DEVICES > 1)); then
  for size in 128 "$batch"; do
    step "devices-all-$size" 200 \
      flaxcnn train mnist-ladder/model10 -s "dataset=$data" -s split=archive \
      -s "epochs=$epochs" -s "batch_size=$size" --run-dir "$runs/devices-all-$size" --json
    step "devices-one-$size" 200 "${one[@]}" \
      flaxcnn train mnist-ladder/model10 -s "dataset=$data" -s split=archive \
      -s "epochs=$epochs" -s "batch_size=$size" --run-dir "$runs/devices-one-$size" --json
  done
fi

# -- 6. rows streamed against rows that lie on the device ----------------------------------------

for input in resident stream; do
  step "input-$input" 200 \
    flaxcnn train mnist-ladder/model10 -s "dataset=$data" -s split=archive -s "input=$input" \
    -s workers=2 -s "epochs=$epochs" --run-dir "$runs/input-$input" --json
done

# -- 7. time to accuracy -------------------------------------------------------------------------

if [[ $mnist == yes || $quick == yes ]]; then
  step accuracy-model10 300 \
    flaxcnn train mnist-ladder/model10 -s "dataset=$data" -s split=archive -s "epochs=$long" \
    --run-dir "$runs/accuracy-model10" --json
fi
if [[ $cifar == yes ]]; then
  step accuracy-model3 400 \
    flaxcnn train cifar-tuning/model3 -s "epochs=$long" --run-dir "$runs/accuracy-model3" --json
fi

# -- 8. peers ------------------------------------------------------------------------------------

peers=$(python -m benchmarks.first_hour peers)
models=mnist-ladder/model10,cifar-tuning/model1,batchnorm-cnn repeats=3
if [[ $quick == yes ]]; then models=mnist-ladder/model1 repeats=1 peers=flaxcnn,flax; fi
step peers 900 \
  python -m benchmarks.peers --models "$models" --peers "$peers" --measure throughput --synthetic \
  --repeats "$repeats" --output "$FOLDER/peers-results.json" --json

summary
