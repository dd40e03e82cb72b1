"""What gluebenchmark.com takes: one zip of eleven TSV files, in the format of the table below.

Each file has the header `index`, `prediction` and one row per example of its test set, in order.
"""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from craft.bench.settings.sections import Task


@dataclass(frozen=True)
class File:
    """One file of a submission.

    `words` stand for class 0, 1, ...; there are none where the prediction is a number from 0 to
    5."""

    name: str  # without .tsv
    task: str  # whose run predicts it
    split: str  # of that task; DIAGNOSTICS is a test set of its own
    words: tuple[str, ...]
    rows: int  # of GLUE's test set


DIAGNOSTICS = "diagnostics"
DIGIT = ("0", "1")
TWO = ("entailment", "not_entailment")
THREE = ("entailment", "neutral", "contradiction")
# Written down from memory and from the code of others who have submitted: to be corrected here.
FILES = (
    File("CoLA", "cola", "test", DIGIT, 1063),
    File("SST-2", "sst2", "test", DIGIT, 1821),
    File("MRPC", "mrpc", "test", DIGIT, 1725),
    File("STS-B", "stsb", "test", (), 1379),
    File("QQP", "qqp", "test", DIGIT, 390_965),
    File("MNLI-m", "mnli", "test_matched", THREE, 9796),
    File("MNLI-mm", "mnli", "test_mismatched", THREE, 9847),
    File("QNLI", "qnli", "test", TWO, 5463),
    File("RTE", "rte", "test", TWO, 3000),
    File("WNLI", "wnli", "test", DIGIT, 146),
    File("AX", "mnli", DIAGNOSTICS, THREE, 1104),
)
HEADER = "index\tprediction"
LOWEST, HIGHEST = 0.0, 5.0
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: the same predictions, the same bytes


def diagnostics(mnli: Task) -> Task:
    """GLUE's diagnostic set: the columns and labels of MNLI, a test set alone, in its own place."""
    files = {"test": "diagnostic"}
    return replace(
        mnli,
        name="ax",
        hub="ax",
        folder="diagnostic",
        dev=(),
        test=("test",),
        tsv=replace(mnli.tsv, files=files),
    )


def content(file: File, idx: Sequence[int], predicted: np.ndarray) -> str:
    """The text of one file: class ids as their words, scores clipped to the range."""
    if file.words:
        shown = [file.words[int(p)] for p in predicted]
    else:
        shown = [f"{min(max(float(p), LOWEST), HIGHEST):.6f}" for p in predicted]
    rows = [f"{index}\t{value}" for index, value in zip(idx, shown, strict=True)]
    return "\n".join([HEADER, *rows]) + "\n"


def packed(texts: Mapping[str, str]) -> bytes:
    """The zip of the files (name without .tsv -> text), in the order of the table."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for file in FILES:
            if file.name in texts:
                member = zipfile.ZipInfo(f"{file.name}.tsv", EPOCH)
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o644 << 16
                archive.writestr(member, texts[file.name].encode())
    return stream.getvalue()


def findings(archive: bytes) -> list[str]:
    """What the site would not take in a zip, one line each; none where it is right."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = [(name, opened.read(name)) for name in opened.namelist()]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        return [f"not a zip that can be read ({error})"]
    known = {f"{file.name}.tsv": file for file in FILES}
    names = [name for name, _ in members]
    found = [f"{name} is missing" for name in known if name not in names]
    found += [
        f"{name} is none of the files: {', '.join(known)}"
        for name in dict.fromkeys(names)
        if name not in known
    ]
    found += [
        f"{name} is there {names.count(name)} times" for name in known if names.count(name) > 1
    ]
    for name, text in members:
        if name in known:
            found += [f"{name}: {problem}" for problem in _problems(known[name], text)]
    return found


def _problems(file: File, content: bytes) -> list[str]:
    try:
        header, *rows = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        return [str(error)]
    found = [] if header == HEADER else [f"the header is {header!r}, not {HEADER!r}"]
    if len(rows) != file.rows:
        found.append(f"{len(rows)} rows instead of the {file.rows} of GLUE's test set")
    allowed = ", ".join(file.words) or f"a number from {LOWEST:g} to {HIGHEST:g}"
    for number, row in enumerate(rows):
        index, tab, value = row.partition("\t")
        if not tab or index != str(number):
            found.append(f"line {number + 2}: {row!r} does not begin with index {number} and a tab")
            break
        if not _is_allowed(file, value):
            found.append(f"line {number + 2}: prediction {value!r} is not {allowed}")
            break
    return found


def _is_allowed(file: File, value: str) -> bool:
    if file.words:
        return value in file.words
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and LOWEST <= number <= HIGHEST
