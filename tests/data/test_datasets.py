"""Names, cache, archives: what is prepared equals the archive, and what is wrong is refused."""

import gzip
import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic import write_idx, write_tar

from flaxcnn.data import archives, cache, datasets
from flaxcnn.data.archives import IDX_FILES, PUBLISHED
from flaxcnn.data.arrays import Split, content_digest
from flaxcnn.errors import DataError, WriteError

DIGESTS = {
    "digits": "3b2076fad6769505bde27d3cf863e9fcdee3dba38bf5694b6b13e2aa261762d8",
    "mnist": "e7428f6179086befc912828660ec70196d56e56db4725b562f7f227c88a86ac7",
    "fashion_mnist": "3f5cd29dcbc0591ffaea135ea6cad3ecdfd325f4bcc3776615f3832c8cbb0db6",
    "cifar10": "18d4b97ee5d1bacdcd3027af528af59f7d5c37a977762605130947c0b856a2a4",
}
CIFAR_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    assert error.value.exit_code == 3
    return message


def cifar_rows(members, files):
    records = np.concatenate([np.frombuffer(members[f], np.uint8).reshape(-1, 3073) for f in files])
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def test_mnist_rows_in_archive_order(tiny_mnist, data_dir):
    folder, (train_image, train_label, test_image, test_label) = tiny_mnist
    assert datasets.prepare("mnist", folder.parent) == data_dir / "mnist"
    data = datasets.load("mnist")
    np.testing.assert_array_equal(data.train.image[..., 0], train_image)
    np.testing.assert_array_equal(data.test.image[..., 0], test_image)
    np.testing.assert_array_equal(data.train.label, train_label)
    np.testing.assert_array_equal(data.test.label, test_label)
    assert data.shape == (28, 28, 1)
    assert data.classes == tuple("0123456789")
    assert data.test_origin == "archive"
    assert isinstance(data.train.image, np.memmap)
    assert not data.train.image.flags.writeable
    assert data.digest == content_digest(data.train, data.test)


def test_archives_named_by_the_environment(tiny_mnist, monkeypatch):
    folder, _ = tiny_mnist
    monkeypatch.setenv("FLAXCNN_ARCHIVES", str(folder))  # the files themselves, no mnist/ below
    assert len(datasets.load("mnist").train) == 50


@pytest.mark.parametrize("packed", ["tar.xz", "tar.gz", "tar.bz2", "tar"])
def test_cifar_from_any_packing(tiny_cifar, packed, tmp_path):
    from tensorflow_datasets.core.download import checksums

    _, members = tiny_cifar
    mode = "w:" + packed.removeprefix("tar").removeprefix(".")
    write_tar(tmp_path / f"cifar-10-binary.{packed}", members, mode)
    known = dict(checksums.get_all_url_infos())
    datasets.prepare("cifar10", tmp_path)
    data = datasets.load("cifar10")
    for split, files in ((data.train, CIFAR_FILES[:5]), (data.test, CIFAR_FILES[5:])):
        image, label = cifar_rows(members, files)
        np.testing.assert_array_equal(split.image, image)
        np.testing.assert_array_equal(split.label, label)
    assert data.classes[:2] == ("airplane", "automobile")
    assert checksums.get_all_url_infos() == known, "the override must not outlive the builder"


def test_no_tensorflow_and_no_jax():
    code = ("import sys; from flaxcnn.data import builders, datasets, splits; "
            "sys.exit(bool({'tensorflow', 'jax'} & set(sys.modules)))")  # fmt: skip
    assert subprocess.run([sys.executable, "-W", "error", "-c", code]).returncode == 0


