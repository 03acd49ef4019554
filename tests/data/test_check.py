"""What `flaxcnn data check` finds, all at once, and what it does not take for a duplicate."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from flaxcnn.data.check import SIDE, check, hashes
from flaxcnn.errors import DataError


def photo(seed, size=(48, 40)):
    """A picture with coarse and fine parts, as photographs have them."""
    random = np.random.default_rng(seed)
    total = np.zeros((*size[::-1], 3))
    for cells, weight in ((4, 110), (9, 60), (20, 30)):
        part = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(part.resize(size, Image.Resampling.BICUBIC)) * (weight / 200)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def jpeg(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out)


@pytest.fixture
def pets(tmp_path):
    """Two splits of two classes of five photographs, none twice."""
    for s, split in enumerate(("train", "test")):
        for c, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(5):
                photo(100 * s + 10 * c + i).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_nothing_is_found_where_nothing_is_wrong(pets):
    found = check(f"folder:{pets}")
    assert found.rows == {"train": [5, 5], "test": [5, 5]}
    assert (found.sizes, found.kinds) == ({"40x48": 20}, {"colour": 20})
    assert found.classes == ("cat", "dog")
    assert (found.wrong, found.passed_over, found.exact, found.near) == ((), (), [], [])
    assert not found.imbalanced


def test_everything_wrong_is_listed_at_once(pets):
    cats = pets / "train" / "cat"
    (cats / "0.png").write_bytes(b"no image")
    (cats / "1.png").write_bytes((cats / "2.png").read_bytes()[:300])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(cats / "x.png")
    (cats / "film.mp4").write_text("")
    (cats / "notes.txt").write_text("")
    photo(7).convert("L").save(pets / "test" / "dog" / "9.png")
    photo(8, (30, 20)).save(pets / "test" / "dog" / "8.bmp")
    found = check(f"folder:{pets}")
    assert len(found.wrong) == 4
    for text, name in zip(found.wrong, ("film.mp4", "0.png", "1.png", "x.png"), strict=True):
        assert f"train/cat/{name}" in text
        assert "folder:" not in text
    assert found.passed_over == ("train/cat/notes.txt",)
    assert found.rows == {"train": [3, 5], "test": [5, 7]}
    assert found.sizes == {"40x48": 19, "20x30": 1}
    assert found.kinds == {"colour": 19, "grey": 1}


def test_exact_duplicates_are_of_pixels_and_say_where_they_lie(pets):
    image = photo(3)  # train/cat/3.png
    image.save(pets / "train" / "cat" / "again.bmp")
    image.save(pets / "test" / "dog" / "other.webp", lossless=True)
    photo(11).save(pets / "train" / "dog" / "twice.png")
    found = check(f"folder:{pets}")
    assert found.exact == [
        {
            "images": ["train/cat/3.png", "train/cat/again.bmp", "test/dog/other.webp"],
            "classes": ["cat", "dog"], "splits": ["test", "train"],
        },
        {
            "images": ["train/dog/1.png", "train/dog/twice.png"],
            "classes": ["dog"], "splits": ["train"],
        },
    ]  # fmt: skip
    assert found.near == []


CHANGES = {
    "compressed": lambda image: jpeg(image, 50),
    "scaled": lambda image: image.resize((96, 80), Image.Resampling.BICUBIC),
    "smaller": lambda image: image.resize((40, 33), Image.Resampling.BICUBIC),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_photograph_once_more_is_nearly_a_duplicate(pets, change):
    for i in range(3):
        CHANGES[change](photo(i)).save(pets / "test" / "cat" / f"again{i}.png")
    found = check(f"folder:{pets}")
    assert found.exact == []
    assert [group["images"] for group in found.near] == [
        [f"train/cat/{i}.png", f"test/cat/again{i}.png"] for i in range(3)
    ]
    assert all(group["splits"] == ["test", "train"] for group in found.near)


def test_images_of_one_colour_are_no_near_duplicates(tmp_path):
    image = np.stack([np.full((8, 8), value, np.uint8) for value in range(20)])
    np.savez(tmp_path / "flat.npz", image=image, label=np.arange(20) % 2)
    found = check(f"npz:{tmp_path}/flat.npz")
    assert found.near == found.exact == []


def test_the_hash_by_its_formula():
    """A cosine transform written out as sums, over two directions."""
    thumbnails = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.float32)
    k, n = np.arange(8)[:, None], np.arange(SIDE)[None]
    basis = np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))
    for image, code in zip(thumbnails, hashes(thumbnails), strict=True):
        low = (basis @ image.astype(float) @ basis.T).ravel()
        low_bits = low > np.median(low)
        found = np.unpackbits(np.array([code]).view(np.uint8))
        # What is added up in another order may lie on the other side of the median: none or two
        assert np.count_nonzero(found != low_bits) <= 2


def test_arrays_and_tables(tmp_path, pets):
    image = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 4), np.uint8)
    image[39] = image[0]
    label = np.repeat([0, 1], [34, 6])
    np.savez(tmp_path / "rows.npz", image=image, label=label, validation_image=image[:4],
             validation_label=label[:4], test_image=image[5:9], test_label=label[5:9])  # fmt: skip
    found = check(f"npz:{tmp_path}/rows.npz")
    assert found.rows == {"train": [34, 6], "validation": [4, 0], "test": [4, 0]}
    assert found.kinds == {"colour with alpha": 44 + 4}
    assert found.imbalanced
    first = next(g for g in found.exact if "train row 0" in g["images"])
    assert first["images"] == ["train row 0", "train row 39", "validation row 0"]
    lines = [f"test/{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(5)]
    (pets / "list.csv").write_text("\n".join(["path,label", *lines]))
    found = check(f"csv:{pets}/list.csv")
    assert found.rows == {"train": [5, 5]}
    assert found.sizes == {"40x48": 10}


def test_a_data_set_that_is_not_there():
    with pytest.raises(DataError, match="there is no such folder"):
        check("folder:nowhere")
    with pytest.raises(DataError, match="did you mean 'digits'"):
        check("digit")
