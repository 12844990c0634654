import csv
import io
import json
import os
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broken_pictures import CASES, encode, photo
from mobilenets import imagenet, layout, listing, pictures
from mobilenets.errors import FolderError
from mobilenets.folder import SPLITS, Folder, scan
from mobilenets.layout import Candidate
from mobilenets.split import carve

_MADE: dict[int, bytes] = {}


def picture(seed: int) -> bytes:
    """The bytes of a small picture, different for every seed."""
    if seed not in _MADE:
        _MADE[seed] = encode(photo(34, 33, seed=seed), "PNG")
    return _MADE[seed]


def tree(root: Path, counts: dict[str, int], *, first: int = 0) -> Path:
    """Folders with so many pictures each, all different: {"rose": 5} or {"train/rose": 5}."""
    seed = first
    for folder, n in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            (root / folder / f"{i:03}.png").write_bytes(picture(seed))
            seed += 1
    return root


def listed(root: Path, text: str, *, name: str = "list.csv", pictures_n: int = 6) -> Path:
    """A CSV beside pictures 0.png, 1.png …"""
    for i in range(pictures_n):
        (root / f"{i}.png").write_bytes(picture(i))
    (root / name).write_bytes(text.encode("utf-8"))
    return root / name


def refused(path: Path, *, match: str, **options) -> FolderError:
    with pytest.raises(FolderError, match=match) as caught:
        scan(path, **options)
    assert caught.value.exit_code == 2
    return caught.value


def placed(folder: Folder) -> dict[str, str]:
    return {p.name: p.split for p in folder.pictures}


def kinds(folder: Folder) -> dict[str, str]:
    return {p.name: p.kind for p in folder.problems}


# --- class folders ---


def test_class_folders(tmp_path):
    folder = scan(tree(tmp_path, {"tulip": 20, "rose": 40}), seed=3)
    assert folder.layout == "class folders" and folder.classes == ("rose", "tulip")
    assert folder.counts() == {
        "rose": {"train": 28, "val": 6, "test": 6},
        "tulip": {"train": 14, "val": 3, "test": 3},
    }
    assert [p.name for p in folder.pictures] == sorted(p.name for p in folder.pictures)
    first = folder.pictures[0]
    assert (first.name, first.label, first.width, first.height) == ("rose/000.png", 0, 34, 33)
    assert first.path.is_absolute() and first.path.read_bytes()
    assert len(first.sha256) == 64
    assert folder.problems == () and folder.given_splits == ()
    assert folder.split_source == "70/15/15 per class, seed 3"
    assert sum(len(folder.split(split)) for split in SPLITS) == 60


def test_every_class_is_in_every_split(tmp_path):
    folder = scan(tree(tmp_path, {"a": 3, "b": 4, "c": 5}))
    assert all(n >= 1 for row in folder.counts().values() for n in row.values())


def test_nested_folders_belong_to_their_class(tmp_path):
    tree(tmp_path, {"a/2023/may": 3, "a": 1, "b": 3}, first=10)
    folder = scan(tmp_path)
    assert folder.classes == ("a", "b")
    assert "a/2023/may/000.png" in placed(folder)


def test_hidden_and_system_files_are_counted_not_opened(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3, "a/.ipynb_checkpoints": 1, "__MACOSX/a": 2, ".git": 1})
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "a" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "b" / "Thumbs.db").write_bytes(b"thumbs")
    folder = scan(tmp_path, strict=True)
    assert folder.classes == ("a", "b") and len(folder.pictures) == 6
    assert folder.problem_counts() == {"hidden": 6}
    assert not any(problem.used for problem in folder.problems)


def test_notes_and_loose_pictures_beside_the_classes(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "SHA256SUMS").write_text("…")
    (tmp_path / "loose.png").write_bytes(picture(99))
    assert kinds(scan(tmp_path)) == {"loose.png": "outside the classes"}


def test_a_stray_file_inside_a_class(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "notes.txt").write_text("to do")
    folder = scan(tmp_path)
    (problem,) = folder.problems
    assert (problem.name, problem.kind, problem.used) == ("a/notes.txt", "not a picture", False)
    assert problem.detail == "is not a picture: it is text"


