"""The command: its help, its exit codes, its doors, and what it says of a missing extra."""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import trnet
from trnet import cli

ROOT = Path(__file__).parent.parent.parent
DOORS = {
    "compress": "compress",
    "evaluate": "evaluate",
    "export": "export",
    "plot_rank_accuracy": "plot",
    "prepare_imagenet": "prepare",
    "report": "report",
    "reproduce": "reproduce",
    "tabulate": "tabulate",
    "train": "train",
    "tune": "tune",
}


def ended(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that exits."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return stopped.value.code, *capsys.readouterr()


@pytest.fixture
def noted(monkeypatch) -> list:
    """Options of the commands that were run; nothing else is done."""
    options = []
    for command in cli.COMMANDS.values():
        monkeypatch.setattr(command, "run", options.append)
    return options


def test_help_lists_every_command_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = ended(capsys, "--help")
    lines = out.splitlines()
    for name, module in cli.COMMANDS.items():
        (line,) = (line for line in lines if line.startswith(f"    {name} "))
        assert line.split(maxsplit=1)[1].lower() in module.__doc__.partition("\n")[0].lower()
    assert code == 0 and err == ""


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_describes_it_and_shows_examples(name, capsys, noted):
    code, out, err = ended(capsys, name, "--help")
    description, _, examples = out.partition("\nexamples:\n")
    assert code == 0 and err == ""
    assert cli.COMMANDS[name].__doc__.strip() in description
    assert len(examples.splitlines()) >= 2
    for line in examples.splitlines():  # each is a command that parses
        words = shlex.split(line, comments=True)
        words = words[words.index("trnet") + 1 :]
        cli.main(words[: words.index(">")] if ">" in words else words)
        assert noted.pop().command == name == words[0]


def test_help_and_version_are_instant(run_python):
    """They import nothing but Python's own, so they work without any extra and do not wait."""
    run_python(
        """
        import sys
        from trnet import cli
        for arguments in (["--version"], ["--help"], *([name, "-h"] for name in cli.COMMANDS)):
            try:
                cli.main(arguments)
            except SystemExit as stopped:
                assert stopped.code == 0
        assert not {"mxnet", "numpy", "pydantic", "tabulate", "tqdm"} & set(sys.modules)
        """
    )


def test_version(capsys):
    assert ended(capsys, "--version") == (0, f"trnet {trnet.__version__}\n", "")


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "trnet", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == f"trnet {trnet.__version__}\n"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: config"),
        (["tabulate", "configs/mnist", "--format", "html"], "invalid choice: 'html'"),
        (["tabulate", "configs/mnist", "--colour"], "unrecognized arguments: --colour"),
        (["tune", "configs/mnist", "--jobs", "none"], "--jobs: expected an integer ≥ 1, got none"),
        (["reproduce", "configs/mnist", "--seeds", "1,1"], "expected distinct integers ≥ 0"),
        (["plot", "no/suite"], "no/suite"),
        (["report", "--results", "no/results"], "no/results: expected published.yaml"),
        (["evaluate", "a.onnx", "--checkpoint", "best"], "a.onnx: expected no --checkpoint"),
        (["evaluate", "a.onnx", "--devices", "cpu:1"], "and no --devices but cpu"),
        (["export", "run", "--output", "digits"], "--output: expected a name that ends in .onnx"),
        (["prepare", "glyphs", "out", "--resize", "9"], "expected none for glyphs"),
        (["prepare", "glyphs", "out", "--quality", "95"], "expected none for glyphs"),
        (["prepare", "--check", "out", "source"], "--check: expected no source"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said, capsys):
    code, out, err = ended(capsys, *arguments)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "error, code, said",
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command resumes"),
        (FileNotFoundError(2, "No such file or directory", "a.yaml"), 2, "error: a.yaml: No such"),
    ],
)
def test_what_else_ends_a_command(error, code, said, capsys, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr(cli.COMMANDS["report"], "run", fail)
    ended_with, _, err = ended(capsys, "report")
    assert ended_with == code and err.startswith(said) and err.count("\n") == 1


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(options):
        import a_module_that_no_extra_brings  # noqa: F401

    monkeypatch.setattr(cli.COMMANDS["report"], "run", fail)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_no_extra_brings"):
        cli.main(["report"])


def test_another_python_is_named_first(capsys, monkeypatch):
    monkeypatch.setattr(cli, "sys", SimpleNamespace(**{**vars(sys), "version_info": (3, 12, 1)}))
    code, _, err = ended(capsys, "train", "config.yaml")
    assert code == 2 and err.startswith("error: trnet needs Python 3.9, 3.10 or 3.11")


def test_every_script_is_a_door():
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/*.py")}
    assert scripts.keys() == DOORS.keys() and set(DOORS.values()) == cli.COMMANDS.keys()
    for text in scripts.values():
        assert text.startswith("#!/usr/bin/env python\n") and len(text.splitlines()) <= 7


@pytest.mark.parametrize("script", DOORS)
def test_a_door_leads_to_the_command(script, noted, monkeypatch):
    example = shlex.split(cli.COMMANDS[DOORS[script]].EXAMPLES.strip().splitlines()[0])
    path = ROOT / f"scripts/{script}.py"
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    monkeypatch.setattr(sys, "argv", [str(path), *example[2:]])
    runpy.run_path(str(path), run_name="__main__")
    (options,) = noted
    assert options.command == DOORS[script] == example[1]
    assert str(path.parent) not in sys.path  # where tabulate.py hides the package tabulate


def test_the_working_directory_is_searched_last(noted, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["first"])
    cli.main(["report"])
    cli.main(["report"])
    assert sys.path == ["first", str(tmp_path)]


def test_completion(tmp_path):
    """As a shell asks for it: the words that may follow `trnet tabulate --form`."""
    line = "trnet tabulate --form"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"),
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run(
        [sys.executable, "-m", "trnet"], env={**os.environ, **asked}, check=True, text=True
    )
    assert (tmp_path / "words").read_text() == "--format"


def test_a_report_of_a_suite_needs_nothing_published(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["report", str(ROOT / "configs/mnist"), "--results", "mine"])
    assert capsys.readouterr().out == "Written to mine/mnist/\n"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mnist"]


def test_a_report_writes_the_claims_and_the_picture(results, tmp_path, capsys):
    mine = shutil.copytree(results, tmp_path / "results")
    written = (mine / "claims.md").read_bytes()
    (mine / "claims.md").unlink()
    places = ["--configs", str(ROOT / "configs"), "--runs", str(tmp_path), "--results", str(mine)]
    cli.main(["report", *places])
    assert (mine / "claims.md").read_bytes() == written
    assert (mine / "savings.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("Written to ") == 2


def test_a_plot_goes_where_it_is_asked_for(results, tmp_path):
    path = tmp_path / "plots/rank.svg"
    suite = str(ROOT / "configs/mnist")
    places = ["--runs", str(tmp_path), "--results", str(results)]
    cli.main(["plot", suite, *places, "--output", str(path)])
    assert "mnist: Top-1 by the head" in path.read_text()


def test_formats_are_those_of_the_tables():
    from trnet.report.table import FORMATS

    parser = cli.make_parser()
    assert [parser.parse_args(["tabulate", "suite", "--format", f]).format for f in FORMATS] == [
        *FORMATS
    ]


def test_kvstores_are_those_that_train():
    from trnet.training.distributed import KVSTORES

    parser = cli.make_parser()
    for kvstore in KVSTORES:
        assert parser.parse_args(["train", "c.yaml", "--kvstore", kvstore]).kvstore == kvstore


def test_published_numbers_that_are_elsewhere_are_named(results, tmp_path, monkeypatch, capsys):
    """From another folder, without a word, they would be missing."""
    monkeypatch.chdir(tmp_path)
    cli.main(["tabulate", str(ROOT / "configs/imagenet")])
    out, err = capsys.readouterr()
    assert "publ." not in out
    assert err == (
        "note: results has no published.yaml, so nothing is shown as published; "
        f"--results {ROOT / 'results'} has one\n"
    )
    cli.main(["tabulate", str(ROOT / "configs/imagenet"), "--results", str(results)])
    out, err = capsys.readouterr()
    assert "publ." in out and err == ""
