"""`make prepare`: afterwards a job reads all it needs from the store, which it never writes."""

import hashlib
import os
import re
import subprocess
import sys

import pytest
from tiny_bench import ROOT, Bench

import craft.bench.glue.tokens
from craft import tucker
from craft.tucker import use_cache


@pytest.fixture(autouse=True)
def _no_cache_of_decompositions():
    yield
    use_cache(None)


@pytest.fixture(scope="module")
def store(tiny_roberta, tiny_glue, tmp_path_factory):
    """What prepare leaves of a small sweep, and what it said."""
    folder = tmp_path_factory.mktemp("prepared") / "store"
    line = Bench(tiny_roberta, tiny_glue, folder).overrides("task=rte,mrpc", "seed=0,1")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prepare.py"), "-m", *line], cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(*_, **__):
    raise AssertionError("computed, though it was prepared")


def test_it_says_what_it_made_and_what_jobs_need(store):
    folder, said = store
    assert len(re.findall(r"^(rte|mrpc) +[\d,]+ tokens, ", said, re.MULTILINE)) == 2
    assert len(re.findall(r"weights, [\d,]+ of them trained: a job needs 0\.0 GiB", said)) == 1
    assert f"jobs need, to read: {folder / 'cache'} (store={folder})" in said
    assert said.strip().endswith("no network")
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_job_needs_nothing_but_the_store_which_may_be_read_only(
    read_only, store, bench, monkeypatch, tmp_path
):
    folder, _ = store
    unprepared = Bench(bench.model, bench.glue, tmp_path / "unprepared").run()
    before = content(folder)
    if read_only:
        bound = ["mount", "--bind", str(folder), str(folder)]
        if subprocess.run(bound, capture_output=True).returncode:
            pytest.skip("this user may not mount")
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(tucker, "decompose", refused)
            patch.setattr(craft.bench.glue.tokens, "encode", refused)
            made = bench.run(f"store={folder}")
            assert made["result_sha256"] == unprepared["result_sha256"]
            assert bench.run(f"store={folder}", task="mrpc")["status"] == "ok"
            assert not (bench.outputs / "cache").exists()
            with pytest.raises(AssertionError, match="computed, though"):
                bench.run(f"store={folder}", "method.peft.ranks=[2,4,4]")
        # what the store lacks goes to the user's own outputs
        assert bench.run(f"store={folder}", "method.peft.ranks=[2,4,4]")["status"] == "ok"
        assert bench.run(f"store={folder}", task="cola")["status"] == "ok"
        own = {path.parent.name for path in content(bench.outputs / "cache")}
        assert own == {"tokens", "tucker"}
    finally:
        if read_only:
            subprocess.run(["umount", str(folder)], check=True)
    assert content(folder) == before
