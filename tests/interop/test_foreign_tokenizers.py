"""The tokenizer of a folder is found in whichever form it comes, with the tokens that the folder adds to it."""

import json
import random
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llamita.errors import UserError
from llamita.interop.foreign_tokenizers import tokenizer_of
from llamita.interop.tiktoken_file import llama3_special_tokens
from llamita.runs.folder import Run
from llamita.text.byte_level import token_bytes
from llamita.text.tokenizer import Tokenizer
from tests.cli.command_line import llamita
from tests.interop.sentencepiece_models import DECODED, ENCODED, NORMAL, SPACE, TEXT, cornered, field, written

LETTERS = "abcdefghijklmnopqrstuvwxyz.,"
PIECES = [SPACE, *LETTERS, "th", f"{SPACE}th", f"{SPACE}the", "in", "an", f"{SPACE}a"]
SIZE = 259 + len(PIECES)


@pytest.fixture
def sentencepiece_folder(tmp_path: Path) -> Path:
    """A folder with nothing but a tokenizer.model, made without sentencepiece."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    content = written((text, -float(at), NORMAL) for at, text in enumerate(PIECES))
    (folder / "tokenizer.model").write_bytes(content)
    return folder


@pytest.fixture
def tiktoken_folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer.model of tiktoken's kind, as Llama 3 comes from Meta."""
    vocab = json.loads(Tokenizer.train(TEXT, vocab_size=400).to_json())["model"]["vocab"]
    folder = tmp_path / "theirs"
    folder.mkdir()
    lines = (f"{b64encode(token_bytes(token)).decode()} {number}\n" for token, number in vocab.items())
    (folder / "tokenizer.model").write_text("".join(lines))
    return folder


def tell(folder: Path, **told: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def names(tokenizer: Tokenizer, *ids: int) -> list[str | None]:
    return [tokenizer.id_to_token(number) for number in ids]


def test_a_tokenizer_json_wins(sentencepiece_folder: Path) -> None:
    own = Tokenizer.train(TEXT, vocab_size=320)
    own.save(sentencepiece_folder / "tokenizer.json")
    assert tokenizer_of(sentencepiece_folder, 320).fingerprint == own.fingerprint


def test_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer.json: isn't there, nor tokenizer.model or a \*.tiktoken"):
        tokenizer_of(tmp_path, 1000)
    for name in ("a.tiktoken", "b.tiktoken"):
        (tmp_path / name).write_text("IQ== 0\n")
    with pytest.raises(UserError, match=r"isn't there, and 2 \*.tiktoken are"):
        tokenizer_of(tmp_path, 1000)


def test_special_tokens_of_llama_3_follow_those_of_the_file(tiktoken_folder: Path) -> None:
    tokenizer = tokenizer_of(tiktoken_folder, 4096)
    size = tokenizer.get_vocab_size() - 256
    assert tokenizer.special_ids == set(range(size, size + 256))
    assert names(tokenizer, *range(size, size + 256)) == llama3_special_tokens()
    assert (tokenizer.bos_id, tokenizer.eos_id) == (size, size + 1)
    text = "<|eot_id|> the end<|end_of_text|>"
    ids = tokenizer.encode(text)
    assert max(ids) < size and tokenizer.decode(ids) == text
    with pytest.raises(UserError, match=f"added token .* has id {size + 200}"):
        tokenizer_of(tiktoken_folder, size + 200)


def test_special_tokens_that_the_folder_names_are_taken(tiktoken_folder: Path) -> None:
    size = tokenizer_of(tiktoken_folder, 4096).get_vocab_size() - 256
    added = {0: "<|begin_of_text|>", 4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>"}
    decoder = {str(size + at): {"content": name, "special": True} for at, name in added.items()}
    tell(tiktoken_folder, added_tokens_decoder=decoder, eos_token="<|eot_id|>", tokenizer_class="PreTrainedTokenizer")
    tokenizer = tokenizer_of(tiktoken_folder, 4096)
    assert names(tokenizer, size, size + 4, size + 9) == [added[0], added[4], added[9]]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (size, size + 9)
    assert tokenizer.get_vocab_size() == size + 10 and tokenizer.reserved == 6


def test_a_file_of_another_family_is_refused(tiktoken_folder: Path) -> None:
    tell(tiktoken_folder, tokenizer_class="QWenTokenizer")
    with pytest.raises(UserError, match="tokenizer_class is 'QWenTokenizer', and where it splits text isn't known"):
        tokenizer_of(tiktoken_folder, 4096)


def test_tokens_added_to_a_sentencepiece_model_are_special(sentencepiece_folder: Path) -> None:
    (sentencepiece_folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": SIZE + 1, "<pad>": SIZE}))
    tell(sentencepiece_folder, added_tokens_decoder={"1": {"content": "<s>"}}, eos_token="<|im_end|>")
    tokenizer = tokenizer_of(sentencepiece_folder, SIZE + 5)
    assert names(tokenizer, SIZE, SIZE + 1) == ["<pad>", "<|im_end|>"]
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, SIZE + 1)
    text = "the <|im_end|> <pad>"
    assert tokenizer.decode(tokenizer.encode(text)) == text and max(tokenizer.encode(text)) < SIZE


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("added_tokens.json", {"<pad>": SIZE + 100}, f"'<pad>' has id {SIZE + 100}"),
        ("added_tokens.json", {"<pad>": -1}, "'<pad>' has id -1; it must be"),
        ("added_tokens.json", {"<pad>": 1 << 70}, "which doesn't fit"),
        ("added_tokens.json", {"<pad>": True}, "'<pad>' has id True"),
        ("added_tokens.json", {"<pad>": 7}, "'<pad>' has id 7, which doesn't fit"),
        ("added_tokens.json", {"th": SIZE}, "'th' has id"),
        ("added_tokens.json", ["<pad>"], "added_tokens.json: must hold one object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<pad>"}}}, "'<pad>' has id 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": []}}}, "must be a name and a number"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "must be a name and a number"),
        ("added_tokens.json", {f"<|reserved_{SIZE + 1}|>": SIZE, "<|end|>": SIZE + 2}, "'<|end|>' can't have id"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {str(SIZE): {"content": "x!"}, str(SIZE + 1): {"content": "x!"}}},
            "two added tokens have one name",
        ),
    ],
)
def test_added_tokens_that_do_not_fit_are_refused(
    file: str, content: Any, told: str, sentencepiece_folder: Path
) -> None:
    (sentencepiece_folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(told)) as refused:
        tokenizer_of(sentencepiece_folder, SIZE + 50)
    assert str(sentencepiece_folder) in str(refused.value)


