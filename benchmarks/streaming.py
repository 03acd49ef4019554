"""Streaming beside torch's DataLoader and tf.data: images/s, memory and the share of stalls.

    python -m benchmarks.streaming [--images N] [--workers N] [--repeats N] [--output FILE]

Makes a folder of JPEG and PNG files of differing size, and the same images as sets that tfds
prepared (ArrayRecord; TFRecord for tf.data, which reads no other), in a temporary folder. Readers
decode, resize to 64x64 and batch every image in an order drawn anew for each pass, each in a
process of its own and one at a time, in turn; the first pass of each, in which workers start, is
not counted. Then a small CNN is trained on the folder with a tenth of its bytes allowed.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib or tensorflow is imported

import numpy as np
from PIL import Image

SIDE = 64
BATCH = 128
CLASSES = [f"class{number}" for number in range(8)]
PEERS = ("flaxcnn", "torch", "tf.data")
Pass = Callable[[int], Iterator[np.ndarray]]  # seed of the order -> batches uint8 [B, H, W, C]


# -- images --------------------------------------------------------------------------------------


def make_images(count: int) -> Iterator[tuple[str, int, bytes]]:
    """(file name, class, file): smooth fields with some noise, 64 to 96 pixels a side."""
    random = np.random.default_rng(0)
    for number in range(count):
        kind = number % len(CLASSES)
        coarse = random.integers(0, 192, (6, 6, 3), np.uint8)
        coarse[:, kind % 6] += 64  # something to learn
        width, height = (int(side) for side in random.integers(64, 97, 2))
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = random.integers(0, 8, (height, width, 3), np.uint8)
        image = Image.fromarray(np.minimum(np.asarray(smooth), 247) + noise)
        file = io.BytesIO()
        suffix = ("jpg", "png")[number // len(CLASSES) % 2]
        image.save(file, {"jpg": "JPEG", "png": "PNG"}[suffix], quality=90, compress_level=1)
        yield f"{number:06}.{suffix}", kind, file.getvalue()


def make_folder(root: Path, count: int) -> None:
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    for name, kind, data in make_images(count):
        (root / CLASSES[kind] / name).write_bytes(data)


def make_prepared(root: Path, count: int, file_format: str) -> None:
    """The same files as the tfds set `fields`."""
    import tensorflow_datasets as tfds

    class Fields(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Smooth fields."""

        name = "fields"
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=CLASSES),
            })  # fmt: skip
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for name, kind, data in make_images(count):
                yield name, {"image": io.BytesIO(data), "label": kind}

    Fields(data_dir=root, file_format=file_format).download_and_prepare()


# -- readers -------------------------------------------------------------------------------------


