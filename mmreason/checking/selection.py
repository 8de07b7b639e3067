"""What `data.pass_rate`, `data.mix` and `data.order` make of the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmreason.checking.findings import Findings
from mmreason.checking.rows import Row
from mmreason.config import DataConfig
from mmreason.difficulty import kept
from mmreason.errors import DataError


def selected(rows: Sequence[Row], data: DataConfig, found: Findings) -> tuple[list[Row], list[str]]:
    """The rows that training would come to, those of the held-out data with them; and lines about what is left out."""
    from mmreason.order import order_of  # with numpy, which a mistake in the config need not wait for

    train = [row.sample for row in rows if row.which == "train"]
    try:
        left = kept(data, train)
        order = order_of(data, left, 0)
    except DataError as error:
        found.add("data", str(error))
        return list(rows), []
    lines = []
    if data.pass_rate is not None:
        low, high = data.pass_rate
        lines.append(f"data.pass_rate {low:g} to {high:g} leaves {len(left)} of {len(train)} training rows")
    if data.mix:
        for stream in order.streams:
            source, share = left[stream.rows[0]].source, stream.count / order.length
            lines.append(f"an epoch has {stream.count} rows of {source} ({share:.1%}), which has {len(stream.rows)}")
    if data.order == "gaussian" and left:
        times = Counter(order.epoch(0))
        most = max(times.values())
        lines.append(f"data.order gaussian: the first epoch has {len(times)} different rows, one of them {most} times")
    used = {left[index].id for stream in order.streams for index in stream.rows}
    return [row for row in rows if row.which == "eval" or row.sample.id in used], lines