def test_text_and_ids_of_a_sentencepiece_model_become_each_other_as_there(tmp_path: Path) -> None:
    def ours(options: tuple[bool, bool, bool]) -> Tokenizer:
        (tmp_path / "tokenizer.model").write_bytes(cornered(options))
        return tokenizer_of(tmp_path, 300)

    for options, text, tokens in ENCODED:
        assert ours(options).tokens(ours(options).encode(text)) == tokens
    for options, tokens, text in DECODED:
        tokenizer = ours(options)
        ids = [tokenizer.token_to_id(token) or 0 for token in tokens]
        assert (tokenizer.tokens(ids), tokenizer.decode(ids)) == (tokens, text)


def test_a_damaged_file_and_one_of_another_model_are_refused_by_name(sentencepiece_folder: Path) -> None:
    file = sentencepiece_folder / "tokenizer.model"
    with pytest.raises(UserError, match=rf"config.json: vocab_size is 100, and {file} has {SIZE} tokens"):
        tokenizer_of(sentencepiece_folder, 100)
    content = file.read_bytes()
    shown_at_length = content + field(2, field(44, "?" * 10_000))
    for harmed in (b"", shown_at_length, content[:-5], b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 100):
        file.write_bytes(harmed)
        with pytest.raises(UserError, match=f"{file}: can't be read as a model of sentencepiece or a file of tiktoken"):
            tokenizer_of(sentencepiece_folder, SIZE)


def model(folder: Path, vocab_size: int) -> None:
    """A tiny Llama with random weights."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=vocab_size, **shape)).save_pretrained(
        folder
    )


def test_an_import_generates_measures_trains_on_and_goes_out(
    sentencepiece_folder: Path, tiny_text: Path, tmp_path: Path
) -> None:
    model(sentencepiece_folder, SIZE + 3)
    run, on = tmp_path / "run", tmp_path / "on"
    told = llamita("import", "hf", sentencepiece_folder, run, "--json").json
    assert told["vocab_size"] == SIZE + 3
    assert Run.open(run).config().model.unpredicted_rows == 3
    found = llamita("generate", run, "the inn", "--max-new-tokens", 20, "--json").json
    assert len(found["token_ids"]) > 0
    streamed = llamita("generate", run, "the inn", "--max-new-tokens", 20)
    assert streamed.code == 0 and streamed.out.startswith("the inn")
    made = llamita("train", tiny_text, "--from", run, "--run", on, "--training.steps", 2, "--device", "cpu")
    assert made.code == 0, made.err
    tokenizer = Run.open(on).tokenizer()
    assert tokenizer.fingerprint == Run.open(run).tokenizer().fingerprint
    assert llamita("eval", on, tiny_text).code == 0
    assert llamita("export", "hf", on, tmp_path / "out").code == 0
    theirs, draw = AutoTokenizer.from_pretrained(tmp_path / "out"), random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices([*"ab the in \n犬", "  ", "<s>"], k=12))
        assert theirs(text, split_special_tokens=True).input_ids == [1, *tokenizer.encode(text)]


def test_an_import_with_a_tiktoken_file_goes_out_as_it_is(tiktoken_folder: Path, tmp_path: Path) -> None:
    size = tokenizer_of(tiktoken_folder, 4096).get_vocab_size()
    model(tiktoken_folder, size)
    assert llamita("import", "hf", tiktoken_folder, tmp_path / "run").code == 0
    assert llamita("export", "hf", tmp_path / "run", tmp_path / "out").code == 0
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "out"), Run.open(tmp_path / "run").tokenizer()
    assert theirs("the end 犬").input_ids == [ours.bos_id, *ours.encode("the end 犬")]