def test_importing_datasets_is_light():
    code = (
        "import sys; from flaxcnn.data import datasets; "
        "sys.exit(bool({'tensorflow_datasets', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_nothing_on_stdout(tiny_mnist, capfd):
    datasets.prepare("mnist", tiny_mnist[0])
    out, _ = capfd.readouterr()
    assert out == ""


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[: len(data) // 2] if how == "truncated" else data)


@pytest.mark.parametrize("how", ["flipped", "truncated"])
@pytest.mark.parametrize("file", IDX_FILES)
def test_damaged_mnist_is_refused_by_name(tiny_mnist, how, file, data_dir):
    folder, _ = tiny_mnist
    damage(folder / file, how)
    with pytest.raises(DataError) as error:
        datasets.prepare("mnist", folder)
    assert str(folder / file) in one_line(error)
    assert not (data_dir / "mnist").exists()
    assert not list(data_dir.glob(".making*"))


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_damaged_cifar_is_refused_by_name(tiny_cifar, how):
    folder, _ = tiny_cifar
    damage(folder / "cifar-10-binary.tar.xz", how)
    with pytest.raises(DataError) as error:
        datasets.prepare("cifar10", folder)
    assert "cifar-10-binary.tar.xz" in one_line(error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data_batch_3.bin": b"\0" * 30730}, "data_batch_3.bin must have SHA-1"),
        ({"test_batch.bin": None}, "lacks test_batch.bin"),
        ({"batches.meta.txt": b"a\nb\n"}, "batches.meta.txt"),
        ({"../../x/test_batch.bin": b"again"}, "test_batch.bin twice"),
    ],
)
def test_other_members_are_refused(tiny_cifar, tmp_path, change, says):
    _, members = tiny_cifar
    changed = {k: v for k, v in (members | change).items() if v is not None}
    write_tar(tmp_path / "cifar-10-binary.tar.gz", changed, "w:gz")
    with pytest.raises(DataError, match=says) as error:
        datasets.prepare("cifar10", tmp_path)
    one_line(error)


def test_tar_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    from flaxcnn.data import builders

    monkeypatch.setattr(builders, "MAX_TAR", 1000)
    write_tar(tmp_path / "a.tar.xz", {"large": bytes(2000), "test_batch.bin": b""})
    with pytest.raises(DataError, match="exceed"):
        builders.read_tar(tmp_path / "a.tar.xz", {"test_batch.bin"})


@pytest.mark.parametrize("shape", [(1000, 28, 28), (2**31, 28, 28), (5, 29, 28), (3, 28, 28)])
def test_idx_headers_that_lie(tmp_path, shape):
    from flaxcnn.data import builders

    path = tmp_path / "x.gz"
    header = b"\0\0\x08\x03" + np.array(shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(5 * 784)))
    with pytest.raises(DataError, match=r"x\.gz") as error:
        builders.read_idx(path)
    one_line(error)


def test_wrong_archive_leaves_the_published_checksums_alone(tmp_path):
    # Well-formed files, but not MNIST: the published builder must refuse them.
    for file in IDX_FILES:
        write_idx(tmp_path / file, np.zeros((2, 28, 28) if "images" in file else 2, np.uint8))
    with pytest.raises(DataError, match="440fcabf") as error:
        datasets.prepare("mnist", tmp_path)
    assert IDX_FILES[0] in one_line(error)


def test_no_archives_and_no_network(monkeypatch):
    monkeypatch.setattr(archives, "reachable", lambda url: False)

    def forbidden(*args):
        pytest.fail("a download was attempted")

    from flaxcnn.data import builders

    monkeypatch.setattr(builders, "download", forbidden)
    with pytest.raises(DataError) as error:
        datasets.load("mnist")
    message = one_line(error)
    assert "FLAXCNN_ARCHIVES=DIR" in message
    assert "flaxcnn data prepare mnist --from DIR" in message
    assert "go online" in message


def test_unreachable_host_is_noticed(monkeypatch):
    monkeypatch.setattr(archives.urllib.request, "getproxies", dict)
    assert not archives.reachable("http://127.0.0.1:9/")  # discard: nobody listens
    monkeypatch.setattr(
        archives.urllib.request, "getproxies", lambda: {"https": "http://127.0.0.1:9"}
    )
    assert not archives.reachable("https://example.invalid/")


def test_downloads_come_through_tfds(tiny_mnist, monkeypatch, data_dir):
    """Served by a local host, with the checksums that the builder expects."""
    import http.server
    import threading

    from flaxcnn.data import builders

    folder, _ = tiny_mnist

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    published = PUBLISHED["mnist"]._replace(url=url)
    monkeypatch.setitem(PUBLISHED, "mnist", published)
    infos = {url + file.rsplit("/", 1)[-1]: info
             for file, info in builders.BUILDERS["mnist"].url_infos.items()}  # fmt: skip
    cls = type("Mnist", (builders.Mnist,), {"name": "mnist", "URL": url, "url_infos": infos},
               skip_registration=True)  # fmt: skip
    monkeypatch.setitem(builders.BUILDERS, "mnist", cls)
    monkeypatch.setattr(archives.urllib.request, "getproxies", dict)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        assert len(datasets.load("mnist").train) == 50
        assert sorted(f.name for f in archives.downloads("mnist").iterdir()) == sorted(IDX_FILES)
    finally:
        server.shutdown()
        server.server_close()
    shutil.rmtree(data_dir / "mnist")
    assert len(datasets.load("mnist").train) == 50, "earlier downloads serve offline"


def test_missing_archives_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAXCNN_ARCHIVES", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"FLAXCNN_ARCHIVES: there is no folder .*nowhere"):
        datasets.load("mnist")
    with pytest.raises(DataError, match="lacks archives of cifar10"):
        datasets.prepare("cifar10", tmp_path)


