"""Generation: cached and uncached, one sample and many, whole and streamed, short context and long text."""

import pickle
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel

from llamita.errors import UserError
from llamita.generation import context
from llamita.generation.engine import Generation, generate, stream
from llamita.generation.sampling import Sampling
from llamita.model.transformer import LLaMaTransformer
from llamita.text.tokenizer import Tokenizer

MakeModel = Callable[..., LLaMaTransformer]

GREEDY = Sampling(temperature=0.0)
BOS, EOS, RESERVED = 256, 257, 258  # of the byte tokenizer
ENDS = (BOS, EOS)


def streamed(pieces: Generator[str, None, Generation]) -> tuple[list[str], Generation]:
    """The pieces of a stream and the generation it returns."""
    found = []
    while True:
        try:
            found.append(next(pieces))
        except StopIteration as end:
            return found, end.value


def by_the_book(model: LLaMaTransformer, prompt: list[int], count: int) -> list[int]:
    """Greedy bytes by full passes over what the documented window holds."""
    limit = model.config.max_seq_len
    window = prompt if len(prompt) <= limit else prompt[-(limit - 1) :]
    found: list[int] = []
    for _ in range(count):
        if len(window) > limit:
            window = window[-(limit // 2) :]
        logits = model(torch.tensor([window]))[0, -1]
        found.append(int(logits[:RESERVED].argmax()))
        window = [*window, found[-1]]
    return found


def test_the_byte_tokenizer_has_the_ids_that_these_tests_name(byte_tokenizer: Tokenizer) -> None:
    assert (byte_tokenizer.bos_id, byte_tokenizer.eos_id) == ENDS
    assert RESERVED in byte_tokenizer.special_ids


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=0.0, repetition_penalty=1.3),
        Sampling(),
        Sampling(temperature=0.8, top_k=50, top_p=0.9, min_p=0.02, repetition_penalty=1.1),
    ],
    ids=["greedy", "greedy-penalty", "plain", "filters"],
)
@pytest.mark.parametrize(
    "settings",
    [{}, {"positions": "learned"}, {"positions": "none", "n_kv_heads": 1}, {"qk_norm": True}],
    ids=["rope", "learned", "none", "qk-norm"],
)
def test_cached_equals_uncached_far_beyond_the_context(
    make_model: MakeModel, byte_tokenizer: Tokenizer, settings: dict[str, Any], sampling: Sampling
) -> None:
    model = make_model(unlikely=ENDS, **settings)
    ways = [
        generate(model, byte_tokenizer, "once", max_new_tokens=70, samples=3, sampling=sampling, use_cache=cached)
        for cached in (True, False)
    ]
    assert ways[0] == ways[1]
    assert max(len(sample.token_ids) for sample in ways[0]) > 2 * model.config.max_seq_len


@pytest.mark.parametrize("prompt", ["", "h", "x" * 30, "x" * 31, "x" * 32, "x" * 80])
def test_greedy_is_the_argmax_over_the_documented_window(
    make_model: MakeModel, byte_tokenizer: Tokenizer, prompt: str
) -> None:
    model = make_model(unlikely=ENDS)
    (sample,) = generate(model, byte_tokenizer, prompt, max_new_tokens=70, sampling=GREEDY)
    assert list(sample.token_ids) == by_the_book(model, [BOS, *byte_tokenizer.encode(prompt)], 70)


