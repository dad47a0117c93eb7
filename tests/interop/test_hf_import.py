"""What is imported is the same model and tokenizer, to the last bit and back; what can't be is refused by its field."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llamita.errors import UserError
from llamita.generation.engine import end_ids, generate
from llamita.generation.likelihood import encode_pair
from llamita.generation.sampling import Sampling
from llamita.interop import hf_import
from llamita.interop.hf_export import export_hf
from llamita.interop.hf_generation import silent_rows
from llamita.interop.hf_import import import_hf, model_config_of
from llamita.runs.folder import Run
from llamita.text.tokenizer import Tokenizer
from llamita.training.plan import count_parameters
from tests.cli.command_line import llamita
from tests.model.tiny import random_tokens

# config.json of published models, with the number of parameters that they are known to have.
CONFIGS = Path(__file__).parents[1] / "data" / "configs"
PUBLISHED = {
    "llama-7b": 6_738_415_616,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen3-0.6b": 596_049_920,
}


def published(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return found


def shrunk(name: str) -> dict[str, Any]:
    """A published config whose weights take kilobytes."""
    given = published(name)
    heads, groups = given["num_attention_heads"], given.get("num_key_value_heads", given["num_attention_heads"])
    heads, groups = (2 * heads // groups, 2) if "num_key_value_heads" in given else (4, 4)
    small: dict[str, Any] = {
        **{"vocab_size": 384, "hidden_size": 16 * heads, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": heads, "num_key_value_heads": groups},
        "head_dim": 32 if name == "qwen3-0.6b" else 16,
    }
    said = {key: value for key, value in small.items() if key in given}
    return {
        **given,
        **said,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": "bfloat16",
    }


def theta_of(config: Any) -> float:
    """Where transformers 5 puts it, or 4."""
    new = getattr(config, "rope_parameters", None)
    return float(config.rope_theta if new is None else new["rope_theta"])


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_a_published_config_is_read_as_the_model_that_it_describes(name: str, parameters: int) -> None:
    config = model_config_of(published(name), CONFIGS / f"{name}.json")
    assert sum(count_parameters(config).values()) == parameters
    theirs = AutoConfig.for_model(**published(name))
    assert config.rope_theta == theta_of(theirs)
    assert (config.max_seq_len, config.norm_eps) == (theirs.max_position_embeddings, theirs.rms_norm_eps)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_what_a_config_does_not_say_is_what_transformers_takes(kind: str, tmp_path: Path) -> None:
    said = {"hidden_size": 4096, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 32}
    theirs = AutoConfig.for_model(kind, **said, vocab_size=384)
    file = tmp_path / "config.json"
    if kind == "mistral":
        with pytest.raises(UserError, match="sliding_window is 4096"):
            model_config_of({"model_type": kind, "vocab_size": 384, **said}, file)
        said |= {"sliding_window": None}
    config = model_config_of({"model_type": kind, "vocab_size": 384, **said}, file)
    assert config.n_kv_heads == theirs.num_key_value_heads and config.head_dim == (theirs.head_dim or 128)
    assert config.max_seq_len == theirs.max_position_embeddings and config.norm_eps == theirs.rms_norm_eps
    assert config.tie_embeddings == theirs.tie_word_embeddings
    assert config.rope_theta == theta_of(theirs)


@pytest.mark.parametrize(
    ("settings", "bos", "eos"),
    [
        ({"bos_token": None, "eos_token": "<|begin_of_text|>"}, None, "<|begin_of_text|>"),
        ({"bos_token": {"content": "<|end_of_text|>", "special": True}}, "<|end_of_text|>", "<|end_of_text|>"),
        ({}, "<|begin_of_text|>", "<|end_of_text|>"),
    ],
)
def test_where_texts_begin_and_end_is_what_the_settings_say_and_they_go_out_again(
    settings: dict[str, Any], bos: str | None, eos: str, copied: Path, tmp_path: Path
) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (copied / "chat_template.jinja").write_text(template)
    (copied / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": {"x": "evil.py"}}))
    run = import_hf(copied, tmp_path / "run")
    tokenizer = run.tokenizer()
    assert [
        None if number is None else tokenizer.id_to_token(number) for number in (tokenizer.bos_id, tokenizer.eos_id)
    ] == [
        bos,
        eos,
    ]
    assert pickle.loads(pickle.dumps(tokenizer)).bos_id == tokenizer.bos_id
    again = export_hf(run, tmp_path / "again")
    theirs = AutoTokenizer.from_pretrained(again)
    assert (theirs.bos_token, theirs.eos_token) == (bos, eos)
    assert theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert "auto_map" not in (again / "tokenizer_config.json").read_text()


def test_a_special_token_that_the_tokenizer_does_not_have_is_none(copied: Path, tmp_path: Path) -> None:
    (copied / "tokenizer_config.json").write_text(json.dumps({"bos_token": "nothere", "pad_token": "!"}))
    run = import_hf(copied, tmp_path / "run")
    assert run.tokenizer().bos_id is None
    again = export_hf(run, tmp_path / "again")
    theirs = AutoTokenizer.from_pretrained(again)
    assert theirs.bos_token is None and theirs.pad_token == "!" and len(theirs) <= 384
    config = json.loads((again / "config.json").read_text())
    assert config["pad_token_id"] == settings_of(again)["pad_token_id"] == theirs.pad_token_id is not None


@pytest.mark.parametrize("setting", [None, True, False])
@pytest.mark.parametrize("template", [True, False])
def test_a_prompt_begins_as_it_does_there(template: bool, setting: bool | None, copied: Path, tmp_path: Path) -> None:
    told = json.loads((copied / "tokenizer.json").read_text())
    if not template:
        told["post_processor"] = None
    (copied / "tokenizer.json").write_text(json.dumps(told))
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    if setting is not None:
        settings["add_bos_token"] = setting
    (copied / "tokenizer_config.json").write_text(json.dumps(settings))
    run = import_hf(copied, tmp_path / "run")
    model, tokenizer = run.model(), run.tokenizer()
    (ours,) = generate(model, tokenizer, "The river", max_new_tokens=8, sampling=Sampling(temperature=0))
    for folder in (copied, export_hf(run, tmp_path / "again")):
        ids = AutoTokenizer.from_pretrained(folder)("The river").input_ids
        assert ids == tokenizer.opening([1]) + tokenizer.encode("The river")
        assert (ids[0] == tokenizer.bos_id) is template
    likeliest = []
    for _ in range(8):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        likeliest.append(ids[-1])
    assert list(ours.token_ids) == likeliest
    before, after = encode_pair(tokenizer, "The", " river")
    assert before + after == tokenizer.opening([1]) + tokenizer.encode("The river")
    assert encode_pair(tokenizer, "", "The") == ([tokenizer.bos_id], tokenizer.encode("The"))


def test_settings_of_an_earlier_tokenizer_go_with_it(tiny_run: Run, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null}')
    tiny_run.tokenizer().save(tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer_config.json").exists()
    assert Tokenizer.load(tmp_path).bos_id == tiny_run.tokenizer().bos_id


def test_the_folder_that_one_is_in_may_be_the_target(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert llamita("import", "hf", copied, ".").code == 0
    assert Run.open(tmp_path / "here").start is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "can't be read"),
        ("[]", "can't be read"),
        ('{"bos_token": 5}', "bos_token is 5"),
        ('{"bos_token": {"content": 5}}', "bos_token is {'content': 5}"),
        ('{"chat_template": "\\ud800"}', "can't be read"),
        ('{"chat_template": 5}', "chat_template is 5; it must be a text"),
        ('{"chat_template": [{"name": "default"}]}', "chat_template is [{'name': 'default'}]"),
        ('{"add_bos_token": "no"}', "add_bos_token is 'no'; it must be true or false"),
        ('{"add_eos_token": 0}', "add_eos_token is 0"),
        ('{"split_special_tokens": 1}', "split_special_tokens is 1"),
        ('{"clean_up_tokenization_spaces": []}', "clean_up_tokenization_spaces is []"),
        ('{"end_tokens": "!"}', "end_tokens is '!'"),
    ],
)
def test_settings_that_are_none_are_refused_by_file_and_field(
    text: str, told: str, copied: Path, tmp_path: Path
) -> None:
    (copied / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError) as refused:
        import_hf(copied, tmp_path / "run")
    assert str(refused.value).startswith(f"{copied / 'tokenizer_config.json'}: {told}")
    assert not (tmp_path / "run").exists() and list(tmp_path.glob(".run*")) == []


def test_named_templates_and_fields_that_say_nothing_are_taken(copied: Path, tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "x"}]
    said = {"chat_template": templates, "add_bos_token": None, "end_tokens": None}
    (copied / "tokenizer_config.json").write_text(json.dumps(said))
    assert import_hf(copied, tmp_path / "run").tokenizer().settings["chat_template"] == templates


def told_of_generation(folder: Path, **fields: Any) -> None:
    (folder / "generation_config.json").write_text(json.dumps(fields))


def settings_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    return found


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_all_that_ends_a_text_goes_in_ends_texts_here_and_goes_out_again(
    file: str, copied: Path, tmp_path: Path
) -> None:
    ours = Tokenizer.load(copied)
    assert ours.eos_id is not None and ours.bos_id is not None
    told_of_generation(copied, **({"eos_token_id": [5, ours.eos_id, 7]} if file == "generation_config.json" else {}))
    edited(copied, eos_token_id=9 if file == "generation_config.json" else [7, 5])
    run = import_hf(copied, tmp_path / "run")
    tokenizer = run.tokenizer()
    assert set(end_ids(tokenizer)) == {5, 7, ours.eos_id, ours.bos_id}
    again = export_hf(run, tmp_path / "again")
    assert set(settings_of(again)["eos_token_id"]) == set(end_ids(tokenizer))
    assert GenerationConfig.from_pretrained(again).eos_token_id[0] == ours.eos_id
    assert "end_tokens" not in (again / "tokenizer_config.json").read_text()
    same = import_hf(again, tmp_path / "same")
    assert end_ids(same.tokenizer()) == end_ids(tokenizer)
    assert settings_of(export_hf(same, tmp_path / "third")) == settings_of(again)


def test_what_ends_a_text_anyway_is_noted_nowhere(copied: Path, tmp_path: Path) -> None:
    ours = Tokenizer.load(copied)
    told_of_generation(copied, eos_token_id=[ours.bos_id, ours.eos_id])
    assert "end_tokens" not in import_hf(copied, tmp_path / "run").tokenizer().settings


@torch.no_grad()
@pytest.mark.parametrize("ends", [None, [5, 7]])
def test_a_model_whose_tokenizer_has_no_ends_can_generate_elsewhere(
    ends: list[int] | None, copied: Path, tmp_path: Path
) -> None:
    nothing = dict.fromkeys(("bos_token", "eos_token", "pad_token"))
    (copied / "tokenizer_config.json").write_text(json.dumps(nothing))
    told_of_generation(copied, eos_token_id=ends)
    again = export_hf(import_hf(copied, tmp_path / "run"), tmp_path / "again")
    assert settings_of(again)["eos_token_id"] == ends
    model, tokenizer = AutoModelForCausalLM.from_pretrained(again), AutoTokenizer.from_pretrained(again)
    inputs = tokenizer("The", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs.input_ids.shape[1]


def test_own_exports_come_back_as_they_went(tiny_run: Run, tiny_text: Path, tmp_path: Path) -> None:
    first = export_hf(tiny_run, tmp_path / "first", checkpoint="latest")
    run = import_hf(first, tmp_path / "run")
    assert run.config().model.unpredicted_rows == tiny_run.config().model.unpredicted_rows > 0
    steps = ("--training.steps", 1, "--training.batch-size", 1, "--training.sample-tokens", 0)
    assert llamita("train", tiny_text, "--from", run.path, "--run", tmp_path / "trained", *steps).code == 0
    text = "a <|end_of_text|><|begin_of_text|> b"
    for at, one in enumerate((run, Run.open(tmp_path / "trained"))):
        again = export_hf(one, tmp_path / f"again{at}")
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert json.loads((again / name).read_text()) == json.loads((first / name).read_text())
        theirs = AutoTokenizer.from_pretrained(again)
        assert theirs(text, add_special_tokens=False).input_ids == one.tokenizer().encode(text)
        assert "## Limits" in (again / "README.md").read_text()


@pytest.mark.parametrize("splits", [True, False, None])
def test_whether_names_of_special_tokens_are_text_goes_in_and_out(
    splits: bool | None, copied: Path, tmp_path: Path
) -> None:
    said = {"bos_token": "<|begin_of_text|>"} | ({} if splits is None else {"split_special_tokens": splits})
    (copied / "tokenizer_config.json").write_text(json.dumps(said))
    again = export_hf(import_hf(copied, tmp_path / "run"), tmp_path / "again")
    assert AutoTokenizer.from_pretrained(again).split_special_tokens is bool(splits)


def test_rows_are_silent_that_are_the_last_and_no_texts(tiny_run: Run) -> None:
    tokenizer = tiny_run.tokenizer()
    size, texts = tokenizer.get_vocab_size(), tokenizer.text_size
    assert size - texts >= 2 and tokenizer.unknown_id is None
    for suppressed, silent in (
        ([], 0),
        ([size - 1], 1),
        ([size - 1, size - 2, size - 1], 2),
        ([size - 2], 0),  # not the last
        ([size - 1, 5], 0),  # others, too
        (list(range(texts - 3, size)), size - texts),  # some that texts have
        (list(range(size)), size - texts),
    ):
        assert silent_rows(tokenizer, suppressed, size) == silent
    # Rows of no token are silent whatever is said.
    assert silent_rows(tokenizer, [], size + 5) == silent_rows(tokenizer, [5], size + 5) == 5
    assert silent_rows(tokenizer, list(range(size - 1, size + 5)), size + 5) == 6


def test_the_unknown_token_may_be_suppressed_beside_silent_rows() -> None:
    words = Tokenizer.train(["a b c a b c"], vocab_size=64, kind="word")
    size, unknown = words.get_vocab_size(), words.unknown_id
    assert unknown is not None and unknown < words.text_size <= size - 2
    assert silent_rows(words, [unknown, size - 1, size - 2], size) == 2


def test_nothing_is_left_of_an_import_that_failed_or_was_stopped(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(folder: Path, *_: Any, error: BaseException = error) -> None:
            assert list(tmp_path.glob(".run.*.part")) == [folder.parent]
            raise error

        monkeypatch.setattr(hf_import, "save_checkpoint", fail)
        with pytest.raises((UserError, KeyboardInterrupt)) as told:
            import_hf(copied, tmp_path / "run")
        assert isinstance(error, KeyboardInterrupt) or "run: can't be written (No space left" in str(told.value)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"eos_token_id": -1}, "eos_token_id has -1; ids are whole numbers from 0 to 383"),
        ({"eos_token_id": [True]}, "eos_token_id has True"),
        ({"suppress_tokens": [384]}, "suppress_tokens has 384"),
        ({"suppress_tokens": "383"}, "suppress_tokens has '383'"),
        ({"suppress_tokens": [1.5]}, "suppress_tokens has 1.5"),
    ],
)
def test_ids_of_the_settings_of_generation_are_those_of_the_table(
    fields: dict[str, Any], told: str, copied: Path, tmp_path: Path
) -> None:
    told_of_generation(copied, **fields)
    with pytest.raises(UserError) as refused:
        import_hf(copied, tmp_path / "run")
    assert str(refused.value).startswith(f"{copied / 'generation_config.json'}: {told}")


@pytest.fixture(scope="module")
def foreign(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder as transformers writes it, of a family, with random weights in bf16."""
    made: dict[str, Path] = {}
    tokenizer = export_hf(tiny_run, tmp_path_factory.mktemp("tokenizer") / "out", checkpoint="latest")

    def folder(name: str) -> Path:
        if name not in made:
            fields = shrunk(name)
            config = AutoConfig.for_model(**fields)
            torch.manual_seed(len(made))
            model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
            made[name] = tmp_path_factory.mktemp("foreign") / name
            model.save_pretrained(made[name])
            AutoTokenizer.from_pretrained(tokenizer).save_pretrained(made[name])
            # As it was published, not as this version of transformers writes it.
            (made[name] / "config.json").write_text(json.dumps(fields))
        return made[name]

    return folder