def test_unknown_names_get_the_near_miss():
    with pytest.raises(DataError, match="did you mean 'mnist'"):
        datasets.load("mnits")


@pytest.fixture
def prepared(tiny_mnist):
    datasets.prepare("mnist", tiny_mnist[0])
    return tiny_mnist[0]


@pytest.mark.parametrize("file", cache.FILES)
def test_verify_finds_one_flipped_bit_and_prepare_mends_it(prepared, file, data_dir):
    report = datasets.verify("mnist")
    assert report["ok"]
    assert len(report["files"]) == 4
    path = data_dir / "mnist" / file
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-5] ^= 1
    path.write_bytes(changed)
    for read in (datasets.load, datasets.verify):
        with pytest.raises(DataError, match=f"{file}.*flaxcnn data prepare mnist"):
            read("mnist")
    datasets.prepare("mnist", prepared)
    assert path.read_bytes() == whole


def test_no_flipped_bit_of_a_prepared_set_is_silent(prepared, data_dir):
    """Of pixels, labels, headers, names of classes and digests: refused, or it changed nothing."""
    whole, draw = datasets.load("mnist"), np.random.default_rng(0)
    contents = lambda data: (data.digest, data.classes, data.test_origin, data.validation,  # noqa: E731
                             content_digest(data.train, data.test))  # fmt: skip
    found = 0
    for file in (*cache.FILES, "meta.json") * 8:
        path = data_dir / "mnist" / file
        before = path.read_bytes()
        changed = bytearray(before)
        changed[draw.integers(len(changed))] ^= 1 << int(draw.integers(8))
        path.write_bytes(changed)
        try:
            assert contents(datasets.load("mnist")) == contents(whole), (file, bytes(changed)[:300])
        except DataError as error:
            found += "damaged" in str(error)
        path.write_bytes(before)
    assert found > 30, "most bits mean something"


def test_what_was_hashed_once_is_not_hashed_again(prepared, monkeypatch):
    datasets.load("mnist")
    monkeypatch.setattr(cache, "content_digest", None)
    datasets.load("mnist")


def test_verify_hashes_rows_and_files_once(prepared, monkeypatch):
    hashed, rows, file = [], cache.content_digest, cache.sha256
    monkeypatch.setattr(cache, "_hashed", {})
    monkeypatch.setattr(cache, "content_digest", lambda *a: hashed.append("rows") or rows(*a))
    monkeypatch.setattr(cache, "sha256", lambda path: hashed.append(path.name) or file(path))
    assert datasets.verify("mnist")["ok"]
    assert sorted(hashed) == sorted(["rows", *cache.FILES])


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("train_image.npy", b""),
        ("train_image.npy", b"\x93NUMPY"),
        ("test_label.npy", None),
        ("meta.json", b"{"),
        ("meta.json", b"[]"),
        ("meta.json", b'{"format": 99, "arrays": {}}'),
        ("meta.json", b"[" * 100_000),
    ],
)
def test_damaged_cache_is_refused_on_load(prepared, data_dir, file, data):
    path = data_dir / "mnist" / file
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match="flaxcnn data prepare mnist") as error:
        datasets.load("mnist")
    one_line(error)


@pytest.mark.parametrize("array", [
    np.zeros((50, 28, 28, 1), np.int16), np.zeros((49, 28, 28, 1), np.uint8),
    np.array([{}], object),
])  # fmt: skip
def test_array_unlike_its_record_is_refused(prepared, data_dir, array):
    np.save(data_dir / "mnist" / "train_image.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"train_image\.npy"):
        datasets.load("mnist")


def test_header_of_four_terabytes(prepared, data_dir):
    path = data_dir / "mnist" / "train_image.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (2**42,)}
        )
    with pytest.raises(DataError, match=r"train_image\.npy"):
        datasets.load("mnist")


def test_partial_leftovers_are_ignored(tiny_mnist, data_dir):
    (data_dir / ".making-mnist-dead" / "npy").mkdir(parents=True)
    (data_dir / "mnist").mkdir()  # a folder without meta.json is not prepared
    (data_dir / "mnist" / "train_image.npy").write_bytes(b"half")
    datasets.prepare("mnist", tiny_mnist[0])
    assert len(datasets.load("mnist").train) == 50
    with pytest.raises(DataError, match="not prepared"):
        datasets.verify("cifar10")