def with_flaxcnn(kind: str, root: Path, workers: int) -> Pass:
    """Ours: rows are asked for a batch at a time, the whole pass beforehand as in training."""
    from flaxcnn.data.datasets import load
    from flaxcnn.data.stream import RowReader
    from flaxcnn.recipe.resize import Resize

    os.environ["TFDS_DATA_DIR"] = str(root / "array_record")
    name = f"folder:{root / 'folder'}" if kind == "folder" else "tfds:fields"
    data = load(name, Resize(SIDE, SIDE), most=0)
    reader = RowReader([data.train.image, data.test.image], workers)
    count = len(data.train) + len(data.test)

    def one(seed: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng(seed).permutation(count).astype(np.int32)
        starts = range(0, count, BATCH)
        reads = [reader.submit(order[start : start + BATCH]) for start in starts]
        assert set(reads) == {1}  # a batch is read at once, so it is whole as it comes
        yield from (reader.read() for _ in starts)

    return one


class TorchFolder:
    """A map-style dataset of files, as torchvision's ImageFolder is one."""

    def __init__(self, root: Path):
        self.files = sorted(str(file) for file in (root / "folder").glob("*/*"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Any:
        with Image.open(self.files[row]) as image:
            return resized(image)


class TorchRecords:
    """tfds's own data source for torch, decoded by Pillow."""

    def __init__(self, root: Path):
        self.root, self.source = root, None
        self.count = len(self._open())

    def _open(self) -> Any:
        import tensorflow_datasets as tfds

        found = tfds.builder_from_directory(self.root / "array_record" / "fields" / "1.0.0")
        return found.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        if self.source is None:  # once a worker
            self.source = self._open()
        with Image.open(io.BytesIO(self.source[row]["image"])) as image:
            return resized(image)


def resized(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def with_torch(kind: str, root: Path, workers: int) -> Pass:
    import torch

    rows = {"folder": TorchFolder, "tfds": TorchRecords}[kind](root)
    generator = torch.Generator()
    loader = torch.utils.data.DataLoader(
        rows, BATCH, shuffle=True, num_workers=workers, persistent_workers=True,
        generator=generator,
    )  # fmt: skip

    def one(seed: int) -> Iterator[np.ndarray]:
        generator.manual_seed(seed)
        yield from (batch.numpy() for batch in loader)

    return one


def with_tf_data(kind: str, root: Path, workers: int) -> Pass:
    import tensorflow as tf

    def decode(data: Any) -> Any:
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        image = tf.image.resize(image, (SIDE, SIDE), antialias=True)
        return tf.cast(tf.round(image), tf.uint8)

    def one(seed: int) -> Iterator[np.ndarray]:
        if kind == "folder":
            files = sorted(str(file) for file in (root / "folder").glob("*/*"))
            order = np.random.default_rng(seed).permutation(len(files))
            data = tf.data.Dataset.from_tensor_slices([files[row] for row in order])
            data = data.map(lambda file: decode(tf.io.read_file(file)), workers)
        else:
            import tensorflow_datasets as tfds

            found = tfds.builder_from_directory(root / "tfrecord" / "fields" / "1.0.0")
            data = found.as_dataset(
                split="train", decoders={"image": tfds.decode.SkipDecoding()},
                read_config=tfds.ReadConfig(shuffle_seed=seed), shuffle_files=True,
            )  # fmt: skip
            data = data.shuffle(1024, seed).map(lambda row: decode(row["image"]), workers)
        options = tf.data.Options()
        options.threading.private_threadpool_size = workers
        yield from data.batch(BATCH).prefetch(2).with_options(options).as_numpy_iterator()

    return one


READERS = {"flaxcnn": with_flaxcnn, "torch": with_torch, "tf.data": with_tf_data}


def read_on_demand(peer: str, kind: str, root: Path, workers: int) -> None:
    """A child: for every line on stdin, one pass; its images and seconds on stdout."""
    passes = READERS[peer](kind, root, workers)
    for line in sys.stdin:
        began, images = time.perf_counter(), 0
        for batch in passes(int(line)):
            assert batch.shape[1:] == (SIDE, SIDE, 3)
            assert batch.dtype == np.uint8
            images += len(batch)
        print(json.dumps([images, time.perf_counter() - began]), flush=True)
    os._exit(0)  # workers end with this process


# -- measurements --------------------------------------------------------------------------------


def throughput(kind: str, root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s of every reader, the rounds in turn."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--root", str(root), "--kind", kind,
               "--workers", str(options.workers)]  # fmt: skip
    children = {
        peer: subprocess.Popen([*command, "--peer", peer], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
        for peer in PEERS
    }  # fmt: skip
    rates: dict[str, list[float]] = {peer: [] for peer in PEERS}
    for turn in range(1 + options.repeats):
        for peer, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(f"{turn}\n")
            child.stdin.flush()
            images, seconds = json.loads(child.stdout.readline())
            assert images == options.images, (peer, images)
            if turn:
                rates[peer].append(images / seconds)
        print(kind, turn, {peer: round(r[-1]) for peer, r in rates.items() if r}, flush=True)
    for child in children.values():
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
    rows = []
    for peer, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["flaxcnn"], found, strict=True)]
        rows.append({
            "set": kind, "reader": peer, "images_per_second": statistics.median(found),
            "lowest": min(found), "highest": max(found), "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios), "ratio_highest": max(ratios),
        })  # fmt: skip
    return rows


def peak_bytes(process: Any) -> int:
    """Most memory a process has had; getrusage would count that of the program that started it."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def train(folder: Path, way: str, memory: int, workers: int) -> None:
    """A child: a small CNN trained on the folder; its epochs and peak memory on stdout."""
    from flaxcnn import backend
    from flaxcnn.data.datasets import load_for
    from flaxcnn.engine.train import fit
    from flaxcnn.recipe.config import Config
    from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, GlobalAvgPool, MaxPool
    from flaxcnn.recipe.resize import Resize

    blocks = [(Conv(c, 3, padding="same", activation="relu"), BatchNorm(), MaxPool(2))
              for c in (8, 16, 32)]  # fmt: skip
    config = Config(
        dataset=f"folder:{folder}", resize=Resize(SIDE, SIDE), input=way, workers=workers,  # type: ignore[arg-type]
        data_memory=memory, batch_size=BATCH, epochs=3, learning_rate=0.001,
        layers=(*(layer for block in blocks for layer in block), GlobalAvgPool(),
                Dense(len(CLASSES))),
    )  # fmt: skip
    backend.prepare()
    epochs: list[dict[str, Any]] = []
    workers_peak: list[int] = []

    def on_epoch(metrics: dict[str, Any]) -> None:
        epochs.append(metrics)
        workers_peak.extend(peak_bytes(child.pid) for child in multiprocessing.active_children())

    with tempfile.TemporaryDirectory() as place:
        result = fit(config, load_for(config), Path(place) / "run", on_epoch=on_epoch)
    peak = {"process": peak_bytes("self"), "largest_worker": max(workers_peak, default=0)}
    print(json.dumps({
        "input": way, "data_memory": memory, "peak_bytes": peak,
        "stall": [epoch.get("stall", 0.0) for epoch in epochs],
        "epoch_seconds": [epoch["seconds"] for epoch in epochs],
        "images_per_second": [epoch["images_per_second"] for epoch in epochs],
        "test_accuracy": result.summary["test_accuracy"],
        "params_digest": result.summary["params_digest"],
    }))  # fmt: skip


def trainings(root: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Streamed on a set ten times what is allowed, on one that just fits, and held."""
    tenth = root / "tenth"
    for file in sorted((root / "folder").glob("*/*")):
        if int(file.stem) < options.images // 10:
            (tenth / file.parent.name).mkdir(parents=True, exist_ok=True)
            os.link(file, tenth / file.parent.name / file.name)
    memory, found = options.images * SIDE * SIDE * 3 // 10, []
    for folder, way, limit in ((tenth, "stream", memory), (root / "folder", "stream", memory),
                               (root / "folder", "resident", 10 * memory)):  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.streaming", "--root", str(folder), "--train",
                   way, "--memory", str(limit), "--workers", str(options.workers)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        count = options.images // 10 if folder == tenth else options.images
        one = json.loads(done.stdout.splitlines()[-1])
        found.append({"images": count, "pixel_bytes": count * SIDE * SIDE * 3, **one})
        print({key: value for key, value in found[-1].items() if key != "params_digest"},
              flush=True)  # fmt: skip
    return found


def main() -> None:
    """Make the images, measure, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    for name in ("--root", "--kind", "--peer", "--train", "--memory"):  # of the children
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        read_on_demand(options.peer, options.kind, Path(options.root), options.workers)
    if options.train:
        train(Path(options.root), options.train, int(options.memory), options.workers)
        return
    from benchmarks.peers import record
    from flaxcnn.records.environment import source_revision
    from flaxcnn.records.files import plain, write_atomic

    environment = record.environment(options.workers, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["FLAXCNN_DATA_DIR"] = str(root / "cache")
        make_folder(root / "folder", options.images)
        for file_format in ("array_record", "tfrecord"):
            make_prepared(root / file_format, options.images, file_format)
        rows = [row for kind in ("folder", "tfds") for row in throughput(kind, root, options)]
        document = {
            "images": options.images, "side": SIDE, "batch_size": BATCH,
            "workers": options.workers, "repeats": options.repeats, "throughput": rows,
            "training": trainings(root, options), "source_revision": source_revision(),
            "environment": environment, "measured": record.now(),
        }  # fmt: skip
    output = options.output or record.FOLDER / "streaming-cpu.json"
    write_atomic(output, json.dumps(plain(document), indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
