"""What the store in PostgreSQL says to its server: ? stands for a value, never made a part."""

import contextlib
from collections.abc import Iterator
from typing import Any

from shared.errors import UserError

SCHEMA = """
CREATE TABLE settings (name text PRIMARY KEY, value text);
CREATE SEQUENCE rows MINVALUE 0;
CREATE TABLE documents (
    id text PRIMARY KEY, digest bytea, title text, text text, metadata text, pages text
);
CREATE TABLE metadata (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content text, UNIQUE (content)
);
CREATE TABLE chunks (
    row bigint PRIMARY KEY, document text REFERENCES documents ON DELETE CASCADE, start int,
    "end" int, heading text, metadata bigint REFERENCES metadata, digest bytea, length int,
    vector vector
);
CREATE INDEX ON chunks (document);
CREATE INDEX ON chunks (metadata);
CREATE TABLE postings (
    term text, row bigint REFERENCES chunks ON DELETE CASCADE, tf int, PRIMARY KEY (term, row)
);
CREATE INDEX ON postings (row);
"""
BM25_SCORES = """
WITH asked AS (SELECT term, times FROM unnest(?::text[], ?::float8[]) AS counts(term, times)),
    sizes AS (SELECT count(*)::float8 AS n, avg(length)::float8 AS average FROM chunks),
    weights AS (
        SELECT term, times * ln(1 + (n - count(*) + 0.5) / (count(*) + 0.5)) AS weight
        FROM asked JOIN postings USING (term), sizes GROUP BY term, times, n
    )
SELECT p.row, sum(weight * tf / (tf + ?::float8 * (1 - ?::float8 + ?::float8 * length / average)))
FROM weights JOIN postings p USING (term) JOIN chunks c ON c.row = p.row, sizes
WHERE ?::bigint[] IS NULL OR p.row = ANY(?::bigint[])
GROUP BY p.row ORDER BY 2 DESC, p.row LIMIT ?
"""
NEAREST = """
SELECT row, -(vector <#> ?) FROM chunks WHERE ?::bigint[] IS NULL OR row = ANY(?::bigint[])
ORDER BY vector <#> ?, row LIMIT ?
"""


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say an error of the server in one line."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{what} cannot be used: {why}") from error


def connect(url: str, schema: str) -> Any:
    """A connection that looks into the schema first."""
    try:
        import psycopg
    except ImportError as error:
        raise UserError("PostgreSQL needs the extra: uv sync --extra postgres") from error
    with told("PostgreSQL"):
        connection = psycopg.connect(url, autocommit=True)
        path = "SELECT set_config('search_path', quote_ident(%s) || ', public', false)"
        connection.execute(path, (schema,))
        connection.execute("SET hnsw.iterative_scan = strict_order")
    return connection