def test_every_case_lands_in_the_report(tmp_path):
    tree(tmp_path, {"odd": 3, "plain": 3}, first=500)
    for name, case in CASES.items():
        (tmp_path / "odd" / name).write_bytes(case.data)
    folder = scan(tmp_path, threads=4)
    reported = {(p.name, p.kind, p.used) for p in folder.problems} - {
        (p.name, p.kind, p.used) for p in folder.problems if p.kind == "duplicate"
    }
    assert reported == {(f"odd/{n}", kind, case.used) for n, case in CASES.items() for kind in case.kinds}
    used = {p.name for p in folder.pictures}
    assert used >= {f"odd/{n}" for n, case in CASES.items() if case.used}
    assert not used & {f"odd/{n}" for n, case in CASES.items() if not case.used}


def test_links_in_a_circle_end(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    folder = scan(tmp_path, purpose="evaluate")
    assert kinds(folder)["a/again"] == "link in a circle"
    assert "b/up/b" in kinds(folder)


def test_linked_folders_and_broken_links(tmp_path):
    tree(tmp_path / "elsewhere", {"x": 3})
    root = tree(tmp_path / "root", {"b": 3}, first=50)
    (root / "a").symlink_to(tmp_path / "elsewhere" / "x", target_is_directory=True)
    (root / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "b" / "self.png").symlink_to(root / "b" / "self.png")
    folder = scan(root)
    assert folder.classes == ("a", "b") and len(folder.pictures) == 6
    assert kinds(folder) == {"b/gone.png": "broken link", "b/self.png": "unreadable"}


def test_a_class_folder_that_cannot_be_read(tmp_path, monkeypatch):
    tree(tmp_path, {"a": 3, "b": 3, "b/locked": 1})
    allow = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return allow(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert kinds(scan(tmp_path)) == {"b/locked": "unreadable"}


def test_names_of_any_kind(tmp_path):
    names = [
        'quo"te',
        "<b>",
        "new\nline",
        "\u202ertl",
        "😀",
        "=1+1",
        "semi;colon",
        "a,b",
        "'apostrophe",
        "  ",
    ]
    tree(tmp_path, dict.fromkeys(names, 3))
    folder = scan(tmp_path)
    assert folder.classes == tuple(sorted(names))
    folder.write_split_csv(tmp_path.parent / "split.csv")
    with pytest.raises(FolderError, match="label is empty"):
        scan(tmp_path.parent / "split.csv")


def test_undecodable_names(tmp_path):
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes no undecodable names")
    for i in range(3):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/\xff%d.png" % i)).write_bytes(picture(i))
    tree(tmp_path, {"b": 3}, first=9)
    folder = scan(tmp_path)
    assert folder.classes == ("b", "caf\udce9")
    json.dumps(folder.to_json(), allow_nan=False)
    folder.write_split_csv(tmp_path / "split.csv")
    assert placed_by_hash(scan(tmp_path / "split.csv")) == placed_by_hash(folder)


def test_class_names_have_one_spelling(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")
    tree(tmp_path, {decomposed: 3, "b": 3})
    assert scan(tmp_path).classes == ("b", "café")


def test_an_empty_class_folder_is_no_class(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3, "c": 0})
    folder = scan(tmp_path)
    assert folder.classes == ("a", "b") and kinds(folder) == {"c": "empty folder"}


def test_a_folder_of_annotations_is_no_class(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3, "xml": 0})
    (tmp_path / "xml" / "000.xml").write_text("<annotation/>")
    folder = scan(tmp_path)
    assert folder.classes == ("a", "b") and kinds(folder)["xml"] == "folder without pictures"


def test_a_class_lost_to_damage_is_an_error(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3, "c": 0})
    (tmp_path / "c" / "0.jpg").write_bytes(CASES["no end mark.jpg"].data)
    refused(tmp_path, match=r"no picture can be used of 1 class: 'c' \(truncated\)")


