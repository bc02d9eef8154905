"""The rank processes that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.pool import RankPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """Four ranks, of which a call may use fewer; the first call starts them."""
    pool = RankPool(4)
    yield pool
    pool.close()
