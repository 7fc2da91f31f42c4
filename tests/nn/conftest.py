"""Both ways to normalize ghosts run every law, whichever the device would choose."""

import pytest

from rebatch.nn import normalization


@pytest.fixture(params=["sliced", "folded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make every ghost count as large (sliced) or as small (folded)."""
    monkeypatch.setattr(normalization, "LARGE_GHOST", 0 if request.param == "sliced" else 2**60)
    return str(request.param)
