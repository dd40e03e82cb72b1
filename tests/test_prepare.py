"""`make prepare`: afterwards a job reads all it needs from the store, which it never writes."""

import hashlib
import re
import runpy
import subprocess
import sys

import pytest
from test_scripts import SCRIPTS, _state_of_the_process  # noqa: F401
from tiny_bench import Bench

import craft.glue.token_cache
from craft import tucker
from craft.tucker import use_cache


@pytest.fixture(autouse=True)
def _no_cache_of_decompositions():
    yield
    use_cache(None)


@pytest.fixture
def store(bench, tmp_path, monkeypatch, capsys):
    """What prepare leaves of two small sweeps, and what it said."""
    folder = tmp_path / "store"
    monkeypatch.chdir(tmp_path)
    for method in ("craft", "lora"):
        line = ["-m", *bench.overrides("task=rte,mrpc", "seed=0,1", method=method)]
        line = [o for o in line if not o.startswith("outputs=")] + [f"outputs={folder}"]
        monkeypatch.setattr(sys, "argv", ["scripts/prepare.py", *line])
        runpy.run_path(str(SCRIPTS / "prepare.py"), run_name="__main__")
    use_cache(None)
    return folder, capsys.readouterr().out


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(*_, **__):
    raise AssertionError("computed, though it was prepared")


def test_it_says_what_it_made_and_what_jobs_need(store):
    folder, said = store
    assert len(re.findall(r"^(rte|mrpc) +[\d,]+ tokens, ", said, re.MULTILINE)) == 4
    assert len(re.findall(r"weights, [\d,]+ of them trained: a job needs 0\.0 GiB", said)) == 2
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
            patch.setattr(craft.glue.token_cache, "encode", refused)
            made = bench.run(f"store={folder}")
            assert made["result_sha256"] == unprepared["result_sha256"]
            assert bench.run(f"store={folder}", method="lora", task="mrpc")["status"] == "ok"
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
