"""Tables of the choices by processor: each one made, and switched off in turn.

`benchmarks.train_step` and `benchmarks.inference` measure them with `--choices`.
"""

from __future__ import annotations

from benchmarks.report import table
from benchmarks.workers import Measured

ALL = "every choice made"


def candidate(name: str) -> str:
    """Return the name of the candidate without a choice."""
    return f"without {name}"


def table_of_choices(
    results: dict[str, dict[str, Measured]], images: dict[str, int], chosen: dict[str, str]
) -> str:
    """Return a table of how many times as fast each choice is.

    Args:
        results: By setting, such as a dtype or a size of batch, what each candidate did. `ALL` is
            one of them.
        images: By setting, the images of a step.
        chosen: By choice, the sentence that says what is chosen.
    """
    rows = []
    for setting, measured in results.items():
        made = measured[ALL]
        for name in chosen:
            if candidate(name) not in measured:
                continue
            off = measured[candidate(name)]
            rows.append(
                (
                    name,
                    setting,
                    f"{images[setting] / made.best_s:.2f}",
                    f"{images[setting] / off.best_s:.2f}",
                    f"{off.best_s / made.best_s:.2f}",
                    f"{min(off.cpu_s) / min(made.cpu_s):.2f}",
                    f"{off.peak_bytes / made.peak_bytes:.2f}",
                )
            )
    header = (
        "choice",
        "setting",
        "images/s with",
        "without",
        "times as fast",
        "by processor time",
        "memory without",
    )
    sentences = "\n".join(f"- `{name}`: {sentence}" for name, sentence in chosen.items())
    return (
        f"{table(header, rows)}\n\nThe fastest round of each, taken in turn. Above 1, the "
        f"choice is the faster or smaller one.\n\n{sentences}"
    )
