"""digits, folder: and npz:; everything that could be read wrongly is refused, by name."""

import io
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from flaxcnn.data import datasets
from flaxcnn.data.decode import read_for
from flaxcnn.errors import DataError


def refused(name, match):
    with pytest.raises(DataError, match=match) as error:
        datasets.load(name)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


# digits


def test_digits():
    data = datasets.load("digits")
    assert data.shape == (8, 8, 1)
    assert data.num_classes == 10
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.image.min() == 0
    assert data.train.image.max() == 255
    assert data.test_origin == "held out"
    np.testing.assert_allclose(np.bincount(data.test.label) / 360, 0.1, atol=0.01)
    assert datasets.load("digits").digest == data.digest
    assert datasets.verify("digits")["digest"] == data.digest


# folder:


def picture(seed=0, size=(6, 5), mode="L"):
    random = np.random.default_rng(seed)
    shape = size if mode == "L" else (*size, len(mode))
    return Image.fromarray(random.integers(0, 256, shape, np.uint8), mode if mode == "L" else None)


@pytest.fixture
def folder(tmp_path):
    """Two classes of five images, no test/."""
    root = tmp_path / "pictures"
    for c, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(5):
            picture(10 * c + i).save(root / name / f"{i}.png")
    return root


def halves(root, classes=("cat", "dog"), test=("cat", "dog")):
    for part, names in (("train", classes), ("test", test)):
        for c, name in enumerate(names):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                picture(c * 10 + i + (part == "test") * 100).save(root / part / name / f"{i}.png")


def test_folder_without_test(folder):
    data = datasets.load(f"folder:{folder}")
    assert data.classes == ("cat", "dog")
    assert data.shape == (6, 5, 1)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.test_origin == "held out"
    assert data.test.label.tolist() == [0, 1]
    assert data.digest == datasets.load(f"folder:{folder}").digest
    pool = [np.asarray(picture(10 * c + i)) for c in range(2) for i in range(5)]
    for image, label in zip(data.train.image, data.train.label, strict=True):
        matches = [i for i, p in enumerate(pool) if np.array_equal(p, image[..., 0])]
        assert matches[0] // 5 == label


def test_folder_with_test(tmp_path):
    halves(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.txt").write_text("ignored")
    data = datasets.load(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (6, 6)
    assert data.test_origin == "archive"
    np.testing.assert_array_equal(data.test.image[4, ..., 0], picture(111))
    assert data.test.label.tolist() == [0, 0, 0, 1, 1, 1]


def test_modes_that_lose_nothing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            rgb = picture(i, mode="RGB")
            few = rgb.quantize(8)
            (few if i % 2 else few.convert("RGB")).save(tmp_path / name / f"{i}.png")
    data = datasets.load(f"folder:{tmp_path}")
    assert data.shape == (6, 5, 3)
    expected = np.asarray(picture(0, mode="RGB").quantize(8).convert("RGB"))
    assert any(np.array_equal(expected, image) for image in data.train.image)


def test_black_and_white_becomes_grey(folder):
    picture().convert("1").save(folder / "cat" / "0.png")
    assert datasets.load(f"folder:{folder}").shape == (6, 5, 1)


def every(data):
    return np.concatenate([data.train.image, data.test.image])


def rows_of(data):
    return sorted(map(bytes, every(data)))


def test_grey_images_become_colour_where_the_first_is(folder):
    picture(99, mode="RGB").save(folder / "cat" / "0.png")
    data = datasets.load(f"folder:{folder}")
    assert data.shape == (6, 5, 3)
    grey = [np.asarray(picture(10 * c + i)) for c in range(2) for i in range(5)][1:]
    wanted = [np.repeat(g[..., None], 3, axis=2) for g in grey]
    assert rows_of(data) == sorted(map(bytes, [np.asarray(picture(99, mode="RGB")), *wanted]))


@pytest.mark.parametrize(("channels", "mode"), [("rgb", "RGB"), ("grey", "L")])
def test_all_images_brought_to_colour_or_grey(folder, channels, mode):
    picture(99, mode="RGB").save(folder / "cat" / "3.png")
    data = datasets.load(f"folder:{folder}", channels=channels)
    lazy = datasets.load(f"folder:{folder}", channels=channels, most=0)
    files = sorted(folder.glob("*/*.png"))
    wanted = [bytes(np.asarray(Image.open(file).convert(mode))) for file in files]
    assert rows_of(data) == rows_of(lazy) == sorted(wanted)
    for file in files:  # predict reads a file as training did
        assert bytes(read_for(file, data.shape, resize=False)) in wanted


def test_transparency_is_laid_on_white(folder):
    """By the formula of alpha compositing, within its one rounding."""
    for path in folder.glob("*/*.png"):
        picture(hash(path.name) % 100, mode="RGBA").save(path)
    file = folder / "cat" / "2.png"
    rgba = np.asarray(Image.open(file)).astype(float)
    alpha = rgba[..., 3:] / 255
    found = read_for(file, datasets.load(f"folder:{folder}").shape, resize=False)
    np.testing.assert_allclose(found, rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    clear = picture(1)
    clear.save(file, transparency=int(np.asarray(clear)[0, 0]))
    assert read_for(file, (6, 5, 1), resize=False)[0, 0, 0] == 255
    picture().convert("LA").save(file)
    np.testing.assert_array_equal(read_for(file, (6, 5, 1), resize=False)[..., 0], picture())


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "GIF"])
def test_other_formats_without_loss(folder, kind):
    """GIF is animated: its first frame counts."""
    extra = {"WEBP": {"lossless": True}, "GIF": {"save_all": True, "append_images": [picture(5)]}}
    mode = "RGB" if kind == "WEBP" else "L"  # WebP knows no grey
    file = folder / "cat" / f"5.{kind.lower()}"
    picture(77).convert(mode).save(file, kind, **extra.get(kind, {}))
    data = datasets.load(f"folder:{folder}", channels="grey")
    assert bytes(np.asarray(picture(77))) in rows_of(data)
    assert len(every(data)) == 11


def test_what_is_no_image_is_passed_over_with_one_word(folder, caplog):
    for name in ("cat/notes.txt", "cat/Thumbs.db", "dog/list.csv", "dog/a.md"):
        (folder / name).write_text("no image")
    (folder / "__MACOSX").mkdir()
    (folder / "cat" / ".DS_Store").write_text("")
    for _ in range(2):
        assert len(every(datasets.load(f"folder:{folder}"))) == 10
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "passed over what is no image: cat/Thumbs.db, cat/notes.txt, dog/a.md and 1 more"
    )


