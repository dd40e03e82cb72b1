"""Where GLUE comes from: the hub, a local folder, or mini-GLUE's tables. All three give the same
splits."""

import codecs
import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from craft.bench import hub
from craft.bench.settings.sections import Data, Task
from craft.errors import InputError, first_line

MINI = Path(__file__).parent / "mini"  # made by scripts/mini_glue.py, frozen


@dataclass(frozen=True)
class Split:
    """Texts (one list per column) and labels of one split; labels are None where they are
    hidden."""

    name: str
    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None
    idx: list[int]

    def __len__(self) -> int:
        return len(self.idx)


@dataclass(frozen=True)
class GlueData:
    """The splits that were asked for, a digest of their content, and how many broken rows were left
    out."""

    splits: dict[str, Split]
    digest: str
    skipped: dict[str, int]


def load(task: Task, source: Data, splits: Sequence[str]) -> GlueData:
    """Load splits of a task.

    The digest covers texts and labels as they come out here, so the same content has the same
    digest whichever way it came. InputError where something is missing or malformed."""
    readers = {"hub": _from_hub, "local": _from_folder, "mini": _from_tables}
    loaded, skipped = readers[source.source](task, source, splits)
    state = hashlib.sha256()
    for split in loaded.values():
        if not len(split):
            raise InputError(f"{task.name}: split {split.name} is empty")
        content = [split.name, split.texts, split.labels]
        state.update(json.dumps(content, ensure_ascii=False).encode())
    return GlueData(loaded, state.hexdigest(), skipped)


Loaded = tuple[dict[str, Split], dict[str, int]]


def _from_columns(task: Task, name: str, columns: Mapping[str, list], where: str) -> Split:
    """A split from columns in the hub's form: class ids, -1 where hidden."""
    missing = [c for c in (*task.columns, "label") if c not in columns]
    if missing:
        raise InputError(f"{where}: columns {missing} are missing; there are {sorted(columns)}")
    labels: list | None = list(columns["label"])
    if name in task.test and all(label == -1 for label in labels):
        labels = None
    else:
        labels = [
            _label(task, str(label), f"{where}, row {row}") for row, label in enumerate(labels)
        ]
    for column in task.columns:
        for row, text in enumerate(columns[column]):
            if not isinstance(text, str):
                raise InputError(f"{where}, row {row}: {column} is {text!r}, not a text")
    idx = columns.get("idx", range(len(columns["label"])))
    return Split(name, tuple(list(columns[c]) for c in task.columns), labels, list(idx))


def _from_hub(task: Task, source: Data, splits: Sequence[str]) -> Loaded:
    from datasets import load_dataset

    repository, revision = str(source.repository), source.revision
    try:
        with hub.one_error():
            found = load_dataset(repository, task.hub, revision=revision)
    except (ConnectionError, FileNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"{repository} ({task.hub}) is neither reachable nor cached ({first_line(error)}); "
            "give a local copy: data=local data.dir=FOLDER"
        ) from error
    loaded = {
        s: _from_columns(task, s, found[s].to_dict(), f"{repository}/{task.hub}/{s}")
        for s in splits
    }
    return loaded, {}


def _from_tables(task: Task, source: Data, splits: Sequence[str]) -> Loaded:
    if not (MINI / task.hub).is_dir():
        known = ", ".join(sorted(path.name for path in MINI.iterdir()))
        raise InputError(f"mini-GLUE: task {task.name!r} is not one of {known}")
    return _from_folder(task, Data("local", dir=MINI), splits)


def _from_folder(task: Task, source: Data, splits: Sequence[str]) -> Loaded:
    folder = source.dir
    assert folder is not None
    if not folder.is_dir():
        raise InputError(f"data.dir: {folder} is not a folder")
    loaded, skipped = {}, {}
    for split in splits:
        tsv = folder / task.folder / f"{task.tsv.files[split]}.tsv"
        parquet = sorted((folder / task.hub).glob(f"{split}-*.parquet")) or sorted(
            (folder / task.hub).glob(f"{split}.parquet")
        )
        if tsv.is_file():
            loaded[split], skipped[split] = read_tsv(task, split, tsv)
            if skipped[split]:
                warnings.warn(f"{tsv}: {skipped[split]} broken rows are left out", stacklevel=2)
        elif parquet:
            loaded[split] = _read_parquet(task, split, parquet)
        else:
            raise InputError(
                f"{task.name}: split {split} is not in {folder}; it would be "
                f"{task.folder}/{tsv.name} "
                f"or {task.hub}/{split}-*.parquet"
            )
    return loaded, {split: n for split, n in skipped.items() if n}


