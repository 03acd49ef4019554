#!/usr/bin/env bash
# What the image runs: flaxcnn with the arguments given. A shell would keep SIGTERM to itself, so it is
# handed on. The exit code is flaxcnn's. With RECORDS=gs://bucket/path the first process copies the
# records there at the end, since a pod's disk goes with it. With CHECKPOINTS=gs://bucket/path an abort
# (134) before the first checkpoint becomes a failure (1), which no recipe starts again: so ends a
# compiler that cannot compile the program, every time.
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

# Whether the folder of checkpoints, numbered by epoch, was looked into and has none. All pods see the
# same bucket, so all say the same.
nothing_saved() {
  python -c 'import fsspec, sys
store, path = fsspec.core.url_to_fs(sys.argv[1])
names = store.ls(path, detail=False) if store.exists(path) else []
sys.exit(any(name.rstrip("/").rpartition("/")[2].isdecimal() for name in names))' "$CHECKPOINTS"
}

if [[ $status == 134 && -n ${CHECKPOINTS:-} ]] && nothing_saved; then
  echo "flaxcnn: exit code 134 before an epoch was saved: it would come again" >&2
  status=1
fi

if [[ $status == 0 && -n ${RECORDS:-} && ${PROCESS:-0} == 0 ]]; then
  python -c 'import fsspec, sys
fsspec.core.url_to_fs(sys.argv[2])[0].put(sys.argv[1] + "/", sys.argv[2] + "/", recursive=True)' \
    "$RUN_DIR" "$RECORDS" || status=6 # what it could not write is a failure
fi
exit "$status"
