"""A session's events on their way to whoever watches them, seen by trackers as they pass."""

from collections.abc import Callable, Iterable, Iterator

from llamita.config import RunConfig, TrackingConfig
from llamita.runs.folder import Run
from llamita.tracking.figures import figures, step_of, texts
from llamita.tracking.tensorboard import TensorBoard, check_tensorboard
from llamita.tracking.tracker import Tracker
from llamita.tracking.trackio import Trackio, check_trackio
from llamita.tracking.wandb import Wandb, check_wandb
from llamita.training.events import Event, Rewound
from llamita.training.session import Session

# Called with what there is to say to people.
Tell = Callable[[str], None]

_KINDS: dict[str, Callable[[Run, RunConfig], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}
_CHECKS = {"tensorboard": check_tensorboard, "wandb": check_wandb, "trackio": check_trackio}


def check_trackers(config: TrackingConfig) -> None:
    """UserError if a tracker that is asked for isn't installed or needs a login first."""
    for name in config.to:
        _CHECKS[name]()


def tracked(events: Iterable[Event], session: Session, tell: Tell) -> Iterator[Event]:
    """Hand a session's events on, and what there is to show of them to the trackers of its config.

    A tracker that fails is told of, once, and left out from there on.
    """
    names = dict.fromkeys(session.config.tracking.to)
    trackers = _Trackers(tell)
    for name in names:
        trackers.add(name, session.run, session.config)
    begin, begun, failed = session.state.step or -1, False, True
    try:
        for event in events:
            if not begun:
                # Only now is it sure that no other process is training the run.
                trackers.start(begin)
                begun = True
            trackers.note(event)
            yield event
        failed = False
    finally:
        trackers.finish(failed)


class _Trackers:
    """Those that haven't failed, by name."""

    def __init__(self, tell: Tell) -> None:
        self._working: dict[str, Tracker] = {}
        self._tell = tell
        self._step = 0

    def add(self, name: str, run: Run, config: RunConfig) -> None:
        try:
            self._working[name] = _KINDS[name](run, config)
        except Exception as error:
            self._leave_out(name, error)

    def start(self, step: int) -> None:
        self._each(lambda name, tracker: self._tell(f"tracked by {name}: {tracker.start(step)}"))
        self._step = max(step, 0)

    def note(self, event: Event) -> None:
        if isinstance(event, Rewound):
            self._step = event.to_step
            self._each(lambda _, tracker: tracker.start(event.to_step))
        # What the guard skipped is told of with a later report.
        step = self._step = max(self._step, step_of(event))
        self._each(lambda _, tracker: _show(event, step, tracker))

    def finish(self, failed: bool) -> None:
        self._each(lambda _, tracker: tracker.finish(failed))

    def _each(self, act: Callable[[str, Tracker], object]) -> None:
        for name, tracker in list(self._working.items()):
            try:
                act(name, tracker)
            except Exception as error:
                del self._working[name]
                self._leave_out(name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self._tell(f"warning: {name} is left out from here on: {reason}")


def _show(event: Event, step: int, tracker: Tracker) -> None:
    if found := figures(event):
        tracker.scalars(step, found)
    for name, text in texts(event).items():
        tracker.text(step, name, text)
