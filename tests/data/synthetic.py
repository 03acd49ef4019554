"""Small archives with the layout of the published ones, and builders that expect them."""

import gzip
import io
import tarfile
from urllib.parse import urljoin

import numpy as np

from flaxcnn.data.archives import PUBLISHED


def rows(seed, count, shape, classes=10):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (count, *shape), np.uint8)
    return image, (np.arange(count) % classes).astype(np.uint8)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def expecting(cls, name, folder, **members):
    """The builder `cls`, expecting the files in `folder` instead of the published ones."""
    from tensorflow_datasets.core.download import checksums

    infos = {
        urljoin(PUBLISHED[name].url, file): checksums.compute_url_info(folder / file)
        for file in PUBLISHED[name].files
        if (folder / file).is_file()
    }
    return type(
        cls.__name__, (cls,), {"name": name, "url_infos": infos, **members}, skip_registration=True
    )


def cifar_members(per_batch=10):
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    random = np.random.default_rng(2)
    members = {}
    for file in files:
        records = random.integers(0, 256, (per_batch, 3073), np.uint8)
        records[:, 0] = np.arange(per_batch) % 10
        members[file] = records.tobytes()
    return members


def write_tar(path, members, mode="w:xz"):
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