# --- the split ---


def placed_by_hash(folder: Folder) -> dict[str, tuple[str, str]]:
    return {p.sha256: (folder.classes[p.label], p.split) for p in folder.pictures}


def test_the_split_depends_on_seed_and_bytes_alone(tmp_path, monkeypatch):
    one = scan(tree(tmp_path / "one", {"a": 30, "b": 30}))
    other_root = tmp_path / "two"
    for p in one.pictures:
        target = other_root / one.classes[p.label] / f"{p.sha256[:9]}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(p.path.read_bytes())
    assert placed_by_hash(scan(other_root)) == placed_by_hash(one)
    assert placed_by_hash(scan(other_root, seed=1)) != placed_by_hash(one)
    entries = os.scandir

    class Shuffled:
        def __init__(self, path):
            self.inner = entries(path)

        def __enter__(self):
            found = list(self.inner)
            random.Random(5).shuffle(found)
            return iter(found)

        def __exit__(self, *_):
            self.inner.close()

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert scan(tmp_path / "one") == one


@pytest.mark.slow
@settings(deadline=None)
@given(
    n=st.integers(3, 400),
    parts=st.sampled_from([("val", "test"), ("val",), ("test",), ()]),
    seed=st.integers(),
)
def test_carving_shares(n, parts, seed):
    hashes = [f"{i:064x}" for i in range(n)]
    split = carve(hashes, parts, seed)
    assert set(split) == set(hashes)
    sizes = {part: sum(value == part for value in split.values()) for part in SPLITS}
    for part in parts:
        assert abs(sizes[part] - max(1, 0.15 * n)) <= 0.5
    assert sizes["train"] == n - sum(sizes[part] for part in parts) >= 1
    assert carve(list(reversed(hashes)), parts, seed) == split


def test_adding_pictures_moves_few_others():
    hashes = [f"{i:064x}" for i in range(300)]
    before, after = carve(hashes[:290], ("val", "test"), 0), carve(hashes, ("val", "test"), 0)
    assert sum(before[h] != after[h] for h in hashes[:290]) <= 15


def test_copies_never_straddle(tmp_path):
    tree(tmp_path, {"a": 20, "b": 20})
    for i in range(20):
        (tmp_path / "a" / f"copy {i}.png").write_bytes(picture(i))
    for seed in range(4):
        folder = scan(tmp_path, seed=seed)
        assert len(folder.pictures) == 60
        where: dict[str, set[str]] = {}
        for p in folder.pictures:
            where.setdefault(p.sha256, set()).add(p.split)
        assert all(len(splits) == 1 for splits in where.values())
        assert folder.problem_counts() == {"duplicate": 20} and all(p.used for p in folder.problems)


def test_one_picture_in_two_classes_is_left_out(tmp_path):
    tree(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "b" / "same.png").write_bytes(picture(0))
    folder = scan(tmp_path)
    assert kinds(folder) == dict.fromkeys(("a/000.png", "b/same.png"), "same picture in two classes")
    assert "'b/same.png' of class 'b'" in folder.problems[0].detail
    assert not {"a/000.png", "b/same.png"} & set(placed(folder))
    refused(
        tmp_path, match=r"2 files cannot be used\. 2 same picture in two classes: a/000\.png", strict=True
    )


# --- split trees ---


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "VALID", "Test"), ("training", "validation", "testing")]
)
def test_a_split_tree_is_honoured(tmp_path, names):
    train, val, test = names
    root = tree(tmp_path, {f"{s}/{c}": n for s, n in ((train, 4), (val, 2), (test, 1)) for c in "ab"})
    folder = scan(root)
    assert folder.layout == "split folders" and folder.given_splits == SPLITS
    assert folder.counts() == {label: {"train": 4, "val": 2, "test": 1} for label in "ab"}
    assert folder.split_source == "given by the folder"
    assert all(SPLITS[names.index(p.name.split("/")[0])] == p.split for p in folder.pictures)