@pytest.fixture
def copied(foreign: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(foreign("smollm2-135m"), tmp_path / "copied"))


@torch.no_grad()
@pytest.mark.parametrize("family", PUBLISHED)
def test_a_model_goes_in_and_out_without_a_bit_of_difference(
    family: str, foreign: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = foreign(family)
    run = import_hf(folder, tmp_path / "run")
    theirs, tokens = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), random_tokens(2, 40)
    rows = run.config().model.vocab_size - run.config().model.unpredicted_rows
    ours, expected = Run.open(run.path).model()(tokens), theirs(tokens).logits[..., :rows]
    assert float((ours - expected).abs().max()) <= 1e-4
    again = export_hf(run, tmp_path / "again", dtype="bf16")
    before, after = load_file(folder / "model.safetensors"), load_file(again / "model.safetensors")
    assert before.keys() - {"lm_head.weight"} == after.keys() - {"lm_head.weight"}
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    card = (again / "README.md").read_text()
    assert f"imported from {family} with" in card and "from scratch" not in card
    same = import_hf(again, tmp_path / "same")
    assert same.config().model == run.config().model


@torch.no_grad()
@pytest.mark.parametrize("kind", ["yarn", "llama3"])
def test_a_scaling_without_its_first_length_means_what_it_means_there(kind: str, copied: Path, tmp_path: Path) -> None:
    scaling = {"rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
    if kind == "yarn":
        scaling = {name: value for name, value in scaling.items() if "freq" not in name}
    if kind == "llama3" and transformers.__version__ < "5":
        pytest.skip("transformers 4 refuses it")
    old = {name: value for name, value in scaling.items() if name != "rope_theta"}
    edited(copied, rope_parameters=scaling, rope_scaling=old, rope_theta=1e4, max_position_embeddings=64)
    run = import_hf(copied, tmp_path / "run")
    tokens, rows = random_tokens(1, 60), run.config().model.vocab_size - run.config().model.unpredicted_rows
    theirs = AutoModelForCausalLM.from_pretrained(copied, dtype=torch.float32)(tokens).logits[..., :rows]
    assert float((run.model()(tokens) - theirs).abs().max()) <= 1e-4


def test_an_imported_run_is_one_like_any_other(foreign: Callable[[str], Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = llamita("import", "hf", foreign("llama-3.2-1b"), run, "--json").json
    assert told["vocab_size"] == 384
    assert llamita("generate", run, "The", "--max-new-tokens", 3, "--json").json["token_ids"]
    assert llamita("embeddings", "neighbors", run, "the").code == 0
    assert llamita("info", run, "--json").json["parameters"] == told["parameters"]
    tokenizer = AutoTokenizer.from_pretrained(foreign("llama-3.2-1b"))
    assert (
        Run.open(run).tokenizer().encode(" The river 犬")
        == tokenizer(" The river 犬", add_special_tokens=False).input_ids
    )
    # The table has rows that no token of the vocabulary stands for.
    assert Run.open(run).config().model.unpredicted_rows == 384 - len(tokenizer) > 0


def edited(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window is 4096"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.5}}, "rope_parameters.mscale is 0.5"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0.5}}, "factor (0.5)"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_key_value_heads": 4}, "n_kv_heads"),
        ({"vocab_size": 10}, "vocab_size is 10"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"hidden_size": 192}, "config.json wants"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "is no weight of this model"),
        ({"rms_norm_eps": 1e400}, "rms_norm_eps is inf"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"model_type": []}, "model_type is []"),
        (
            {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}},
            "500000.0, rope_parameters.rope_theta 10000.0",
        ),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default", "rope_theta": 7}}, "rope_scaling.rope_theta 7.0"),
        ({"eos_token_id": 384}, "config.json: eos_token_id has 384"),
        ({"eos_token_id": [1, "2"]}, "config.json: eos_token_id has '2'"),
        ({"max_position_embeddings": 10**400}, "max_position_embeddings is 1000"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_scaling.rope_type is 'linear'",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_field(
    changes: dict[str, Any], told: str, copied: Path, tmp_path: Path
) -> None:
    edited(copied, **changes)
    with pytest.raises(UserError) as refused:
        import_hf(copied, tmp_path / "run")
    assert told in str(refused.value) and str(copied) in str(refused.value)
    assert not (tmp_path / "run" / "config.toml").exists()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def long_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def indexed(folder: Path, file: str) -> None:
    """An index that names a file for a weight."""
    where = {"weight_map": {"model.embed_tokens.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where))


def leading_out(folder: Path) -> None:
    """A whole file of weights, beside the folder."""
    (folder / "model.safetensors").rename(folder.parent / "there.safetensors")
    indexed(folder, "../there.safetensors")


def leading_out_from_the_root(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "there.safetensors")
    indexed(folder, str(folder.parent / "there.safetensors"))


def long_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    indexed(folder, "m" * 5000)


def of_kind(kind: torch.dtype, weight: str = "model.norm.weight") -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[weight] = weights["model.norm.weight" if weight in weights else "model.embed_tokens.weight"].to(kind)
        save_file(weights, folder / "model.safetensors")

    return harm


def not_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors")


def twice(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "a.safetensors")
    save_file({"model.norm.weight": weights["model.norm.weight"] * 5}, folder / "b.safetensors")
    where = {"weight_map": {"model.norm.weight": "a.safetensors", "x": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where))


def other_head_first(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({"lm_head.weight": weights["model.embed_tokens.weight"] + 1}, folder / "a.safetensors")
    save_file(weights, folder / "b.safetensors")
    where = {"weight_map": {"lm_head.weight": "a.safetensors", "x": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(where))


def piped(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def other_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (cut, "model.safetensors: can't be read"),
        (long_header, "can't be read (a header of"),
        (pickled, "save_pretrained"),
        (leading_out, "weight_map names '../there.safetensors'"),
        (leading_out_from_the_root, "weight_map names '/"),
        (long_named, "weight_map names 'mmm"),
        (of_kind(torch.int32), "model.norm.weight is I32; llamita reads F32, F16, BF16"),
        (of_kind(torch.float64), "model.norm.weight is F64"),
        (of_kind(torch.float8_e4m3fn), "model.norm.weight is F8_E4M3"),
        (of_kind(torch.float8_e4m3fn, "lm_head.weight"), "lm_head.weight is F8_E4M3"),
        (other_head, "lm_head.weight differs"),
        (other_head_first, "lm_head.weight differs"),
        (not_numbers, "model.norm.weight has values that aren't finite"),
        (twice, "model.norm.weight is in another file"),
        (piped, "config.json: is no file"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: isn't there"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: isn't there"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "must hold one object"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: can't be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: isn't there"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_by_its_file(
    harm: Callable[[Path], object], told: str, copied: Path, tmp_path: Path
) -> None:
    harm(copied)
    refused = llamita("import", "hf", copied, tmp_path / "run")
    assert refused.code == 1 and told in refused.err
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_run_that_is_there_stays(copied: Path, copied_run: Run) -> None:
    before = copied_run.config_file.read_bytes()
    refused = llamita("import", "hf", copied, copied_run.path)
    assert refused.code == 2 and "is there already" in refused.err
    assert copied_run.config_file.read_bytes() == before
