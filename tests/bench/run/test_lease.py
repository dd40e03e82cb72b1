"""A run's lease: one holder at a time, a name for whoever comes second, and an end to silence."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from injected import injecting
from tiny_bench import ROOT

import craft.bench.run.execute
import craft.bench.run.lease
from craft.bench.run.lease import Held, Holder, hold, is_held, newest
from craft.bench.training.loop import fit
from craft.errors import InputError

ME, OTHER = Holder("me"), Holder("the other")
SECONDS = 1.0


def silent(folder, holder=OTHER, seconds=SECONDS, age=0.0, number=1):
    """The lease of a process that was killed some time ago."""
    path = folder / f"lease.{number}" / "silent.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"holder": vars(holder), "seconds": seconds}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_lease_is_there_while_it_is_held_and_gone_after(tmp_path):
    with hold(tmp_path, ME, SECONDS) as lease:
        lease.check()
        assert newest(tmp_path).holder == ME and is_held(tmp_path)
    assert list(tmp_path.iterdir()) == [] and not is_held(tmp_path)


def test_second_is_told_who_holds_it(tmp_path):
    second = hold(tmp_path, ME, SECONDS)
    with hold(tmp_path, OTHER, SECONDS), pytest.raises(Held, match="held by the other"), second:
        raise AssertionError("two hold it")


def test_lease_of_a_killed_process_is_taken_over_once_it_has_expired(tmp_path):
    silent(tmp_path)
    clock, said = time.monotonic(), []
    gone = injecting("lease of a process that is gone")
    with gone, hold(tmp_path, ME, SECONDS, said.append) as lease:
        assert [line.split("; ")[0] for line in said] == [f"{tmp_path.name}: held by {OTHER.name}"]
        assert time.monotonic() - clock > 0.5 * SECONDS
        assert newest(tmp_path).holder == ME
        assert time.time() - lease.silent_since == pytest.approx(SECONDS, abs=SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_lease_that_expired_long_ago_is_taken_over_at_once(tmp_path):
    silent(tmp_path, age=60, number=7)
    clock, said = time.monotonic(), []
    with hold(tmp_path, ME, 30.0, said.append):
        assert newest(tmp_path).number == 8 and said == []
    assert time.monotonic() - clock < 5


def test_requeued_job_follows_itself_at_once_and_no_other_job_does(tmp_path):
    before = Holder("job 3 on a", "3", 0)
    silent(tmp_path, before, seconds=30.0)
    clock = time.monotonic()
    with hold(tmp_path, Holder("job 3 on b", "3", 1), SECONDS):
        assert time.monotonic() - clock < 5
    assert not Holder("job 4 on a", "4", 1).follows(before)
    assert not Holder("another worker of job 3", "3", 0).follows(before)
    assert not ME.follows(ME)


@pytest.mark.parametrize("content", ["", "{", '{"holder": 3}', "[]"])
def test_unreadable_lease_counts_until_it_expires(content, tmp_path):
    path = silent(tmp_path)
    path.write_text(content)
    assert is_held(tmp_path)
    os.utime(path, (time.time() - 60,) * 2)
    assert not is_held(tmp_path)
    with hold(tmp_path, ME, SECONDS):
        assert newest(tmp_path).holder == ME


def test_one_of_many_takes_an_expired_lease(tmp_path):
    silent(tmp_path, age=60)
    won, lost, together = [], [], threading.Barrier(8)

    def contend(n):
        together.wait()
        try:
            with hold(tmp_path, Holder(str(n)), SECONDS):
                won.append(n)
                time.sleep(2 * SECONDS)
        except Held:
            lost.append(n)

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert (len(won), len(lost)) == (1, 7)


def test_holder_that_was_silent_for_too_long_is_told_that_it_has_lost_it(tmp_path):
    with hold(tmp_path, OTHER, SECONDS) as lease:
        silent(tmp_path, ME, number=2)  # as one who takes it over leaves it
        time.sleep(SECONDS / 2)
        with pytest.raises(Held, match="me has taken it over from this silent process"):
            lease.check()
    assert newest(tmp_path).holder == ME


def holding(folder, holder):
    """A process that holds a folder's lease until it is told that it has lost it, which exits 3."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with hold(folder, holder, SECONDS / 2) as lease:
                while True:
                    lease.check()
                    time.sleep(0.01)
        except Held:
            code = 3
        finally:
            os._exit(code)
    while (found := newest(folder)) is None or found.holder != holder:
        time.sleep(0.01)
    return child