@pytest.mark.parametrize(
    ("given_", "source"),
    [
        (("train", "val"), "train, val given by the folder; test: 15 % of train, seed 0"),
        (("train", "test"), "train, test given by the folder; val: 15 % of train, seed 0"),
        (("train",), "train given by the folder; val and test: 15 % of train, seed 0"),
    ],
)
def test_a_missing_split_is_carved_from_train(tmp_path, given_, source):
    folder = scan(tree(tmp_path, {f"{s}/{c}": 10 for s in given_ for c in "ab"}))
    assert folder.given_splits == given_ and folder.split_source == source
    for row in folder.counts().values():
        assert {s: row[s] for s in SPLITS[1:]} == {s: 10 if s in given_ else 2 for s in SPLITS[1:]}
    assert all(p.split == "val" for p in folder.pictures if p.name.startswith("val/"))


def test_copies_across_given_splits_leave_train(tmp_path):
    tree(tmp_path, {f"{s}/{c}": 4 for s in SPLITS for c in "ab"})
    for name, seed in (("train/a/x.png", 900), ("val/a/x.png", 900), ("test/a/x.png", 900)):
        (tmp_path / name).write_bytes(picture(seed))
    folder = scan(tmp_path)
    assert kinds(folder) == dict.fromkeys(("train/a/x.png", "val/a/x.png"), "duplicate across splits")
    assert "'test/a/x.png' in test" in folder.problems[0].detail
    assert placed(folder)["test/a/x.png"] == "test" and "train/a/x.png" not in placed(folder)


def test_classes_named_like_splits(tmp_path):
    folder = scan(tree(tmp_path, {"car": 3, "plane": 3, "train": 3}))
    assert folder.layout == "class folders" and folder.classes == ("car", "plane", "train")


def test_a_class_named_like_a_split_with_folders_inside(tmp_path):
    folder = scan(tree(tmp_path, {"car": 3, "train/freight": 2, "train/tram": 1}))
    assert folder.layout == "class folders" and folder.classes == ("car", "train")


def test_other_folders_beside_a_split_tree(tmp_path):
    tree(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2, "docs": 1})
    (tmp_path / "train" / "loose.png").write_bytes(picture(77))
    folder = scan(tmp_path)
    assert folder.classes == ("a", "b")
    assert kinds(folder) == {"docs": "outside the splits", "train/loose.png": "outside the classes"}


def test_a_class_without_training_pictures(tmp_path):
    tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 1, "test/c": 1})
    refused(tmp_path, match=r"holds out pictures of 1 class without any to train on: 'c'")


