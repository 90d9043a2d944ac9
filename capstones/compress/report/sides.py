"""What rows lose, against bytes and against the time of a token: the two sides of a picture."""

from collections.abc import Sequence

from compress.benchmark.lines import Line
from compress.report.scatter import Point


def sides(found: Sequence[Line]) -> list[tuple[str, str, list[Point]]]:
    """Title, unit and points of each side that has any."""
    read = [x for x in found if x.perplexity is not None]
    timed = [x for x in read if x.speed and (x.on_fast_front or not x.like)]
    count = min(timed[0].speed, key=int) if timed else ""
    sizes = [Point(x.name, x.n_bytes / 1e6, x.perplexity, x.on_front) for x in read]
    steps = [
        Point(x.name, 1000 / x.speed[count]["decode_per_second"], x.perplexity, x.on_fast_front)
        for x in timed
    ]
    by_bytes = "What is lost, by bytes", "MB on the disk", sizes
    by_time = "What is lost, by the time of a token", f"ms per new token, threads: {count}", steps
    return [side for side in (by_bytes, by_time) if side[2]]
