"""`generate`: what a run's model says."""

from llamita.runs.folder import Run
from tests.cli.command_line import llamita


def test_greedy_text_is_what_its_tokens_decode_to(tiny_run: Run) -> None:
    prompt = "The river"
    command = ("generate", tiny_run.path, prompt, "--greedy", "--max-new-tokens", 12, "--json")
    made = llamita(*command).json
    assert made.keys() == {"prompt", "text", "token_ids", "finish_reason", "samples"}
    assert (made["prompt"], len(made["token_ids"]), made["finish_reason"]) == (prompt, 12, "length")
    tokenizer = tiny_run.tokenizer()
    assert tokenizer.decode(tokenizer.encode(prompt) + made["token_ids"]) == prompt + made["text"]
    assert llamita(*command).json == made
    assert llamita(*command, "--temperature", 5, "--seed", 3).json == made
    assert llamita(*command[:-2], 12).out == prompt + made["text"] + "\n"


def test_the_greedy_token_is_the_likeliest(tiny_run: Run) -> None:
    made = llamita("generate", tiny_run.path, "The", "--greedy", "--max-new-tokens", 1, "--json", "--device", "cpu")
    evaluated = llamita("generate", tiny_run.path, "The", "--top-k", 1, "--max-new-tokens", 1, "--json")
    assert made.json["token_ids"] == evaluated.json["token_ids"]


def test_generation_on_a_cpu_is_in_fp32_unless_asked(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--device", "cpu", "--max-new-tokens", 20, "--json")
    assert llamita(*command).json == llamita(*command, "--precision", "fp32").json
    assert llamita(*command, "--precision", "bf16").code == 0


def test_the_seed_decides_what_is_drawn(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--max-new-tokens", 20, "--json", "--device", "cpu")
    assert llamita(*command, "--seed", 1).json == llamita(*command, "--seed", 1).json
    assert llamita(*command, "--seed", 1).json["text"] != llamita(*command, "--seed", 2).json["text"]


def test_several_samples_begin_with_the_one(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--max-new-tokens", 8, "--json")
    one, three = llamita(*command).json, llamita(*command, "--samples", 3).json
    assert [sample["token_ids"] for sample in three["samples"]][0] == one["token_ids"] == three["token_ids"]
    assert len(three["samples"]) == 3
    shown = llamita(*command[:-1], "--samples", 3).out
    assert all(f"--- {number}\nThe" in shown for number in (1, 2, 3))


def test_a_text_ends_before_a_stop_string(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--greedy", "--max-new-tokens", 20, "--json")
    whole = llamita(*command).json["text"]
    stop = whole[5]
    made = llamita(*command, "--stop", stop).json
    assert (made["text"], made["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_the_best_weights_speak_unless_others_are_asked_for(tiny_run: Run) -> None:
    command = ("generate", tiny_run.path, "The", "--greedy", "--max-new-tokens", 16, "--json", "--checkpoint")
    best = tiny_run.checkpoint("best").step
    assert llamita(*command[:-1]).json == llamita(*command, "best").json == llamita(*command, best).json
    assert llamita(*command, "latest").json == llamita(*command, 8).json


def test_an_empty_prompt_begins_a_new_text(tiny_run: Run) -> None:
    made = llamita("generate", tiny_run.path, "--max-new-tokens", 5)
    assert made.code == 0
    assert made.out.endswith("\n")


def test_generating_writes_nothing_into_the_run(tiny_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    assert llamita("generate", tiny_run.path, "The", "--max-new-tokens", 2).code == 0
    assert {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")} == before
