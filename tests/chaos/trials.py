"""Trials: each does harm to a run at a random moment, lets it go on, and compares its end with the unharmed one."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llamita.errors import UserError
from llamita.runs.folder import Run
from llamita.runs.lock import writing
from tests.chaos.runs import (
    STEPS,
    Example,
    bytes_lost,
    last_step,
    newest_step,
    prepared,
    resume,
    taken_back,
    train,
    train_poisoned,
)
from tests.faults import Disk, Moment, die, ended, forked, in_background, lose_power
from tests.training.tiny_runs import checkpoint_bytes

MOST_KILLS = 4  # of one run, one after the other


@dataclass(frozen=True)
class Harm:
    """What came of a trial: faults injected and survived, steps taken again, bytes that can't be read any more."""

    injected: int
    survived: int
    steps: int = 0
    bytes: int = 0


Trial = Callable[[Example, Path, random.Random], Harm]


def killed(child: int, after: float) -> int:
    """Kill a process after some seconds; how it ended."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return ended(child)


def _judged(example: Example, run: Run, injected: int, steps: int, lost: int) -> Harm:
    """Let a run go on to its end and see whether that is the end of the unharmed one."""
    whole = ended(forked(lambda: train(run))) == 0 and checkpoint_bytes(run) == example.end and not lost
    return Harm(injected, injected if whole else 0, steps, lost)


def _luck(chance: random.Random) -> random.Random | None:
    """What decides what a power cut leaves: None for nothing but what was synced."""
    return chance.choice((None, random.Random(chance.random())))


def kills_in_training(example: Example, folder: Path, chance: random.Random) -> Harm:
    """`kill -9` at random moments, several times in a row."""
    run, injected, steps, lost, kept = example.copied(folder), 0, 0, 0, True
    for _ in range(chance.randint(1, MOST_KILLS)):
        child = forked(lambda: train(run))
        end = killed(child, chance.uniform(0, example.seconds))
        injected += end == -signal.SIGKILL
        lost += bytes_lost(run)
        again, all_there = taken_back(run)
        steps, kept = steps + again, kept and all_there
    harm = _judged(example, run, injected, steps, lost)
    return harm if kept else replace(harm, survived=0)


def kill_in_a_save(example: Example, folder: Path, chance: random.Random) -> Harm:
    """Death at a call that changes the disk: by a kill, or by a power cut that takes what wasn't synced."""
    run, number = example.copied(folder), chance.randrange(example.calls_of_saves)
    moment: Moment = chance.choice(("before", "after"))
    death, luck = chance.choice((die, lose_power)), _luck(chance)

    def work() -> None:
        with Disk(number, moment, death, in_background, run.path, luck).watched():
            train(run)

    injected = ended(forked(work)) == -signal.SIGKILL
    lost, (steps, kept) = bytes_lost(run), taken_back(run)
    harm = _judged(example, run, int(injected), steps, lost)
    return harm if kept else replace(harm, survived=0)


def kill_while_preparing(example: Example, folder: Path, chance: random.Random) -> Harm:
    """Death while the tokenizer is trained, text encoded or the folder written, then the same command again.

    Or just after it: then the run must be there.
    """
    number, death, luck = chance.randint(0, example.calls_to_prepare), chance.choice((die, lose_power)), _luck(chance)

    def work() -> None:
        with Disk(number, "before", death, root=folder.parent, chance=luck).watched() as disk:
            prepared(folder, example.name)
            death(disk)

    injected = int(ended(forked(work)) == -signal.SIGKILL)
    if number < example.calls_to_prepare:
        ended(forked(lambda: prepared(folder, example.name)))  # refused where the run is finished
    if not (folder / "config.toml").exists():
        return Harm(injected, 0)
    return _judged(example, Run.open(folder), injected, 0, 0)


def full_disk(example: Example, folder: Path, chance: random.Random) -> Harm:
    """No room on the disk, from a random write on and for a while."""
    run = example.copied(folder)
    first, count = chance.randrange(60), chance.randint(1, 40)

    def work() -> None:
        real, seen = os.write, iter(range(1 << 30))

        def write(descriptor: int, data: bytes) -> int:
            if first <= next(seen) < first + count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data)

        os.write = write
        train(run)

    # It may refuse to begin, where not even the lock can be written; once it trains it must not end.
    code = ended(forked(work))
    harm = _judged(example, run, 1, 0, bytes_lost(run))
    return harm if code == 0 or first == 0 else Harm(1, 0)


def stopped(*signals: signal.Signals) -> Trial:
    """A trial that sends signals one shortly after the other, at a random moment of `llamita resume`."""

    def trial(example: Example, folder: Path, chance: random.Random) -> Harm:
        run = example.copied(folder)
        child = forked(lambda: resume(run))
        time.sleep(chance.uniform(0.1, 0.1 + example.seconds))
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            ended(child)
            return Harm(0, 0)
        for number in signals:
            os.kill(child, number)
            time.sleep(chance.uniform(0, 0.02))
        code = ended(child)
        # Before it listened, the signal kills it; in its last moment it may come to its end.
        finished = newest_step(run) == STEPS
        expected = code in (128 + signals[0], -signals[0]) or (finished and code == 0)
        harm = _judged(example, run, 1, max(last_step(run) - newest_step(run), 0), bytes_lost(run))
        return harm if expected else Harm(1, 0)

    return trial