@pytest.mark.parametrize("max_seq_len", [1, 2, 3])
def test_the_shortest_contexts_slide_too(make_model: MakeModel, byte_tokenizer: Tokenizer, max_seq_len: int) -> None:
    model = make_model(unlikely=ENDS, max_seq_len=max_seq_len)
    cached, full = (
        generate(model, byte_tokenizer, "abcdef", max_new_tokens=20, sampling=GREEDY, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert cached == full
    assert cached[0].finish_reason == "length"
    assert cached[0].prompt_ids == tuple(b"abcdef"[-max(max_seq_len - 1, 1) :])


def test_each_position_is_read_once_with_a_cache(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model(unlikely=ENDS)
    read = []
    hook = model.embeddings.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape))
    (sample, *_) = generate(model, byte_tokenizer, "abcde", max_new_tokens=20, sampling=GREEDY, samples=4)
    hook.remove()
    assert sample.finish_reason == "length"
    prompt_but_last, *single = read
    assert prompt_but_last == (1, 5)
    assert single == [(4, 1)] * 20


def test_a_prompt_longer_than_the_context_is_cut_at_its_beginning(
    make_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    prompt = "".join(map(chr, range(40, 90)))
    (sample,) = generate(make_model(), byte_tokenizer, prompt, max_new_tokens=3)
    assert sample.prompt_ids == tuple(prompt.encode())[-31:]
    assert sample.truncated_prompt == 51 - 31
    (sample,) = generate(make_model(), byte_tokenizer, prompt[:31], max_new_tokens=3)
    assert sample.prompt_ids == (BOS, *prompt[:31].encode())
    assert sample.truncated_prompt == 0


def test_a_sample_is_the_same_whatever_the_number_of_samples(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model()

    def draw(samples: int) -> list[Generation]:
        return generate(model, byte_tokenizer, "abc", max_new_tokens=40, samples=samples, seed=1, stop=("{", "z"))

    many = draw(12)
    assert {sample.finish_reason for sample in many} == {"length", "stop", "end"}
    assert len({sample.token_ids for sample in many}) > 8
    assert all(draw(count) == many[:count] for count in (1, 2, 5))


def test_the_seed_alone_decides_what_is_drawn(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model()

    def draw(seed: int) -> list[str]:
        return [
            sample.text for sample in generate(model, byte_tokenizer, "abc", max_new_tokens=30, samples=3, seed=seed)
        ]

    first = draw(0)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert draw(0) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert len({*first, *draw(1), *draw(2)}) == 9


def test_first_tokens_are_as_frequent_as_the_model_says(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model, draws = make_model(), 3000
    logits = model(torch.tensor([[BOS, *b"abc"]]))[0, -1]
    expected = logits[:RESERVED].softmax(-1)
    samples = generate(model, byte_tokenizer, "abc", max_new_tokens=1, samples=draws)
    found = torch.tensor([token_id for sample in samples for token_id in sample.token_ids])
    frequency = found.bincount(minlength=BOS) / draws
    deviation = (expected * (1 - expected) / draws).sqrt()[:BOS]
    assert ((frequency - expected[:BOS]).abs() < 5 * deviation + 1 / draws).all()
    assert expected.max() < 0.9


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=0.7, top_p=0.9)], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_streamed_pieces_add_up_to_the_text(
    make_model: MakeModel, byte_tokenizer: Tokenizer, sampling: Sampling, seed: int
) -> None:
    model = make_model()
    options: dict[str, Any] = {"max_new_tokens": 60, "sampling": sampling, "seed": seed, "stop": ["ab", "{"]}
    pieces, returned = streamed(stream(model, byte_tokenizer, "tell", **options))
    (whole,) = generate(model, byte_tokenizer, "tell", **options)
    assert returned == whole
    assert "".join(pieces) == whole.text
    assert all(pieces)


def test_characters_of_several_bytes_come_whole(make_scripted_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    text = "¡né 🦙語!"
    model = make_scripted_model(byte_tokenizer.encode(text), start=3)
    pieces, returned = streamed(stream(model, byte_tokenizer, "ab", max_new_tokens=len(text.encode())))
    assert pieces == list(text)
    assert returned.text == text


def test_a_character_that_max_new_tokens_cuts_is_not_shown(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    model = make_scripted_model(byte_tokenizer.encode("né🦙"), start=1)
    (sample,) = generate(model, byte_tokenizer, "", max_new_tokens=5)
    assert (sample.text, len(sample.token_ids), sample.finish_reason) == ("né", 5, "length")


@pytest.mark.parametrize("stop", ["STOP", ["STOP"], ("never", "TOP", "STOP", "OP!")])
def test_a_stop_string_ends_the_text_before_it(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer, stop: Any
) -> None:
    model = make_scripted_model(byte_tokenizer.encode("go on STO STOP! never"), start=3)
    pieces, returned = streamed(stream(model, byte_tokenizer, "ab", max_new_tokens=21, stop=stop))
    assert returned.text == "go on STO "
    assert returned.finish_reason == "stop"
    assert bytes(returned.token_ids) == b"go on STO STOP"
    assert "".join(pieces) == returned.text


def test_a_stop_string_completed_by_the_last_token_is_a_stop(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    model = make_scripted_model(byte_tokenizer.encode("a\n\nb"), start=1)
    (sample,) = generate(model, byte_tokenizer, "", max_new_tokens=3, stop="\n\n")
    assert (sample.text, sample.finish_reason) == ("a", "stop")


def test_text_held_back_for_a_stop_string_is_shown_at_the_end(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    model = make_scripted_model(byte_tokenizer.encode("a ST"), start=1)
    pieces, returned = streamed(stream(model, byte_tokenizer, "", max_new_tokens=4, stop="STOP"))
    assert pieces == ["a", " ", "ST"]
    assert returned.text == "a ST"


@pytest.mark.parametrize("end", ENDS)
def test_a_special_token_ends_the_text(make_scripted_model: MakeModel, byte_tokenizer: Tokenizer, end: int) -> None:
    model = make_scripted_model([*b"hi", end, *b"there"], start=1)
    (sample,) = generate(model, byte_tokenizer, "", max_new_tokens=8)
    assert (sample.text, sample.token_ids, sample.finish_reason) == ("hi", tuple(b"hi"), "end")


def test_a_repetition_penalty_does_not_keep_a_text_from_ending(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    model = make_scripted_model([*b"hi", BOS, *b"there"], start=1)
    sampling = Sampling(repetition_penalty=1e6)
    (sample,) = generate(model, byte_tokenizer, "", max_new_tokens=8, sampling=sampling)
    assert (sample.text, sample.finish_reason) == ("hi", "end")


def test_a_repetition_penalty_weighs_on_prompt_and_continuation(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    model = make_scripted_model(byte_tokenizer.encode("xbb"), start=2)
    with torch.no_grad():
        model.output_weight[ord("-")], model.output_weight[ord("+")] = 2.0, 1.0
    sampling = Sampling(temperature=0.0, repetition_penalty=200.0)
    (sample,) = generate(model, byte_tokenizer, "x", max_new_tokens=3, sampling=sampling)
    assert sample.text == "-b+"


@pytest.mark.parametrize("use_cache", [True, False])
def test_tokens_without_text_are_never_drawn(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer, use_cache: bool
) -> None:
    beyond = byte_tokenizer.get_vocab_size()
    model = make_scripted_model([RESERVED, beyond, beyond + 9], start=1, vocab_size=beyond + 10)
    (sample,) = generate(model, byte_tokenizer, "", max_new_tokens=3, use_cache=use_cache)
    assert sample.token_ids and all(token_id <= EOS for token_id in sample.token_ids)


def test_the_unknown_word_is_never_drawn(make_scripted_model: MakeModel) -> None:
    tokenizer = Tokenizer.train(["the king loves his dog"], vocab_size=64, kind="word")
    assert tokenizer.unknown_id is not None
    script = [tokenizer.unknown_id, *tokenizer.encode("dog")]
    (sample,) = generate(make_scripted_model(script, start=3), tokenizer, "the king", max_new_tokens=2)
    assert tokenizer.unknown_id not in sample.token_ids


def test_prompt_and_text_make_one_text(make_scripted_model: MakeModel) -> None:
    tokenizer = Tokenizer.train(["the king loves his dog."], vocab_size=64, kind="word")
    script = tokenizer.encode("the king loves his dog.")[2:]
    model = make_scripted_model(script, start=3)
    pieces, returned = streamed(stream(model, tokenizer, "the king", max_new_tokens=len(script)))
    assert "the king" + returned.text == "the king loves his dog."
    assert len(pieces) == len(script)


def test_no_new_tokens_are_no_text(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    expected = Generation(text="", token_ids=(), prompt_ids=(BOS, ord("a")), finish_reason="length")
    assert generate(make_model(), byte_tokenizer, "a", max_new_tokens=0, samples=2) == [expected] * 2
    assert streamed(stream(make_model(), byte_tokenizer, "a", max_new_tokens=0)) == ([], expected)


@pytest.mark.parametrize("ask", [generate, lambda *args: list(stream(*args))], ids=["generate", "stream"])
def test_a_model_generates_in_evaluation_mode_and_gets_its_own_back(
    make_model: MakeModel, byte_tokenizer: Tokenizer, ask: Callable[..., Any]
) -> None:
    model = make_model().train()
    model.decoder_blocks[0].eval()
    before = [module.training for module in model.modules()]
    seen = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    ask(model, byte_tokenizer, "abc")
    assert seen and not any(seen)
    assert [module.training for module in model.modules()] == before


def test_a_model_keeps_its_mode_when_generation_fails(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model().train()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(UserError):
        generate(model, byte_tokenizer, "abc")
    assert all(module.training for module in model.modules())


def test_a_model_can_be_trained_between_two_pieces(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model(unlikely=ENDS).train()
    pieces = stream(model, byte_tokenizer, "abc", max_new_tokens=20)
    next(pieces)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert model.output_weight.grad is not None
    assert next(pieces)


def test_two_streams_of_one_model_do_not_disturb_each_other(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model(unlikely=ENDS)
    prompts = ("abc", "something else")
    alone = [generate(model, byte_tokenizer, prompt, max_new_tokens=10)[0].text for prompt in prompts]
    running = [stream(model, byte_tokenizer, prompt, max_new_tokens=10) for prompt in prompts]
    texts = ["", ""]
    for _ in range(10):
        texts = [text + next(pieces, "") for text, pieces in zip(texts, running, strict=True)]
    assert texts == alone
    assert texts[0] != texts[1]


def test_what_else_ends_a_text_ends_it_and_is_else_never_drawn(
    make_scripted_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    chats = pickle.loads(pickle.dumps(byte_tokenizer))
    chats.settings["end_tokens"] = [chats.id_to_token(RESERVED), "no token of it"]
    model = make_scripted_model([*b"hi", RESERVED, *b"!!"], start=1)
    for tokenizer, ids, why in ((chats, [*b"hi"], "end"), (byte_tokenizer, [*b"hi"], "length")):
        (sample,) = generate(model, tokenizer, "", max_new_tokens=4, sampling=GREEDY)
        assert list(sample.token_ids[:2]) == ids and sample.finish_reason == why
        assert RESERVED not in sample.token_ids and (len(sample.token_ids) == 2) == (why == "end")


def test_the_models_dtype_is_kept(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model(unlikely=ENDS).bfloat16()
    (sample,) = generate(model, byte_tokenizer, "abc", max_new_tokens=40)
    assert len(sample.token_ids) == 40
    assert model.output_weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"seed": -5}, "seed is -5"),
        ({"stop": ["ok", ""]}, "a stop string is empty"),
        ({"stop": ""}, "a stop string is empty"),
    ],
)
def test_what_cannot_be_asked_is_named_at_the_call(
    make_model: MakeModel, byte_tokenizer: Tokenizer, options: dict[str, Any], message: str
) -> None:
    for ask in (generate, stream):
        with pytest.raises(UserError, match=message):
            ask(make_model(), byte_tokenizer, "abc", **options)


def test_no_samples_at_all_are_refused(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="samples is 0"):
        generate(make_model(), byte_tokenizer, "abc", samples=0)


def test_a_tokenizer_larger_than_the_table_is_refused(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="320 tokens, but the model's table only 300 rows"):
        generate(make_model(vocab_size=300), byte_tokenizer, "abc")
    with pytest.raises(UserError, match="256 tokens, but the model's table only 255 rows for them"):
        generate(make_model(unpredicted_rows=65), byte_tokenizer, "abc")


@pytest.mark.parametrize("silent", [62, 64])
def test_rows_without_a_logit_are_neither_said_nor_missed(
    silent: int, make_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    assert (byte_tokenizer.get_vocab_size(), byte_tokenizer.text_size) == (320, 256)
    made = generate(
        make_model(unpredicted_rows=silent),
        byte_tokenizer,
        "abc",
        max_new_tokens=40,
        sampling=Sampling(temperature=5.0, repetition_penalty=1.2),
        samples=3,
    )
    assert sum(len(one.token_ids) for one in made) > 40
    if silent == 64:  # there is no end to be said
        assert all((one.finish_reason, len(one.token_ids)) == ("length", 40) for one in made)


def test_a_tokenizer_without_bos_needs_a_prompt(make_model: MakeModel) -> None:
    tokenizer = Tokenizer(Backend(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")))
    model = make_model(vocab_size=3)
    with pytest.raises(UserError, match="the prompt is empty"):
        generate(model, tokenizer, "")
    (sample,) = generate(model, tokenizer, "a", max_new_tokens=5)
    assert sample.prompt_ids == (0,)
    assert len(sample.token_ids) == 5


def test_weights_that_are_no_numbers_are_reported(make_model: MakeModel, byte_tokenizer: Tokenizer) -> None:
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match="logits are not finite"):
        generate(model, byte_tokenizer, "abc")


def test_as_many_tokens_may_be_asked_for_as_a_number_says(
    make_model: MakeModel, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(unlikely=ENDS)
    pieces = stream(model, byte_tokenizer, "a", max_new_tokens=10**30, sampling=GREEDY)
    begun = [next(pieces) for _ in range(50)]
    monkeypatch.setattr(context, "_ROOM", 3)
    again = stream(model, byte_tokenizer, "a", max_new_tokens=10**30, sampling=GREEDY)
    assert [next(again) for _ in range(50)] == begun
    whole = generate(model, byte_tokenizer, "a", max_new_tokens=40, samples=3, seed=1)
    monkeypatch.undo()
    assert generate(model, byte_tokenizer, "a", max_new_tokens=40, samples=3, seed=1) == whole


@pytest.mark.parametrize("samples", [0, -1, 5000, 10**30])
def test_no_more_samples_are_drawn_than_fit_a_batch(
    samples: int, make_model: MakeModel, byte_tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match=f"samples is {samples}: ask for at least 1 and at most 4096"):
        generate(make_model(), byte_tokenizer, "a", samples=samples)
