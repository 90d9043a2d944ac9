"""How long does our LSTM take beside a loop over torch's own cell? One thread, in turns.

uv run study bench 11
"""

import statistics
import time

import torch

from week11.lstm_gru import LSTM

BATCH, TIME, WIDTH = 32, 50, 64


def bench(repeats: int = 20) -> dict:
    """Read the same batch with both and go back; medians of the seconds.

    torch's fused `nn.LSTM` is another two or three times as fast as its cells: it leaves Python
    only once.

    Parameters
    ----------
    repeats
        How many times are taken of each, in turns; five more warm up.
    """
    torch.manual_seed(0)
    ours, cell = LSTM(WIDTH, WIDTH), torch.nn.LSTMCell(WIDTH, WIDTH)
    cell.load_state_dict({n.removesuffix("_l0"): p for n, p in ours.state_dict().items()})
    x = torch.randn(BATCH, TIME, WIDTH)

    def loop(x):
        state, outputs = None, []
        for t in range(TIME):
            state = cell(x[:, t], state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1)

    sides = {"ours": lambda: ours(x)[0], "theirs": lambda: loop(x)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats + 5):
            for name, read in sides.items():
                start = time.perf_counter()
                read().sum().backward()
                seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(times[5:]) for name, times in seconds.items()}
    apart = (sides["ours"]() - sides["theirs"]()).abs().max().item()
    return {
        "name": f"LSTM over {TIME} steps, batch {BATCH}, width {WIDTH}, against torch's LSTMCell",
        "ours_seconds": medians["ours"],
        "reference_seconds": medians["theirs"],
        "ratio": medians["ours"] / medians["theirs"],
        "limit": 3.0,
        "equal_work": f"outputs at most {apart:.0e} apart",
    }
