"""`python -m trio_bridge` on a machine whose wall clock is ahead by SKEWED_BY seconds.

A script: run it with `python -P`, so that the modules beside it are not taken for others.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from trio_bridge.__main__ import main
from trio_bridge.model import utc_now
from trio_bridge.service import Service

AHEAD = timedelta(seconds=float(os.environ.pop("SKEWED_BY", "0")))


def skewed_now() -> datetime:
    return utc_now() + AHEAD


if __name__ == "__main__":
    defaults = Service.__init__.__kwdefaults__
    assert defaults is not None
    assert "now" in defaults
    defaults["now"] = skewed_now
    main()