def _store(folder, work, value, rounds):
    image = np.full((30, 8, 8, 1), value, np.uint8)
    label = (np.arange(30) % 3).astype(np.int32)
    split = Split(image, label)
    from flaxcnn.data.arrays import dataset

    data = dataset("x", split, split, "abc")
    for i in range(rounds):
        place = work / f"{value}-{i}"
        place.mkdir()
        cache.store(data, folder, place, {}, replace=True)


def test_concurrent_writers_leave_one_whole_result(tmp_path):
    context = multiprocessing.get_context("spawn")
    final = tmp_path / "x"
    writers = [context.Process(target=_store, args=(final, tmp_path, v, 20)) for v in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    report = cache.check(final, "x")
    assert report is not None
    assert report["ok"]


def test_cache_that_cannot_be_written(tiny_mnist, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(WriteError, match="FLAXCNN_DATA_DIR"):
        datasets.prepare("mnist", tiny_mnist[0])


def test_prepared_set_by_its_tfds_name(prepared, tmp_path):
    mine = datasets.load("mnist")
    for name in ("tfds:mnist", "tfds:mnist:3.0.1", "tfds:mnist/3.0.1"):
        data = datasets.load(name)
        assert data.digest == mine.digest
    assert datasets.verify("tfds:mnist")["ok"]
    for name in ("tfds:mnist:9.9.9", "tfds:unknown"):
        with pytest.raises(DataError, match="not prepared in"):
            datasets.load(name)
    with pytest.raises(DataError, match="write it as NAME"):
        datasets.load("tfds:../../etc")


def test_tfds_in_another_file_format(prepared, data_dir):
    info = data_dir / "tfds" / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=r"must be array_record \(got tfrecord"):
        datasets.load("tfds:mnist")
    info.write_text("{")
    with pytest.raises(DataError) as error:
        datasets.load("tfds:mnist")
    one_line(error)


def test_damaged_records(prepared, data_dir):
    (file,) = (data_dir / "tfds" / "mnist" / "3.0.1").glob("*train.array_record*")
    damage(file, "truncated")
    with pytest.raises(DataError) as error:
        datasets.load("tfds:mnist")
    one_line(error)


def test_listing(data_dir):
    found = {row["name"]: row for row in datasets.listing()}
    assert list(found) == ["digits", "mnist", "fashion_mnist", "cifar10"]
    assert found["digits"]["prepared"]
    assert not found["mnist"]["prepared"]
    assert found["cifar10"]["shape"] == [32, 32, 3]
    assert Path(found["digits"]["path"]).is_file()
    json.dumps(datasets.listing())
    data = datasets.load("digits")
    assert (found["digits"]["train"], found["digits"]["test"]) == (len(data.train), len(data.test))


# The real archives


def original(folder, name):
    if name == "cifar10":
        import tarfile

        with tarfile.open(next(folder.glob("cifar-10-binary.tar*"))) as tar:
            members = {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isfile()}
        return (*cifar_rows(members, CIFAR_FILES[:5]), *cifar_rows(members, CIFAR_FILES[5:]))
    data = [gzip.decompress((folder / file).read_bytes()) for file in IDX_FILES]
    arrays = [np.frombuffer(d, np.uint8, offset=16 if i % 2 == 0 else 8)
              for i, d in enumerate(data)]  # fmt: skip
    return [a.reshape(-1, 28, 28, 1) if i % 2 == 0 else a for i, a in enumerate(arrays)]


def check_real(data, folder):
    found = (data.train.image, data.train.label, data.test.image, data.test.label)
    for mine, theirs in zip(found, original(folder, data.name), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert data.digest == DIGESTS[data.name] == content_digest(data.train, data.test)
    assert (len(data.train), len(data.test)) == PUBLISHED[data.name].rows


@pytest.mark.slow
def test_every_row_of_mnist(real_mnist, real_archives):
    check_real(real_mnist, real_archives / "mnist")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_mnist", pytest.param("cifar10", marks=pytest.mark.soak)])
def test_every_row_of(name, real, real_archives):
    check_real(real(name), real_archives / name)


def test_fashion_archives_are_no_mnist(real_archives):
    with pytest.raises(DataError, match="train-images"):
        datasets.prepare("mnist", real_archives / "fashion_mnist")


def test_one_flipped_bit_in_the_real_archive(real_archives, tmp_path):
    for file in IDX_FILES:
        shutil.copyfile(real_archives / "mnist" / file, tmp_path / file)
    damage(tmp_path / IDX_FILES[2], "flipped")
    with pytest.raises(DataError, match=IDX_FILES[2]) as error:
        datasets.prepare("mnist", tmp_path)
    one_line(error)


def test_digits_never_change():
    data = datasets.load("digits")
    assert data.test_origin == "held out"
    assert data.digest == DIGESTS["digits"]
