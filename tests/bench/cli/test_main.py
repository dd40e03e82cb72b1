"""`craft`: its commands, what each says of itself, and what a shell is offered."""

import os
import subprocess
import sys
from argparse import SUPPRESS

import pytest
from tiny_bench import CONFIGS, ROOT

from craft.bench.cli import train
from craft.bench.cli.main import COMMANDS, main, parser, run
from craft.bench.settings.sections import DECLARED
from craft.errors import InputError


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_does_by_an_example_and_what_each_setting_is_for(command):
    made = parser(command, f"craft {command}")
    assert f"craft {command}" in str(made.description).split("\n\n", 1)[1]
    for action in made._actions:
        assert action.help, f"{action.dest} has no help"
    assert made.format_help()


def test_train_names_every_choice_and_every_setting_that_has_a_help():
    shown = parser("train", "craft train").format_help()
    for group in train.GROUPS:
        for path in (CONFIGS / group).glob("*.yaml"):
            assert path.stem in shown
    for key, declared in DECLARED.items():
        if key.startswith("train.") and declared.help:
            assert f"{key}=" in shown and declared.help in shown
    assert any(a.help == SUPPRESS for a in parser("train", "craft train")._actions)


def test_without_a_command_all_are_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["craft", "--help"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in COMMANDS)


def test_an_unknown_command_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["craft", "trian"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: 'trian' is not one of train, reproduce, ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "stat"], "action 'stat' is not one of status, cancel"),
        (["speed", "nope"], "'nope' is not one of trainer, methods"),
        (["speed", "rows=0"], "rows: '0' is not a whole number of at least 1"),
        (["promote"], "arguments are required: RUN"),
        (["doctor", "suit=mini"], "'suit=mini' is not one of suite="),
        (["report", "--chek"], "'--chek' is not one of records=, out=, models=, --check"),
    ],
)
def test_a_mistake_names_what_is_allowed(words, message):
    command, *rest = words
    with pytest.raises(InputError, match=message):
        run(command, f"craft {command}", rest)


def test_settings_and_choices_of_a_run_are_offered():
    assert {"train.lr=", "model=", "hydra/launcher="} <= set(train.completions("tr"))
    assert train.completions("logger=") == ["logger=none", "logger=wandb"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("craft repr", {"reproduce"}),
        ("craft train data=", {"hub", "local", "mini"}),
    ],
)
def test_a_shell_is_offered_commands_settings_and_choices(line, offered, tmp_path):
    """As argcomplete's function in bash asks for them, and reads the answer from descriptor 8."""
    answer = tmp_path / "answer"
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9", "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
    }  # fmt: skip
    command = f'"{sys.executable}" -m craft.bench 8>"{answer}" 9>/dev/null'
    subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=True)
    assert set(answer.read_text().splitlines()) == offered
