"""The search: settings, samplers, the gate before training, the study on disk and the driver."""

from nas.search.config import SearchConfig
from nas.search.driver import SearchStopped, run_search
from nas.search.events import (
    Ended,
    Event,
    Finished,
    FrontTimed,
    GoesOn,
    Interrupted,
    Modelled,
    Proposed,
    Resumed,
    Started,
    Summary,
    Timing,
)

__all__ = [
    "Ended",
    "Event",
    "Finished",
    "FrontTimed",
    "GoesOn",
    "Interrupted",
    "Modelled",
    "Proposed",
    "Resumed",
    "SearchConfig",
    "SearchStopped",
    "Started",
    "Summary",
    "Timing",
    "run_search",
]
