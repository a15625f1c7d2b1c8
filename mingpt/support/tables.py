"""Numbers as tables show them."""

import numpy as np


def with_spread(values: list[float], digits: int = 1, sign: str = "") -> str:
    """The mean and, of several values, the sample standard deviation: "93.3 ± 3.8".

    `sign="+"` shows the sign of the mean.
    """
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.{digits}f}{spread}"