def damaged_checkpoint(example: Example, folder: Path, chance: random.Random) -> Harm:
    """The newest checkpoint loses its end, or a bit of it turns; the run goes on from the one before."""
    run = example.copied(folder)
    last = chance.randint(STEPS // 2, STEPS - 1)
    assert ended(forked(lambda: train(run, until=last))) == -signal.SIGKILL
    found = run.checkpoints()
    file = found[-1].path / chance.choice(("model.safetensors", "state.safetensors", "meta.json"))
    content = bytearray(file.read_bytes())
    if chance.random() < 0.5:
        del content[chance.randrange(len(content)) :]
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    before = found[-2].step
    refused = ended(forked(lambda: train(run))) == 1
    steps = max(last_step(run) - before, 0)
    went_on = ended(forked(lambda: resume(run, "--checkpoint", str(before)))) == 0
    whole = refused and went_on and checkpoint_bytes(run) == example.end
    return Harm(1, int(whole), steps)


def poison(example: Example, folder: Path, chance: random.Random) -> Harm:
    """Batches whose loss isn't finite, some of them in a row, and a kill somewhere: skipped, or gone back from."""
    first, count = chance.randint(1, STEPS - 1), chance.randint(1, 8)
    runs = [example.copied(folder / name) for name in ("whole", "killed")]
    harm = _poisoned(example, runs, range(first, first + count), chance, 1)
    return harm if newest_step(runs[0]) == STEPS else replace(harm, survived=0)


def rewinds(example: Example, folder: Path, chance: random.Random) -> Harm:
    """Kills around several rewinds, some of them further back than to the newest of a few checkpoints."""
    keep_last, bad = chance.randint(1, 2), list[int]()
    for _ in range(3):
        first = (bad[-1] if bad else 5) + chance.randint(2, 8)
        bad += range(first, first + chance.randint(4, 3 + 2 * keep_last))
    runs = [example.copied(folder / name) for name in ("whole", "killed")]
    for run in runs:
        config = run.config()
        training = replace(config.training, keep_last=keep_last, rewind_after=3, max_rewinds=9)
        run.write_config(replace(config, training=training))
    harm = _poisoned(example, runs, bad, chance, chance.randint(1, 3))
    rewound = [run.incidents_file.read_text(encoding="utf-8").count('"rewound"') for run in runs]
    return harm if 1 <= rewound[0] <= rewound[1] else replace(harm, survived=0)


def _poisoned(example: Example, runs: list[Run], bad: Sequence[int], chance: random.Random, kills: int) -> Harm:
    """Train two runs with bad batches, one of them killed at moments or at calls that change the disk."""
    end = ended(forked(lambda: train_poisoned(runs[0], bad)))
    run, injected, lost, steps = runs[1], 1, 0, 0
    for _ in range(kills):
        number, moment = chance.randrange(example.calls_of_saves), chance.choice(("before", "after"))

        def work(disk: Disk = Disk(number, moment, die)) -> None:
            with disk.watched():
                train_poisoned(run, bad)

        child = forked(work if chance.random() < 0.5 else lambda: train_poisoned(run, bad))
        injected += killed(child, chance.uniform(0, example.seconds)) == -signal.SIGKILL
        lost += bytes_lost(run)
        steps += max(last_step(run) - newest_step(run), 0)
    # Where it gave up, it has to do so again.
    same = ended(forked(lambda: train_poisoned(run, bad))) == end
    same &= all(end == 0 or (one.path / "diagnosis.json").exists() for one in runs)
    same &= checkpoint_bytes(runs[0]) == checkpoint_bytes(run)
    finite = all(weight.isfinite().all() for weight in runs[0].model("latest").state_dict().values())
    return Harm(injected, injected if same and finite and not lost else 0, steps, lost)


def second_writer(example: Example, folder: Path, _chance: random.Random) -> Harm:
    """Another process wants the run while it's being written."""
    run = example.copied(folder)
    with writing(run.path):
        refused = ended(forked(lambda: train(run))) == 1
    try:
        with writing(run.path):
            pass
    except UserError:
        refused = False
    harm = _judged(example, run, 1, 0, 0)
    return harm if refused else Harm(1, 0)


TRIALS: dict[str, tuple[Trial, int]] = {
    "kill -9 at a random moment of training": (kills_in_training, 500),
    "kill or power cut at a disk call of a save": (kill_in_a_save, 200),
    "kill or power cut while data is prepared": (kill_while_preparing, 100),
    "no room on the disk for a while": (full_disk, 50),
    "Ctrl-C": (stopped(signal.SIGINT), 30),
    "SIGTERM": (stopped(signal.SIGTERM), 30),
    "Ctrl-C twice": (stopped(signal.SIGINT, signal.SIGINT), 30),
    "newest checkpoint cut off, or a bit of it turned": (damaged_checkpoint, 30),
    "batches whose loss isn't finite, and a kill": (poison, 60),
    "batches whose loss isn't finite, several rewinds, and kills": (rewinds, 40),
    "a second process wants the run": (second_writer, 10),
}
