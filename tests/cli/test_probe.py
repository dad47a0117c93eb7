from pathlib import Path

from llamita.runs.folder import Run
from tests.cli.command_line import llamita


def test_lists_and_analogies_of_ones_own_are_measured(tiny_run: Run, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(": small words\nthe a\nand he\nin to\n: others\nthe zebra and quagga\n")
    (tmp_path / "one.txt").write_text("the\nand\nin\nwas\nit\n")
    (tmp_path / "two.txt").write_text("a\nhe\nto\nsaid\non\n")
    lists = ("--lists", tmp_path / "one.txt", tmp_path / "two.txt")
    found = llamita("probe", tiny_run.path, "--analogies", tmp_path / "pairs.txt", *lists, "--json").json
    assert found["analogies"]["small words"]["questions"] == 6
    assert found["analogies"]["others (several tokens)"]["questions"] == 1
    probe = found["probes"]["one / two"]
    assert (
        probe["words"] == 10
        and probe["several"] == 0
        and probe["majority"] == 0.5
        and set(probe["spaces"]) == {"layer 1", "layer 2"}
    )
    shown = llamita("probe", tiny_run.path, "--analogies", tmp_path / "pairs.txt", *lists)
    for text in ("small words", "PPMI+SVD", "layer 2", "one / two", "control"):
        assert text in shown.out


def test_words_of_several_tokens_are_counted(tiny_run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("the\nand\nin\nwas\nzebra\n")
    (tmp_path / "b").write_text("a\nhe\nto\nsaid\non\n")
    shown = llamita("probe", tiny_run.path, "--lists", tmp_path / "a", tmp_path / "b")
    assert shown.code == 0 and "a / b: 1 of 10 words take several tokens" in shown.out and "layer" not in shown.out


def test_without_its_text_a_run_is_measured_all_the_same(copied_run: Run, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("the a\nand he\n")
    (copied_run.data_folder / "index.json").unlink()
    shown = llamita("probe", copied_run.path, "--analogies", tmp_path / "pairs.txt")
    assert shown.code == 0 and "neither layers nor PPMI+SVD" in shown.out and shown.out.splitlines()[3].endswith(" -")


def test_what_is_wrong_is_told(tiny_run: Run, tmp_path: Path) -> None:
    refused = llamita("probe", tiny_run.path)
    assert refused.code == 2 and "bring words by --analogies FILE or --lists A B" in refused.err
    for name in ("a", "b"):
        (tmp_path / name).write_text("the\nand\nhe\n")
    twice = llamita("probe", tiny_run.path, "--lists", tmp_path / "a", tmp_path / "b")
    assert twice.code == 1 and "'and' is in both" in twice.err
    (tmp_path / "one").write_text("the a\n")
    nothing = llamita("probe", tiny_run.path, "--analogies", tmp_path / "one")
    assert nothing.code == 1 and "give at least two pairs a family" in nothing.err
