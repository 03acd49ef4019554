"""TensorBoard's files read back."""

import struct

from tensorboardX.proto import event_pb2


def files(folder):
    """Those that hold events."""
    return [path for path in folder.glob("events.out.tfevents.*") if path.stat().st_size]


def events(folder):
    """The events of a folder, all in one file."""
    (file,) = files(folder)
    data, found, at = file.read_bytes(), [], 0
    while at < len(data):  # length, its checksum, the event, its checksum
        (size,) = struct.unpack_from("<Q", data, at)
        found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
        at += 12 + size + 4
    assert at == len(data)
    return found


def scalars(folder):
    """Tag -> [(step, value)], in the order of the file."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