def test_a_class_missing_in_a_given_split_is_reported(tmp_path):
    tree(tmp_path, {"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1, "test/a": 1})
    (problem,) = scan(tmp_path).problems
    assert (problem.name, problem.kind, problem.detail) == (
        "b",
        "class missing in a split",
        "no picture in test",
    )


def test_two_folders_for_one_split(tmp_path):
    tree(tmp_path, {f"{s}/{c}": 2 for s in ("train", "val", "valid") for c in "ab"})
    refused(tmp_path, match="two folders for the val split: 'val' and 'valid'")


def test_a_given_split_without_usable_pictures(tmp_path):
    tree(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 0})
    (tmp_path / "test" / "a" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    refused(tmp_path, match="has a test split without a usable picture")


# --- lists ---

ROWS = "\n".join(f"{i}.png,{'ab'[i % 2]}" for i in range(6))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list(tmp_path, delimiter, start, end):
    text = (start + "Path,Label\n" + ROWS + "\n\n").replace(",", delimiter).replace("\n", end)
    folder = scan(listed(tmp_path, text))
    assert folder.layout == "csv" and folder.classes == ("a", "b")
    assert folder.counts() == {label: {"train": 1, "val": 1, "test": 1} for label in "ab"}
    assert [p.name for p in folder.pictures] == [f"{i}.png" for i in range(6)]
    assert all(p.path == tmp_path / p.name for p in folder.pictures)


def test_a_list_with_splits(tmp_path):
    splits = ["train", "Train", "val", "valid", "validation", "test"]
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{split}\n" for i, split in enumerate(splits))
    folder = scan(listed(tmp_path, "path,label,split\n" + rows))
    assert [p.split for p in folder.pictures] == ["train", "train", "val", "val", "val", "test"]


def test_a_list_of_imagenet_indices(tmp_path):
    folder = scan(
        listed(tmp_path, "path,index,name\n0.png,388,x\n1.png,0,y\n2.png,134,z\n"), purpose="evaluate"
    )
    assert folder.classes == ("tench", "crane (bird)", "giant panda")
    assert [folder.classes[p.label] for p in folder.pictures] == ["giant panda", "tench", "crane (bird)"]


@pytest.mark.parametrize("name", ["labels.csv", "split.csv"])
def test_a_folder_that_holds_a_list_and_no_classes(tmp_path, name):
    listed(tmp_path, "path,label\n" + ROWS, name=name)
    assert scan(tmp_path).layout == "csv"
    (tmp_path / "report").mkdir()
    assert scan(tmp_path).classes == ("a", "b")


def test_class_folders_count_more_than_a_list(tmp_path):
    tree(tmp_path, {"x": 3, "y": 3})
    (tmp_path / "labels.csv").write_text("path,label\n")
    assert scan(tmp_path).classes == ("x", "y")


def test_paths_of_a_list(tmp_path):
    other = tmp_path / "other"
    sub = tmp_path / "sub" / "dir"
    sub.mkdir(parents=True)
    other.mkdir()
    for i, place in enumerate((other, other, sub, tmp_path)):
        (place / f"{i}.png").write_bytes(picture(i))
    (other / "list.csv").write_text(
        f"path,label\n./0.png,a\n{other / '1.png'},a\n..\\sub\\dir\\2.png,b\n../3.png,b\n"
    )
    folder = scan(other / "list.csv", purpose="evaluate")
    assert {p.name for p in folder.pictures} == {
        "0.png",
        (other / "1.png").as_posix(),
        "../sub/dir/2.png",
        "../3.png",
    }


def test_problems_of_a_list(tmp_path):
    text = "path,label\n" + ROWS + "\ngone.png,a\n0.png,a\n1.png,a\n6.png,b\n"
    (tmp_path / "6.png").write_bytes(picture(6))
    folder = scan(listed(tmp_path, text), purpose="evaluate")
    assert kinds(folder) == {
        "gone.png": "missing",
        "0.png": "listed twice",
        "1.png": "same picture in two classes",
    }
    assert len(folder.pictures) == 6


def test_a_picture_changed_since_it_was_listed(tmp_path):
    folder = scan(listed(tmp_path, "path,label\n" + ROWS))
    folder.write_split_csv(tmp_path / "split.csv")
    (tmp_path / "0.png").write_bytes(picture(70))
    again = scan(tmp_path / "split.csv")
    assert [(p.name, p.kind, p.used) for p in again.problems] == [("0.png", "changed", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found: no line at all"),
        ("file,class\n0.png,a\n", "no columns 'path' and 'label'; found: 'file', 'class'"),
        ("path\n0.png\n", "found: 'path'"),
        ("path,label\n", "lists no picture"),
        ("path,label\n0.png,\n", "line 2: the label is empty"),
        ("path,label\n0.png,  \n", "line 2: the label is empty"),
        ("path,label\n,a\n", "line 2: the path is empty"),
        ("path,label\n0.png,great white, shark\n", "line 2: has 3 cells, the first line has 2"),
        ("path,label\n0.png\n", "line 2: has 1 cells"),
        ("path,index\n0.png,1000\n", "line 2: the index is '1000'"),
        ("path,index\n0.png,-1\n", "line 2: the index is '-1'"),
        ("path,index\n0.png,tench\n", "line 2: the index is 'tench'"),
        ("path,index\n0.png,²\n", "line 2: the index is '²'"),
        ("path,label,split\n0.png,a,dev\n", "line 2: the split is 'dev'"),
        ("path,label,split\n0.png,a,train\n1.png,b,\n", "none for '1.png'"),
        ('path,label\n0.png,"a\n', "not CSV"),
    ],
)
def test_lists_that_are_refused(tmp_path, text, message):
    error = refused(listed(tmp_path, text), match=message)
    assert error.file == str(tmp_path / "list.csv")


def test_a_list_in_utf_16(tmp_path):
    path = listed(tmp_path, "")
    path.write_bytes("path,label\n0.png,a\n".encode("utf-16"))
    refused(path, match="UTF-16")


def test_a_list_that_cannot_be_read(tmp_path, monkeypatch):
    path = listed(tmp_path, "path,label\n" + ROWS)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    refused(path, match="cannot be read .Permission denied.")


# --- writing and reading again ---


def test_what_is_written_is_read_again(tmp_path):
    root = tree(tmp_path / "data", {"=cmd()": 10, "'=quoted": 10, "@x/-y": 5, "plain": 10})
    (root / "plain" / "-dash.png").write_bytes(picture(800))
    folder = scan(root)
    run = tmp_path / "runs" / "one"
    folder.write_split_csv(run / "split.csv")
    again = scan(run / "split.csv", seed=99)
    assert placed_by_hash(again) == placed_by_hash(folder)
    assert {p.path.resolve() for p in again.pictures} == {p.path for p in folder.pictures}
    assert again.given_splits == SPLITS and again.problems == ()
    assert scan(run).classes == folder.classes
    folder.write_split_csv(root / "split.csv")
    assert placed_by_hash(scan(root / "split.csv")) == placed_by_hash(folder)
    assert again.split_csv(root) == folder.split_csv(root)


def test_no_cell_is_a_formula(tmp_path):
    for i, name in enumerate(("=a.png", "+b.png", "-c.png", "@d.png", "e.png", "f.png")):
        (tmp_path / name).write_bytes(picture(i))
    names = sorted(path.name for path in tmp_path.iterdir())
    text = "path,label\n" + "".join(f"{n},{'=HYPERLINK()' if i % 2 else '-1'}\n" for i, n in enumerate(names))
    (tmp_path / "list.csv").write_text(text)
    folder = scan(tmp_path / "list.csv")
    assert folder.classes == ("-1", "=HYPERLINK()")
    rows = list(csv.reader(io.StringIO(folder.split_csv(tmp_path))))
    assert rows[0] == ["path", "label", "split", "sha256"]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
    assert all((tmp_path / row[0]).exists() for row in rows[1:])


def test_paths_through_a_linked_folder(tmp_path):
    real = tree(tmp_path / "disk" / "deep" / "data", {"a": 3, "b": 3})
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(real, target_is_directory=True)
    (tmp_path / "elsewhere" / "runs").mkdir(parents=True)
    (tmp_path / "home" / "runs").symlink_to(tmp_path / "elsewhere" / "runs", target_is_directory=True)
    folder = scan(tmp_path / "home" / "data")
    folder.write_split_csv(tmp_path / "home" / "runs" / "split.csv")
    assert placed_by_hash(scan(tmp_path / "home" / "runs" / "split.csv")) == placed_by_hash(folder)


LABELS = st.text(st.characters(exclude_categories=()), min_size=1, max_size=12).filter(
    lambda text: text.strip() and unicodedata.is_normalized("NFC", text)
)
TRICKY = st.text(st.sampled_from("'=+-@\t\r\n\",; é\u202e😀\udce9a"), min_size=1, max_size=6).filter(
    str.strip
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(
        TRICKY
        | LABELS.filter(lambda t: not any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in t)),
        min_size=1,
        max_size=4,
    )
)
def test_any_label_round_trips(tmp_path, labels):
    file = tmp_path / "split.csv"
    written = [
        Candidate(tmp_path / f"{i}.png", f"{i}.png", label, "val", "0" * 64) for i, label in enumerate(labels)
    ]
    listing.write(file, written)
    assert list(listing.read(file).candidates) == written


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=TRICKY.filter(lambda t: "/" not in t))
def test_any_file_name_round_trips(tmp_path, name):
    file = tmp_path / "split.csv"
    listing.write(file, [Candidate(tmp_path / name, name, "a")])
    (candidate,) = listing.read(file).candidates
    assert candidate.path == tmp_path / name and candidate.name == name


