from pathlib import Path

import torch

from llamita import LLaMaTransformer, ModelConfig, Tokenizer, generate, train


def test_five_lines_load_build_embed_train_and_generate(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("I love dogs and dogs love me. " * 200)
    Tokenizer.train([text.read_text()], vocab_size=320).save(tmp_path / "tokenizer.json")

    tokenizer = Tokenizer.load(tmp_path)
    model = LLaMaTransformer(
        ModelConfig(vocab_size=tokenizer.get_vocab_size(), n_embd=32, n_layers=1, n_heads=2, max_seq_len=32)
    )
    ids = tokenizer.encode("I love dogs")
    assert model.embed(torch.tensor(ids)).shape == (len(ids), 32)
    metrics = train(model, tokenizer, str(text), steps=40, batch_size=8)
    assert [row.step for row in metrics] == [10, 20, 30, 40]
    assert metrics[-1].loss < metrics[0].loss - 1
    assert generate(model, tokenizer, "I love", max_new_tokens=12)[0].text
