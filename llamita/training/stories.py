"""A run on the built-in corpus, whose next-token entropy is known exactly."""

from dataclasses import dataclass
from pathlib import Path

from llamita import layers
from llamita.config import RunConfig
from llamita.errors import UsageError
from llamita.layers import Layer
from llamita.runs.folder import Run
from llamita.text.holdout import choose_split
from llamita.text.shards import Corpora, write_shards
from llamita.text.storyworld import Story, StoryWorld, floor
from llamita.text.tokenizer import Tokenizer
from llamita.training.hardware import choose_hardware
from llamita.training.preparation import claimed, is_being_prepared
from llamita.training.sizes import hardware_layer, never_predicted, vocabulary_layer
from llamita.training.tuning import tuned

# No path is spelled so: a run whose source this is was told its stories by StoryWorld.
STORY_SOURCE = "storyworld://"

# Of settings that say how a text is read and cut, the values that hold for stories; their number decides the fraction.
_HOLDS = {
    "data.sources": ((), (STORY_SOURCE,)),
    "data.field": ("text",),
    "data.max_bytes": (None,),
    "data.validation_fraction": (),
    "tokenizer.kind": ("word",),
    "tokenizer.file": (None,),
}

_VALIDATION_STORIES = 2000
_FEWEST_STORIES = 20_000  # so that a short run has whole stories to hold out, too
_WORDS_SEEN = 5000  # stories that the tokenizer sees: every word occurs in them many times over


@dataclass(frozen=True, slots=True)
class PreparedStories:
    """A run folder ready to train on StoryWorld; `floor` is the entropy of its validation text, in nats a token."""

    run: Run
    world: StoryWorld
    tokenizer: Tokenizer
    corpora: Corpora
    floor: float


def is_story_run(config: RunConfig) -> bool:
    """Whether a run was told its stories by StoryWorld; early ones spelled their source as a folder is."""
    early = config.data.packing == "documents" and config.tokenizer.kind == "word"
    return config.data.sources == (STORY_SOURCE,) or (early and config.data.sources == ("storyworld",))


def story_config(asked: list[Layer]) -> RunConfig:
    """The config of a story run, but for what only its text tells; UsageError for settings that don't fit."""
    _refuse_what_is_not_heeded(asked)
    values, _ = layers.merge([layers.preset("storyworld"), *asked, vocabulary_layer(1)])
    return layers.build(values)


def _refuse_what_is_not_heeded(asked: list[Layer]) -> None:
    """UsageError for settings of a text of one's own; the config.toml of an earlier demo says what its stories had."""
    others = [layer for layer in asked if layer.values.get("data", {}).get("sources") != [STORY_SOURCE]]
    given = layers.typed(layers.merge(others)[0])
    for name, values in _HOLDS.items():
        table, _, field = name.partition(".")
        if field in given.get(table, {}) and given[table][field] not in values:
            raise UsageError(
                f"{name} ({given[table][field]}) can't be had in the demo, which tells its text itself, as much as "
                "training.steps read: leave it out, or give a text to `llamita train`"
            )


def prepare_stories(target: Path, asked: list[Layer]) -> PreparedStories:
    """Tell as many stories as the run's steps read once, and make a run folder of them."""
    draft = story_config(asked)
    if is_being_prepared(target):
        raise UsageError(f"{target} holds text that `llamita train` is preparing; choose another --run or remove it")
    with claimed(target) as run:
        return _prepare(run, draft, asked)


def _prepare(run: Run, draft: RunConfig, asked: list[Layer]) -> PreparedStories:
    hardware = choose_hardware(draft.training.device, draft.training.precision)
    world, seed = StoryWorld(seed=0), draft.training.seed
    wanted = draft.training.steps * draft.tokens_per_step
    stories: list[Story] = []
    tokens = 0
    for story in world.stories(wanted + _FEWEST_STORIES, seed):
        stories.append(story)
        tokens += len(story.words) + 1
        if tokens >= wanted and len(stories) >= _FEWEST_STORIES:
            break
    fraction = _VALIDATION_STORIES / len(stories)
    holdout, _ = choose_split((story.text for story in stories), fraction, seed)
    assert holdout.kind == "documents"
    held_out = [story for number, story in enumerate(stories) if holdout.picks(number)]
    words = [story.text for story in stories[:_WORDS_SEEN]]
    tokenizer = Tokenizer.train([*words, " ".join(world.vocabulary)], vocab_size=1024, kind="word")
    split = Layer("the world", {"data": {"validation_fraction": fraction, "sources": [STORY_SOURCE]}})
    tokenizer.save(run.tokenizer_file)
    corpora = write_shards(stories, tokenizer, run.data_folder, validation_fraction=fraction, seed=seed)
    unpredicted = never_predicted(tokenizer, corpora.train, draft.data.packing)
    vocabulary = vocabulary_layer(tokenizer.get_vocab_size(), unpredicted)
    merged, origin = layers.merge(
        [layers.preset("storyworld"), *asked, hardware_layer(hardware, asked), vocabulary, split]
    )
    run.write_environment()
    run.write_config(tuned(layers.build(merged), origin, lambda _: None))
    return PreparedStories(run, world, tokenizer, corpora, floor(held_out))