def test_a_validation_folder_validates(tmp_path):
    halves(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / "validation" / name).mkdir(parents=True)
        picture(50 + len(name)).save(tmp_path / "validation" / name / "0.png")
    data = datasets.load(f"folder:{tmp_path}")
    assert (len(data.train), data.validation, len(data.test)) == (8, 2, 6)
    assert data.train.label[-2:].tolist() == [0, 1]
    lazy = datasets.load(f"folder:{tmp_path}", most=0)
    np.testing.assert_array_equal(lazy.train.image[:], data.train.image)
    assert lazy.validation == 2


def test_exif_orientation_is_applied(folder):
    lying = picture(3, (5, 6))  # 5x6 on disk, meant to be seen as 6x5
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(folder / "cat" / "0.png", exif=exif)
    turned = np.asarray(lying.transpose(Image.Transpose.ROTATE_270))
    data = datasets.load(f"folder:{folder}")
    assert any(np.array_equal(turned, image[..., 0]) for image in every(data))


def png(width, height, depth, kind, rows):
    """PNG bytes; `kind` is 0 for grey, 2 for RGB."""

    def chunk(name, data):
        length, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(name + data))
        return length + name + data + check

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_of_any_size(width, height):
    return png(width, height, 8, 0, bytes(1000))


def png16_rgb():
    """What PIL opens as 8-bit RGB without a word."""
    return png(5, 6, 16, 2, (b"\0" + bytes(30)) * 6)


def saved(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def grey16():
    return Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5) * 1000)


