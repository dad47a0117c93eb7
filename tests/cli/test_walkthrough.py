"""`llamita walkthrough`: the printed numbers are the tensors', whatever the text."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from llamita.cli.walkthrough import print_walkthrough
from llamita.insight.walkthrough import Walkthrough, toy, walk_through
from llamita.runs.folder import Run
from tests.cli.command_line import llamita

NUMBER = r"-?\d+\.\d{4}"
STRANGE = "\x1b[31mred\x1b[0m [bold]x[/bold] :dog: a\nb\r\t\u202eשלום\u200f <script>"


def printed(walk: Walkthrough, width: int = 80, steps: range = range(1, 7)) -> str:
    # One that would interpret whatever it can.
    console = Console(width=width, color_system=None, highlight=True, markup=True, emoji=True)
    with console.capture() as shown:
        print_walkthrough(walk, console, steps)
    return shown.get()


def vectors_of(text: str) -> list[list[float]]:
    """Every vector in a text; dots at its end stand for the coordinates that are left out."""
    return [
        [float(number) for number in re.findall(NUMBER, row)] for row in re.findall(r"\[( *-?\d+\.\d{4},.*?)\]", text)
    ]


def step(number: int, text: str) -> str:
    """What is printed under the heading of a step."""
    return text.split(f"Step {number}. ")[1].split("\nStep ")[0]


def rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.4f}") for value in values[:8].tolist()]


def test_the_default_text_goes_through_a_model_that_has_learnt_nothing() -> None:
    shown = llamita("walkthrough")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("'I love dogs' through a small model\n")
    assert "nothing has been learnt yet" in shown.out and "--run runs/demo" in shown.out
    assert [line for line in shown.out.splitlines() if line.startswith("Step ")] == [
        "Step 1. Tokenization",
        "Step 2. Embedding matrix",
        "Step 3. Lookup",
        "Step 4. Output tensor",
        "Step 5. What each value is",
        "Step 6. On into the decoder blocks",
    ]


@torch.no_grad()
def test_every_printed_number_is_the_tensors(tiny_run: Run) -> None:
    text = "The river is wide"
    shown = llamita("walkthrough", text, "--run", tiny_run.path, "--dimension", 5).out
    model, tokenizer = tiny_run.model(), tiny_run.tokenizer()
    ids, table = tokenizer.encode(text), model.embeddings.weight
    distinct = list(dict.fromkeys(ids))[:8]
    for line, number in zip(step(1, shown).splitlines()[1:], ids[:12], strict=False):
        assert line.endswith(f"-> {number}")
    assert f"= ({table.shape[0]}, {table.shape[1]})" in step(2, shown).replace("\n", " ")
    rows = re.findall(r"^([> ]) +(\d+): (\[.*?\])  (.*)$", step(2, shown), re.MULTILINE)
    assert [int(number) for _, number, _, _ in rows] == sorted({*range(6), *distinct})
    for mark, number, values, token in rows:
        assert (mark == ">") == (int(number) in distinct)
        assert vectors_of(values) == [rounded(table[int(number)])]
        assert ast.literal_eval(token) == tokenizer.tokens([int(number)])[0]
    looked_up = vectors_of(step(3, shown))
    assert looked_up[::2] == [rounded(table[number]) for number in distinct]
    assert looked_up[1::2] == [rounded(vector) for vector in model.embed(torch.tensor(distinct))]
    vectors = model.embed(torch.tensor(ids))
    positions = [*range(5), -2, -1] if len(ids) > 7 else range(len(ids))
    assert vectors_of(step(4, shown)) == [rounded(vectors[position]) for position in positions]
    assert str(tuple(vectors.shape)) in step(4, shown) and str((1, *vectors.shape)) in step(4, shown)
    own = re.findall(rf" ({NUMBER})", step(5, shown).split("this text:")[1].split("\n")[0])
    assert [float(value) for value in own] == [float(f"{table[number, 5].item():.4f}") for number in distinct]
    logits = model(torch.tensor([ids]))
    assert str(tuple(logits.shape)) in step(6, shown)
    guesses = re.findall(r"^  (0\.\d{4})  '", step(6, shown), re.MULTILINE)
    assert [float(p) for p in guesses] == pytest.approx(logits[0, -1].softmax(0).topk(5).values.tolist(), abs=6e-5)


@torch.no_grad()
def test_the_json_object_holds_the_tensors_exactly(tiny_run: Run) -> None:
    text = "The river is wide"
    told = llamita("walkthrough", text, "--run", tiny_run.path, "--json").json
    model, tokenizer = tiny_run.model(), tiny_run.tokenizer()
    ids, table = tokenizer.encode(text), model.embeddings.weight
    assert (told["text"], told["run"], told["step"]) == (text, str(tiny_run.path), tiny_run.checkpoint("best").step)
    assert told["tokens"] == [{"id": i, "token": t} for i, t in zip(ids, tokenizer.tokens(ids), strict=True)]
    assert (told["vocab_size"], told["n_embd"], told["scale"]) == (*table.shape, model.embeddings.scale)
    for row in told["matrix"]:
        assert row["values"] == table[row["id"]].tolist()
    for found in told["lookup"]:
        assert found["row"] == table[found["id"]].tolist()
        assert found["vector"] == model.embed(torch.tensor(found["id"])[None])[0].tolist()
    vectors = model.embed(torch.tensor(ids))
    assert told["output"]["rows"] == vectors[told["output"]["positions"]].tolist()
    assert (told["output"]["shape"], told["output"]["batch_shape"]) == ([*vectors.shape], [1, *vectors.shape])
    best = model(torch.tensor([ids]))[0, -1].softmax(0).topk(5)
    assert [guess["id"] for guess in told["next_tokens"]] == best.indices.tolist()
    assert [guess["probability"] for guess in told["next_tokens"]] == pytest.approx(best.values.tolist(), rel=1e-5)
    assert told["blocks"][0]["rms"] == pytest.approx(vectors.square().mean().sqrt().item(), rel=1e-5)


def test_the_checkpoint_that_is_asked_for_is_the_one_that_is_shown(tiny_run: Run) -> None:
    command = ("walkthrough", "The", "--run", tiny_run.path, "--json", "--checkpoint")
    first, last = llamita(*command, 4).json, llamita(*command, "latest").json
    assert (first["step"], last["step"]) == (4, 8)
    assert last["lookup"][0]["row"] == tiny_run.model("latest").embeddings.weight[last["lookup"][0]["id"]].tolist()
    assert first["lookup"] != last["lookup"]
    untrained = llamita(*command, "initial").json
    assert (untrained["step"], untrained["run"]) == (0, str(tiny_run.path))
    assert "nothing has been learnt yet" in llamita(*command[:-2], "--checkpoint", "initial").out


def test_only_the_steps_that_are_asked_for_are_printed() -> None:
    walk = walk_through(*toy("I love dogs"), "I love dogs", step=0)
    whole, parts = printed(walk), [printed(walk, steps=steps) for steps in (range(1, 5), range(5, 7))]
    head = whole.split("\nStep 1.")[0]
    assert all(part.startswith(head) for part in parts)
    assert head + "".join(part.removeprefix(head) for part in parts) == whole


def test_a_page_is_written_beside_what_is_printed(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "page.html"
    shown = llamita("walkthrough", "I love dogs", "--html", file)
    assert (
        shown.out == llamita("walkthrough", "I love dogs").out + f"{file}: the same as a page; open it in a browser\n"
    )
    page = file.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    told = llamita("walkthrough", "I love dogs", "--html", file, "--json")
    assert told.json["tokens"] and str(file) in told.err
    assert file.read_text(encoding="utf-8") == page
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--dimension", 8), 2, "--dimension 8: n_embd is 8, so choose 0 to 7"),
        (("--dimension", -1), 2, "--dimension -1: n_embd is 8"),
        (("--checkpoint", "latest"), 2, "--checkpoint latest: without a run there are none; add --run"),
        (("--run", "nowhere"), 1, "nowhere: no run here"),
        (("--html", "."), 1, "--html .: that is a folder; give a file"),
        (("--text", "a\udcffb"), 1, "U+DCFF, a lone surrogate"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[object, ...], code: int, named: str) -> None:
    shown = llamita("walkthrough", *arguments)
    assert (shown.code, shown.out) == (code, "")
    assert named in shown.err and "Traceback" not in shown.err


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shown = llamita("walkthrough", "--html", tmp_path / "file" / "page.html")
    assert shown.code == 1 and f"--html {tmp_path / 'file' / 'page.html'}: can't be written" in shown.err


def test_an_unknown_checkpoint_of_a_run_is_named(tiny_run: Run) -> None:
    shown = llamita("walkthrough", "--run", tiny_run.path, "--checkpoint", 5)
    assert shown.code == 2 and "--checkpoint 5" in shown.err


@pytest.mark.parametrize("text", ["--json", "-x", "[1, 2]", "", "   ", "none"])
def test_a_text_is_taken_as_it_is(text: str) -> None:
    assert llamita("walkthrough", "--json", "--", text).json["text"] == text


def test_control_characters_and_markup_are_printed_as_characters() -> None:
    shown = llamita("walkthrough", STRANGE).out
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert all(part in shown for part in (r"\x1b", r"\n", r"\r\t\u202e", "[bold]", ":dog:", "<script>"))
    assert shown.count("\n") == len(shown.splitlines())


def test_no_console_interprets_a_text() -> None:
    shown = printed(walk_through(*toy(STRANGE), STRANGE, step=0), width=20)
    assert "[bold]x[/bold] :dog:" in shown
    assert "\x1b" not in shown


def test_tokens_of_either_width_are_aligned() -> None:
    lines = step(1, llamita("walkthrough", "犬 dogs 🐶").out).splitlines()[1:4]
    assert len({len(line.split(" -> ")[0]) + sum(c in "犬🐶" for c in line) for line in lines}) == 1


@settings(deadline=None, max_examples=5)
@given(st.text(max_size=50))
def test_any_text_is_printed_line_by_line(text: str) -> None:
    shown = printed(walk_through(*toy(text), text, step=0))
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert shown.count("\nStep ") == 6
    assert str((1, len(toy(text)[1].encode(text)), 8)) in shown


def test_what_is_long_is_cut_and_counted() -> None:
    shown = llamita("walkthrough", "🐶" * 10_000).out
    assert len(shown) < 15_000
    for said in ("... 9,988 more", "10,000 in all", "... 9,993 rows", "(1, 10000, 8)", "the last 256 of 10,000"):
        assert said in shown
    word = llamita("walkthrough", "b" * 50_000).out
    assert "b" * 32 + "'..." in word and "b" * 201 not in word


def test_words_that_the_run_does_not_know_are_named() -> None:
    walk = walk_through(*toy("I love dogs"), "I love zeppelins", run="word", step=3)
    shown = printed(walk)
    assert "Not in the vocabulary: 'zeppelins'" in shown
    assert shown.startswith("'I love zeppelins' through word, step 3\n")
    assert "learnt" not in shown.split("Step 1.")[0]


def test_an_untrained_run_says_that_its_blocks_add_nothing(tiny_run: Run) -> None:
    model, tokenizer = tiny_run.model(), tiny_run.tokenizer()
    model.init_weights(torch.Generator().manual_seed(0))
    shown = printed(walk_through(model, tokenizer, "The river", run="runs/new", step=0), width=300)
    assert "nothing has been learnt yet" in shown and "--run runs/demo" not in shown
    assert shown.count("adds nothing: its last projection is zero") == 4


def test_blocks_between_the_first_and_the_last_take_a_line_each() -> None:
    walk = walk_through(*toy("I love dogs"), "I love dogs", step=0)
    assert printed(walk, 300).count("block 2 ") == 9
    shown = printed(with_a_third_block(walk), 300)
    assert shown.count("block 2 ") == 1 and shown.count("block 3 ") == 9
    stream = next(stage.stream_rms for stage in walk.blocks if (stage.block, stage.stage) == (2, "feed_forward"))
    assert f"RMS {stream:7.4f}  the stream after it" in shown


def with_a_third_block(walk: Walkthrough) -> Walkthrough:
    third = tuple(replace(stage, block=3) for stage in walk.blocks if stage.block == 2)
    return replace(walk, blocks=(*walk.blocks[:-2], *third, *walk.blocks[-2:]))


def test_an_empty_text_without_bos_goes_no_further_than_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = toy("")
    monkeypatch.setattr(tokenizer, "bos_id", None)
    assert "no BOS to start from" in printed(walk_through(model, tokenizer, "", step=0))
