import importlib.metadata
import subprocess
import sys

import pytest

from t5ray.__main__ import COMMANDS, main


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr("sys.argv", ["t5ray", *argv])
    return main()


def test_python_m_t5ray_lists_the_five_commands() -> None:
    found = subprocess.run([sys.executable, "-m", "t5ray"], check=True, capture_output=True, text=True)
    lines = found.stdout.splitlines()
    assert "Usage: t5ray COMMAND [OPTIONS]" in lines
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        "tune",
        "train",
        "predict",
        "evaluate",
        "doctor",
    ]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_same_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert run(monkeypatch) == 0
    bare = capsys.readouterr().out
    assert run(monkeypatch, flag) == 0
    assert capsys.readouterr().out == bare


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert run(monkeypatch, flag) == 0
    assert capsys.readouterr().out == f"t5ray {importlib.metadata.version('t5ray')}\n"


def test_an_unknown_command_gets_the_list_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "tuen", "--data", "a.csv") == 2
    shown = capsys.readouterr()
    assert "There is no command 'tuen'. Did you mean `tune`?" in shown.err
    assert "  tune " in shown.out


def test_a_command_that_is_near_none_gets_no_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "xyzzy") == 2
    assert capsys.readouterr().err == "\nThere is no command 'xyzzy'.\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gets_its_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert f"python -m t5ray.{command} [OPTIONS]" in capsys.readouterr().out


def test_a_commands_exit_code_is_handed_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "predict", "--model", "m") == 2
    assert "input: must be given (--input)." in capsys.readouterr().err


def test_the_command_to_go_on_with_does_not_name_the_command_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from t5ray import cli, terminal, tune

    def interrupted(*_: object, **__: object) -> int:
        terminal.say(cli.again("tune", resume=True))
        return 130

    monkeypatch.setattr(tune, "_tune", interrupted)
    assert run(monkeypatch, "tune", "--name", "x") == 130
    assert capsys.readouterr().out == "python -m t5ray.tune --name x --resume\n"