def test_process_that_continues_after_others_came_and_went_leaves_the_lease_of_the_last(tmp_path):
    """Stopped, taken over, released, held by a third, continued: one holds it, the third."""
    with injecting("process suspended until a third holds its run"):
        stopped, ended = holding(tmp_path, OTHER), 0
        os.kill(stopped, signal.SIGSTOP)
        try:
            with hold(tmp_path, Holder("who takes it over"), SECONDS):
                pass
            assert list(tmp_path.iterdir()) == []
            with hold(tmp_path, ME, SECONDS) as lease:
                os.kill(stopped, signal.SIGCONT)
                for _ in range(int(4 * SECONDS / 0.05)):
                    ended, status = os.waitpid(stopped, os.WNOHANG)
                    if ended:
                        break
                    lease.check()
                    time.sleep(0.05)
                assert ended and os.waitstatus_to_exitcode(status) == 3
                time.sleep(SECONDS / 2)
                lease.check()
                assert newest(tmp_path).holder == ME
        finally:
            if not ended:
                os.kill(stopped, signal.SIGKILL)
                os.waitpid(stopped, 0)
    assert list(tmp_path.iterdir()) == []


def test_process_suspended_before_it_creates_its_lease_looks_again(tmp_path, monkeypatch):
    """An expired lease was taken over and released, and the numbers began anew, in between."""
    silent(tmp_path, age=60)
    create, third = craft.bench.run.lease._create, contextlib.ExitStack()

    def late(path, content):
        monkeypatch.setattr(craft.bench.run.lease, "_create", create)
        with hold(tmp_path, Holder("who takes it over"), SECONDS):
            pass
        kept.append(third.enter_context(hold(tmp_path, OTHER, SECONDS)))
        return create(path, content)

    kept = []
    monkeypatch.setattr(craft.bench.run.lease, "_create", late)
    with third:
        with pytest.raises(Held, match="held by the other"), hold(tmp_path, ME, SECONDS):
            raise AssertionError("two hold it")
        kept[0].check()
        assert newest(tmp_path).holder == OTHER
    assert list(tmp_path.iterdir()) == []


def test_run_that_another_process_works_on_is_refused_and_left_alone(bench):
    bench.run()
    folder = bench.folder()
    (folder / "record.json").unlink()
    before = sorted(path.name for path in folder.iterdir())
    with injecting("two processes on one run"):
        with hold(folder, OTHER, 2.0), pytest.raises(InputError, match="is held by the other"):
            bench.run("lease_seconds=2")
        assert sorted(path.name for path in folder.iterdir()) == before
        assert len(json.loads((folder / "attempts.json").read_text())) == 1


def test_run_that_finishes_while_another_waits_is_found_done(bench, monkeypatch):
    made = bench.run()
    record, aside = bench.folder() / "record.json", bench.folder() / "aside"
    record.rename(aside)
    silent(bench.folder())  # its holder, between the record and the end of its lease

    def back_by_then():
        time.sleep(0.3)
        aside.rename(record)

    threading.Thread(target=back_by_then).start()
    monkeypatch.setattr(craft.bench.run.execute, "fit", None)
    assert bench.run("lease_seconds=1") == made


def test_process_that_was_suspended_and_replaced_writes_nothing_more(bench, monkeypatch):
    """It finds out at its next step, before a checkpoint or a record."""

    def replaced(model, loop):
        silent(bench.folder(), number=2)
        time.sleep(0.5)
        return fit(model, loop)

    monkeypatch.setattr(craft.bench.run.execute, "fit", replaced)
    with injecting("process suspended until another has taken its run over"):
        with pytest.raises(Held, match="the other has taken it over"):
            bench.run("lease_seconds=1", "train.checkpoint_minutes=0")
        left = {path.name for path in bench.folder().iterdir()}
        assert left == {"attempts.json", "lease.2"}


def test_killed_attempt_counts_for_as_long_as_it_gave_signs_of_life(bench, monkeypatch):
    made = bench.run()
    path = bench.folder() / "attempts.json"
    (bench.folder() / "record.json").unlink()
    started = "2026-01-01T00:00:00+00:00"
    path.write_text(json.dumps([{"started": started, "seconds": 0.0, "ended": "killed"}]))
    os.utime(silent(bench.folder()), (1767225600 + 90,) * 2)
    again = bench.run()
    assert again["result_sha256"] == made["result_sha256"]
    killed, ended = again["provenance"]["attempts"]
    assert (killed["ended"], killed["seconds"], ended["ended"]) == ("killed", 90.0, "ok")
    assert again["provenance"]["seconds"] == pytest.approx(90 + ended["seconds"], abs=1e-3)


@pytest.mark.slow
def test_signal_to_a_sweeps_workers_leaves_checkpoints_and_the_next_start_goes_on(bench, tmp_path):
    """Handlers stand in the workers of joblib too, not only in the process that was started."""
    line = ["-m", *bench.overrides("seed=0,1", "train.epochs=60"), "hydra/launcher=joblib"]
    line += ["hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *line], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for _ in range(3000):
        if len(list(bench.outputs.glob("runs/*/checkpoint.safetensors"))) == 2:
            break
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)  # which hands it on
    _, err = started.communicate(timeout=180)
    assert started.returncode == 130, err
    attempts = [json.loads(p.read_text()) for p in bench.outputs.glob("runs/*/attempts.json")]
    assert [a[-1]["ended"] for a in attempts] == ["interrupted"] * 2
    assert not list(bench.outputs.glob("runs/*/lease.*"))