BAD_FILES = {
    "truncated": ("0.png", lambda: saved(picture(size=(60, 50)))[:-1000], "is damaged or cut"),
    "empty": ("0.png", lambda: b"", "cannot be read"),
    "text": ("0.png", lambda: b"no image", "cannot be read"),
    "gif": ("0.png", lambda: saved(picture(), "GIF"), "is a GIF file"),
    "tiff": ("0.png", lambda: saved(picture(), "TIFF"), "cannot be read"),
    "misnamed": ("0.png", lambda: saved(picture(), "JPEG"), "is a JPEG file"),
    "suffix": ("0.tif", lambda: saved(picture(), "TIFF"), r"0\.tif"),
    "16 bit": ("0.png", lambda: saved(grey16()), "mode I;16"),
    "16 bit RGB": ("0.png", png16_rgb, "16 bits"),
    "CMYK": ("0.jpg", lambda: saved(picture(mode="RGB").convert("CMYK"), "JPEG"), "mode CMYK"),
    "bomb": ("0.png", lambda: png_of_any_size(9000, 9000), "pixels"),
    "bomb that PIL warns of": ("0.png", lambda: png_of_any_size(12000, 12000), "pixels"),
    "bomb that PIL refuses": ("0.png", lambda: png_of_any_size(50000, 50000), "pixels"),
    "other size": ("3.png", lambda: saved(picture(size=(7, 5))), r"3\.png is 7x5x1.*0\.png"),
    "other channels": (
        "3.png", lambda: saved(picture(mode="RGB")),
        "3.png is a colour image, but the first one is grey; bring all to one with -s channels=rgb",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_image_is_refused_by_name(folder, case):
    name, data, match = BAD_FILES[case]
    (folder / "cat" / name).write_bytes(data())
    refused(f"folder:{folder}", match)
    refused(f"folder:{folder}", name)


def test_bad_folders(tmp_path, folder):
    refused(f"folder:{tmp_path}/nowhere", "no such folder")
    refused(f"folder:{folder}/cat/0.png", "no such folder")
    refused(f"folder:{folder}s", "no such folder; did you mean 'pictures'")
    (tmp_path / "b" / "deeper" / "cat").mkdir(parents=True)
    refused(f"folder:{tmp_path}/b", "got only 'deeper'.; did you mean 'folder:.*/b/deeper'")
    refused(str(folder), "did you mean 'folder:/.*pictures'")
    refused("my/list.csv", "did you mean 'csv:my/list.csv'")
    refused("rows.npz", "did you mean 'npz:rows.npz'")
    (tmp_path / "b" / "deeper" / "cat").rmdir()
    (tmp_path / "b" / "deeper").rmdir()
    (tmp_path / "b").rmdir()
    refused(f"folder:{folder}/cat", "must be in a class folder")
    refused(f"folder:{tmp_path}", "two or more class")
    (tmp_path / "none").mkdir()
    refused(f"folder:{tmp_path}/none", "two or more class folders .got none")
    (folder / "empty").mkdir()
    refused(f"folder:{folder}", "empty is empty")
    (folder / "empty" / "deeper").mkdir()
    refused(f"folder:{folder}", "empty/deeper")


def test_train_and_test_must_name_the_same_classes(tmp_path):
    halves(tmp_path / "a", test=("cat", "cow"))
    refused(f"folder:{tmp_path}/a", "'cow' is in one of")
    halves(tmp_path / "b", test=("cat", "dog", "owl"))
    refused(f"folder:{tmp_path}/b", "'owl' is in one of")
    halves(tmp_path / "c")
    (tmp_path / "c" / "val").mkdir()
    refused(f"folder:{tmp_path}/c", "only validation/ and test/ may stand beside train/ .got val/")


def test_too_few_to_hold_out(folder):
    for i in range(1, 5):
        (folder / "cat" / f"{i}.png").unlink()
    refused(f"folder:{folder}", "1 of them of class 'cat'")


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    picture().save(tmp_path / "outside.png")
    (folder / "cat" / "9.png").symlink_to(tmp_path / "outside.png")
    refused(f"folder:{folder}", "link to a file outside")
    (folder / "cat" / "9.png").unlink()
    (folder / "cat" / "9.png").symlink_to(folder / "cat" / "0.png")
    assert len(datasets.load(f"folder:{folder}").train) > 0


# npz:


def arrays(count=20, shape=(6, 5), classes=2):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (count, *shape), np.uint8)
    return {"image": image, "label": np.arange(count) % classes}


def keras(plain, test=True):
    found = {"x_train": plain["image"], "y_train": plain["label"]}
    return found | ({"x_test": plain["image"], "y_test": plain["label"]} if test else {})


def npz(tmp_path, **content):
    np.savez_compressed(tmp_path / "data.npz", **content)
    return f"npz:{tmp_path}/data.npz"


@pytest.mark.parametrize(
    ("shape", "expected"), [((6, 5), (6, 5, 1)), ((6, 5, 3), (6, 5, 3)), ((6, 5, 4), (6, 5, 4))]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i2"])
def test_npz(tmp_path, shape, expected, dtype):
    plain = arrays(shape=shape)
    plain["label"] = plain["label"].astype(dtype)
    data = datasets.load(npz(tmp_path, **keras(plain)))
    assert data.shape == expected
    assert data.test_origin == "archive"
    np.testing.assert_array_equal(data.train.image.reshape(plain["image"].shape), plain["image"])
    np.testing.assert_array_equal(data.test.label, plain["label"])


def test_npz_holds_out_and_takes_columns(tmp_path):
    plain = arrays()
    data = datasets.load(npz(tmp_path, image=np.asfortranarray(plain["image"]),
                             label=plain["label"][:, None], other=np.zeros(3)))  # fmt: skip
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.test_origin == "held out"


BAD_ARRAYS = {
    "float": (lambda a: a | {"image": a["image"] / 255.0}, "image must be .* \\(got float64"),
    "objects": (lambda a: a | {"label": np.array([{}] * 20, object)}, "label must .*got objects"),
    "one-hot": (lambda a: a | {"label": np.eye(2, dtype=int)[a["label"]]}, r"got int64\[20, 2\]"),
    "float labels": (lambda a: a | {"label": a["label"] * 1.0}, "label must be .* \\(got float64"),
    "flat images": (lambda a: a | {"image": a["image"].reshape(20, -1)}, r"got uint8\[20, 30\]"),
    "five channels": (lambda a: a | {"image": np.zeros((20, 3, 3, 5), np.uint8)}, "1 to 4"),
    "length": (lambda a: a | {"label": a["label"][:-1]}, "got 20 and 19 rows"),
    "empty": (lambda a: {k: v[:0] for k, v in a.items()}, "sizes 0"),
    "negative": (lambda a: a | {"label": a["label"] - 1}, "got -1 in row 0"),
    "gap": (lambda a: a | {"label": a["label"] * 2}, "no train row has 1"),
    "from one": (lambda a: a | {"label": a["label"] + 1}, "no train row has 0"),
    "giant": (lambda a: a | {"label": a["label"].astype(np.uint64) + 2**40}, "got 1099511627776"),
    "one class": (lambda a: a | {"label": a["label"] * 0}, "two or more class"),
    "no labels": (lambda a: {"image": a["image"]}, "label is missing"),
    "test without labels": (lambda a: a | {"test_image": a["image"]}, "test_label is missing"),
    "mixed": (lambda a: a | keras(a), "the keys must be"),
    "unknown keys": (lambda a: {"pixels": a["image"]}, "the keys must be .* \\(got pixels\\)"),
    "unseen": (lambda a: keras(a) | {"y_test": a["label"] + 1}, "label 2 of test row 1"),
    "other test shape": (
        lambda a: keras(a) | {"x_test": np.zeros((20, 5, 5), np.uint8)}, "one shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused_by_key(tmp_path, case):
    change, match = BAD_ARRAYS[case]
    refused(npz(tmp_path, **change(arrays())), match)


def test_bad_npz_files(tmp_path):
    refused(f"npz:{tmp_path}/none.npz", "No such file")
    refused(f"npz:{tmp_path}", "directory")
    (tmp_path / "text.npz").write_text("hello")
    refused(f"npz:{tmp_path}/text.npz", "not a zip file")
    np.save(tmp_path / "one.npy", np.zeros(3))
    refused(f"npz:{tmp_path}/one.npy", "not a zip file")
    whole = tmp_path / "data.npz"
    npz(tmp_path, **arrays())
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    refused(f"npz:{whole}", "not a zip file")
    changed = bytearray(data)
    changed[data.index(b"image.npy") + 200] ^= 1
    whole.write_bytes(changed)
    refused(f"npz:{whole}", "image: the array cannot be read")


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in members.items():
            archive.writestr(f"{key}.npy", data)
    return f"npz:{path}"


def header(shape):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return out.getvalue()


def test_header_that_lies_about_its_size(tmp_path):
    small = saved_array(np.zeros(20, int))
    name = zipped(tmp_path / "a.npz", image=header((2**40, 2, 2)) + bytes(100), label=small)
    refused(name, "image: is damaged or a decompression bomb")
    name = zipped(tmp_path / "b.npz", image=header((2, 2, 2)) + bytes(100), label=small)
    refused(name, "image: is damaged or a decompression bomb")
    name = zipped(tmp_path / "c.npz", image=header((-4, -5, 5)) + bytes(100), label=small)
    refused(name, "image")


def saved_array(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_decompression_bomb(tmp_path, monkeypatch):
    from flaxcnn.data import sources

    monkeypatch.setattr(sources, "ALWAYS_READ", 10_000)
    image = np.zeros((400, 28, 28), np.uint8)
    refused(npz(tmp_path, image=image, label=np.arange(400) % 2), "decompression bomb")


def test_pickle_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (warnings.warn, ("executed",))

    evil = np.array([Evil()] * 20, object)
    refused(npz(tmp_path, image=arrays()["image"], label=evil), "a pickle")