# --- what nothing can be learnt from ---


def test_no_such_folder(tmp_path):
    (tmp_path / "flowers").mkdir()
    error = refused(tmp_path / "flower", match="no such folder")
    assert error.remedy is not None and "flowers'?" in error.remedy
    refused(tmp_path / "nowhere" / "flower", match="no such folder")
    refused(Path(f"{tmp_path}/a\0b"), match="no such folder")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(picture(0))
    refused(tmp_path / "x.jpg", match="is a file, not a folder")
    (tmp_path / "x.zip").write_bytes(b"PK\3\4")
    assert "Unpack" in str(refused(tmp_path / "x.zip", match="is a file"))


def test_an_unreadable_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    refused(tmp_path, match="cannot be read .Permission denied.")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, match="found 0 folders and 0 pictures directly in it")
    refused(tmp_path, match="holds no pictures", purpose="evaluate")


def test_pictures_without_classes(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    refused(tmp_path, match="found 0 folders and 4 pictures directly in it")


def test_nothing_but_rubbish(tmp_path):
    tree(tmp_path, {"a": 0, "b": 0})
    for name in ("text.jpg", "empty.jpg", "no end mark.jpg"):
        (tmp_path / "a" / name).write_bytes(CASES[name].data)
    error = refused(tmp_path, match="holds no picture that can be used")
    assert all(
        kind in str(error)
        for kind in ("1 not a picture", "1 empty file", "1 truncated", "a/empty.jpg (empty file)")
    )


def test_one_class(tmp_path):
    error = refused(tree(tmp_path, {"rose": 9}), match="only one class, 'rose'")
    assert "FOLDER/cat" in str(error)
    assert scan(tmp_path, purpose="evaluate").classes == ("rose",)


def test_one_folder_too_high(tmp_path):
    error = refused(
        tree(tmp_path, {"flowers/rose": 3, "flowers/tulip": 3}), match="only one class, 'flowers'"
    )
    assert "inside 'flowers', give that folder" in str(error)


@pytest.mark.parametrize(("n", "named"), [(1, r"'rose' \(1\)"), (2, r"'rose' \(2\)")])
def test_a_class_with_too_few_pictures(tmp_path, n, named):
    error = refused(
        tree(tmp_path, {"rose": n, "tulip": 5}), match=f"1 class has too few.*{named}; .*at least 3"
    )
    assert error.remedy is not None and "merge" in error.remedy


def test_copies_do_not_count_as_more_pictures(tmp_path):
    tree(tmp_path, {"rose": 1, "tulip": 5})
    for i in range(5):
        (tmp_path / "rose" / f"copy{i}.png").write_bytes(picture(0))
    refused(tmp_path, match=r"too few different pictures.*'rose' \(1\)")


def test_many_classes_with_too_few_pictures_are_counted(tmp_path):
    error = refused(tree(tmp_path, {f"c{i}": 1 for i in range(9)}), match="9 classes have too few")
    assert "and 4 more" in str(error)


def test_names_are_escaped_in_errors(tmp_path):
    error = refused(tree(tmp_path, {"ro\nse\u202e": 1, "tulip": 5}), match="too few")
    assert r"'ro\nse\u202e'" in str(error)


def test_strict_stops_at_what_cannot_be_used(tmp_path):
    tree(tmp_path, {"a": 5, "b": 5})
    for i in range(7):
        (tmp_path / "a" / f"cut{i}.jpg").write_bytes(CASES["no end mark.jpg"].data)
    (tmp_path / "b" / "empty.jpg").write_bytes(b"")
    error = refused(tmp_path, match=r"8 files cannot be used\. 7 truncated, 1 empty file: ", strict=True)
    assert "a/cut0.jpg (truncated)" in str(error) and "and 3 more" in str(error)
    assert len(scan(tmp_path).pictures) == 10


def test_strict_takes_odd_pictures(tmp_path):
    tree(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "cmyk.jpg").write_bytes(CASES["cmyk.jpg"].data)
    assert scan(tmp_path, strict=True).problem_counts() == {"CMYK": 1}


# --- evaluating ---


def test_for_evaluation_everything_is_test(tmp_path):
    folder = scan(tree(tmp_path, {"a": 1, "b": 2}), purpose="evaluate")
    assert folder.counts() == {"a": {"train": 0, "val": 0, "test": 1}, "b": {"train": 0, "val": 0, "test": 2}}
    assert folder.split_source == "none: every picture is in test"


def test_for_evaluation_given_splits_stay(tmp_path):
    tree(tmp_path, {"val/a": 2, "test/a": 1, "test/b": 1})
    folder = scan(tmp_path, purpose="evaluate")
    assert folder.given_splits == ("val", "test")
    assert [len(folder.split(split)) for split in SPLITS] == [0, 2, 2]
    assert folder.split_source == "val, test given by the folder"


# --- the report and the table ---


def test_scan_json(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "text.jpg").write_bytes(b"text")
    value = scan(tmp_path).to_json()
    assert json.loads(json.dumps(value)) == value
    assert value["pictures"] == 6 and value["classes"] == ["a", "b"]
    assert value["counts"]["a"] == {"train": 1, "val": 1, "test": 1}
    assert value["problem_counts"] == {"not a picture": 1}
    assert value["problems"][0]["name"] == "b/text.jpg"
    assert value["shorter_side_px"] == {"least": 33, "median": 33.0, "greatest": 33}


def test_progress_sees_every_file(tmp_path):
    seen: list[tuple[int, str]] = []

    class Watch:
        def track(self, items, total, what):
            for item in items:
                seen.append((total, what))
                yield item

        def say(self, line):
            raise AssertionError(line)

    scan(tree(tmp_path, {"a": 3, "b": 3}), progress=Watch())
    assert len(seen) == 6 and set(seen) == {(6, "Opening pictures")}


def test_every_file_is_opened_once(tmp_path, monkeypatch):
    opened: list[str] = []
    examine = pictures.examine

    def watched(path):
        opened.append(Path(path).name)
        return examine(path)

    monkeypatch.setattr(pictures, "examine", watched)
    scan(tree(tmp_path, {"a": 3, "b": 3}))
    assert len(opened) == 6


def test_the_imagenet_table():
    labels, wnids = imagenet.labels(), imagenet.wnids()
    assert len(labels) == len(wnids) == 1000
    assert len({label.casefold() for label in labels}) == len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    assert (wnids[0], labels[0], wnids[999], labels[999]) == (
        "n01440764",
        "tench",
        "n15075141",
        "toilet tissue",
    )
    assert (labels[134], labels[517]) == ("crane (bird)", "crane (machine)")


def test_split_names_are_the_documented_ones():
    assert {"train", "val", "valid", "validation", "test"} <= set(layout.SPLIT_NAMES)


# --- real pictures ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "files", "contradicting", "copies"), [("flowers", 4064, 8, 2), ("trashnet", 2527, 6, 0)]
)
def test_real_folders(data, name, files, contradicting, copies):
    folder = scan(data / name)
    counted = folder.problem_counts()
    assert counted.pop("same picture in two classes", 0) == contradicting
    assert counted.pop("duplicate", 0) == copies
    assert not counted
    assert len(folder.pictures) == files - contradicting
    for row in folder.counts().values():
        total = sum(row.values())
        assert abs(row["val"] - 0.15 * total) <= 1 and abs(row["test"] - 0.15 * total) <= 2


@pytest.mark.slow
def test_real_list(data):
    folder = scan(data / "imagenet-500", purpose="evaluate")
    assert folder.layout == "csv" and len(folder.pictures) == len(folder.classes) == 500
    with (data / "imagenet-500" / "labels.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            assert imagenet.wnids()[int(row["index"])] == row["wnid"]
            assert row["name"].casefold() in imagenet.labels()[int(row["index"])].casefold()
