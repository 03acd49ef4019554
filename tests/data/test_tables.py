"""csv: what a table lists, and lines that are wrong, by their numbers."""

import numpy as np
import pytest
from PIL import Image

from flaxcnn.data import datasets
from flaxcnn.errors import DataError
from flaxcnn.recipe.resize import Resize


@pytest.fixture
def images(tmp_path):
    """Twelve images in a folder of their own, image i filled with i."""
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(np.full((4, 3), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def write(folder, lines, header="path,label"):
    file = folder / "list.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return f"csv:{file}"


def rows(count=12, names=("dog", "cat")):
    return [f"images/{i}.png,{names[i % len(names)]}" for i in range(count)]


def test_rows_keep_the_order_of_lines_and_classes_are_sorted(images):
    splits = ["train", "", "test", "train", "Test", "validation"] * 2
    lines = [f"{row},{split}" for row, split in zip(rows()[::-1], splits, strict=True)]
    data = datasets.load(write(images, lines, "path,label,split"))
    assert data.classes == ("cat", "dog")
    assert data.train.image[:, 0, 0, 0].tolist() == [11, 10, 8, 5, 4, 2, 6, 0]
    assert data.train.label.tolist() == [0, 1, 1, 0, 1, 1, 1, 1]
    assert (data.validation, data.test.image[:, 0, 0, 0].tolist()) == (2, [9, 7, 3, 1])
    assert data.test_origin == "archive"


def test_without_a_split_a_fifth_is_held_out_and_other_columns_have_no_effect(images):
    lines = [f'"{row.partition(",")[0]}",{row.partition(",")[2]},"a, b"' for row in rows()]
    data = datasets.load(write(images, lines, " path ,label,note"))
    assert data.test_origin == "held out"
    assert (len(data.train), len(data.test)) == (9, 3)


def test_whole_numbers_are_sorted_by_value(images):
    data = datasets.load(write(images, rows(names=("10", "9", "-1"))))
    assert data.classes == ("-1", "9", "10")


def test_files_are_brought_to_one_form_and_streamed_like_a_folder(images):
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(images / "images" / "0.png")
    name = write(images, rows())
    held = datasets.load(name, Resize(5, 5))
    assert held.shape == (5, 5, 3)
    lazy = datasets.load(name, Resize(5, 5), most=0)
    np.testing.assert_array_equal(lazy.train.image[:], held.train.image)
    assert datasets.load(name, Resize(5, 5), channels="grey").shape == (5, 5, 1)


@pytest.mark.parametrize(("lines", "message"), [
    (["images/0.png"], "line 2 has another number of fields"),
    (["images/0.png,cat,dog"], "line 2 has another number of fields"),
    ([*rows(2), "images/99.png,cat"], "line 4: there is no file images/99.png"),
    ([*rows(2), ",cat", "images/3.png,"], "line 4: the path is empty; line 5: the label is empty"),
    ([*rows(2), "images/0.png,cat"], "line 4: images/0.png is on line 2 already"),
    ([*rows(2), "../images/0.png,cat"], "line 4: ../images/0.png is outside the folder"),
    ([*rows(2), "/etc/passwd,cat"], "line 4: /etc/passwd is outside the folder"),
    ([*rows(2), "list.csv,cat"], r"line 4: list.csv must be \*.png"),
    ([f"images/9{i}.png,cat" for i in range(9)], "line 4: there is no file .*; and 6 more lines"),
    (rows(names=("cat",)), "two or more labels .got cat"),
    ([], "no row has split train"),
])  # fmt: skip
def test_wrong_lines_are_named(images, lines, message):
    with pytest.raises(DataError, match=message) as error:
        datasets.load(write(images, lines))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("line", "message"), [
    ("images/4.png,cat,trian", "line 4: split must be train, .*did you mean 'train'"),
    ("images/4.png,cow,test", "line 4: no train row has label 'cow'"),
])  # fmt: skip
def test_wrong_splits_are_named(images, line, message):
    lines = [f"{row},train" for row in rows(2)]
    with pytest.raises(DataError, match=message):
        datasets.load(write(images, [*lines, line], "path,label,split"))


def test_files_that_are_no_such_table(images):
    for text, message in (
        ("file,class\n", "must name the columns path and label"),
        ("path;label\n", r"separated by commas \(got path;label\)"),
        ("", r"got nothing"),
    ):
        (images / "list.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            datasets.load(f"csv:{images}/list.csv")
    with pytest.raises(DataError, match="there is no such file"):
        datasets.load(f"csv:{images}/none.csv")
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8"):
        datasets.load(f"csv:{images}/images/0.png")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        datasets.load(f"csv:{images}/images")