def _read_parquet(task: Task, split: str, files: Sequence[Path]) -> Split:
    import pyarrow
    import pyarrow.parquet

    where = ", ".join(map(str, files))
    try:
        table = pyarrow.concat_tables([pyarrow.parquet.read_table(file) for file in files])
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error
    return _from_columns(task, split, table.to_pydict(), where)


def read_tsv(task: Task, split: str, path: Path) -> tuple[Split, int]:
    """Read a file of the original GLUE download; also returns the number of broken rows left out.

    Fields are separated by tabs and never quoted: a double quote is text, and so are NA and null.
    InputError with the file and line where a row has another number of fields, unless the task says
    that its files hold such rows."""
    test = split in task.test
    columns = task.tsv.test_columns if test else task.tsv.columns
    rows = _rows(path)
    if all(isinstance(c, int) for c in columns.values()):
        width, first = task.tsv.width, 1
        place: dict[str, int] = {c: int(n) for c, n in columns.items()}
    else:
        names = rows[0] if rows else []
        missing = [c for c in columns.values() if c not in names]
        if missing:
            raise InputError(f"{path}: columns {missing} are missing; the header has {names}")
        width, first = len(names), 2
        place = {c: names.index(str(n)) for c, n in columns.items()}
    texts: tuple[list[str], ...] = tuple([] for _ in task.columns)
    labels, idx, skipped = [], [], 0
    for number, row in enumerate(rows[first - 1 :], start=first):
        if len(row) != width:
            if task.tsv.skip_broken_rows:
                skipped += 1
                continue
            raise InputError(f"{path}, line {number}: {len(row)} fields instead of {width}")
        if not test:
            labels.append(_label(task, row[place["label"]], f"{path}, line {number}"))
        for column, name in zip(texts, task.columns, strict=True):
            column.append(row[place[name]])
        index = row[place["idx"]] if "idx" in place else str(number - first)
        if not index.isdecimal():
            raise InputError(f"{path}, line {number}: index {index!r} is not a whole number")
        idx.append(int(index))
    return Split(split, texts, None if test else labels, idx), skipped


def _rows(path: Path) -> list[list[str]]:
    """The lines of a TSV file, split at their tabs; a line ends in LF or CRLF, in nothing else.

    Blank lines at the end are none, except in a file of one column, where they are empty texts."""
    rows = []
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not UTF-8 (byte {line[error.start]:#04x}); a file in "
                "another encoding must be converted"
            ) from error
        if "\0" in text:
            raise InputError(f"{path}, line {number}: a NUL byte; the file must be UTF-8 text")
        rows.append(text.removesuffix("\r").split("\t"))
    while len(rows[0]) > 1 and rows[-1] == [""]:
        rows.pop()
    return rows if content else []


def read_columns(task: Task, path: Path) -> Split:
    """Unlabelled texts from a TSV file whose header names the task's columns; other columns are
    ignored."""
    if not path.is_file():
        raise InputError(f"predict.input: there is no file {path}")
    header, *rows = _rows(path) or [[]]
    if missing := [c for c in task.columns if c not in header]:
        raise InputError(f"{path}: columns {missing} are missing; the header has {header}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} fields instead of {len(header)}")
    if not rows:
        raise InputError(f"{path}: there are no rows under the header")
    texts = tuple([row[header.index(c)] for row in rows] for c in task.columns)
    return Split("input", texts, None, list(range(len(rows))))


def _label(task: Task, text: str, where: str) -> int | float:
    """A class id, given as id or name; or a score from 0 to 5, in the hub's precision, float32."""
    if task.regression:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not 0 <= score <= 5:
            raise InputError(f"{where}: score {text!r} is not a number from 0 to 5")
        return float(str(np.float32(score)))
    if text in task.labels:
        return task.labels.index(text)
    if text.isdecimal() and int(text) < len(task.labels):
        return int(text)
    raise InputError(f"{where}: label {text!r} is not one of {', '.join(task.labels)}")
