#!/bin/sh
# Runs everything that RESULTS.md shows, in the order in which it is worth having:
#   sh experiments/table.sh
# What has a row is not run again, so it can be stopped and started at any time; training under way
# is kept in FLAXCNN_RUNS_DIR. Days on two CPU cores. PYTHON and RESULTS may name others.
set -eu
run() {
  "${PYTHON:-python3}" -m flaxcnn experiments run --results "${RESULTS:-experiments/results}" "$@"
}

run --all --no-grids --protocol document
run --all --no-grids
run mnist-ladder fashion-slim/final fashion-budget/final fashion-budget/final-dropout-0.2 \
  --protocol both --seeds 8
run mnist-ladder/baseline mnist-ladder/model1 --seeds 64  # how often is it born dead?
run best/mnist-2k best/mnist-8k best/mnist-35k best/fashion-48k --seeds 5
run fashion-slim/grid
run mnist-archs/grid-kernel
run fashion-budget/grid
run mnist-archs cifar-tuning --no-grids --protocol both --seeds 3
run cifar-tuning/grid-a cifar-tuning/grid-b
run best --seeds 5
