#!/usr/bin/env bash
# What the image runs: flaxcnn with the arguments given. A shell would keep SIGTERM to itself, so it is
# handed on. The exit code is flaxcnn's. With RECORDS=gs://bucket/path the first process copies the
# records there at the end, since a pod's disk goes with it.
set -uo pipefail

stopped=no
flaxcnn "$@" &
child=$!
trap 'stopped=yes; kill -TERM "$child"' TERM
trap 'stopped=yes; kill -INT "$child"' INT

wait "$child"
status=$?
# A signal ends `wait` before its process: wait once more for the real exit code.
if [[ $stopped == yes ]]; then
  wait "$child"
  status=$?
fi

if [[ $status == 0 && -n ${RECORDS:-} && ${PROCESS:-0} == 0 ]]; then
  python -c 'import fsspec, sys
fsspec.core.url_to_fs(sys.argv[2])[0].put(sys.argv[1] + "/", sys.argv[2] + "/", recursive=True)' \
    "$RUN_DIR" "$RECORDS" || status=6 # what it could not write is a failure
fi
exit "$status"
