"""How long a fault is kept up, and the one line that each gets."""

import os
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("CONCAVE_CHAOS") == "long"
"""`make chaos` sets it; without, the short form runs, which is part of `make check`."""


def sized(short: T, long: T) -> T:
    """The one for the short form or the one for the long form."""
    return long if LONG else short


@dataclass
class Tally:
    """What came of one fault."""

    fault: str
    tried: str
    lost: int = 0
    duplicated: int = 0
    overwritten: int = 0
    figures: dict[str, object] = field(default_factory=dict[str, object])

    def line(self) -> str:
        counts = f"lost {self.lost}, duplicated {self.duplicated}, wrongly overwritten {self.overwritten}"
        more = "".join(f"; {name} {value}" for name, value in self.figures.items())
        return f"{self.fault}: tried {self.tried}, {counts}{more}"
