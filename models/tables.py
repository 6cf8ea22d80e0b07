"""Tables of model cards for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from models.card import Metric, ModelCard


def metrics_table(card: ModelCard) -> Table:
    """Show what a card says of errors, beside PCA's."""
    return comparison(f"{card.name}: error in units of counting noise (raw counts: 1)", [(card.name, card.metrics)])


def verdict(card: ModelCard) -> list[str]:
    """Say on which held-out data the network is as good as PCA, and on which PCA is better, with ratios of errors."""
    lines = []
    for data in dict.fromkeys(m.data for m in card.metrics):
        ratios = [(m.counts, m.network / m.pca) for m in card.metrics if m.data == data and m.pca > 0]
        for text, chosen in (
            ("as good as PCA or better", [r for r in ratios if r[1] <= 1.0]),
            ("PCA is better", [r for r in ratios if r[1] > 1.0]),
        ):
            if chosen:
                lines.append(f"{data}: {text} at " + ", ".join(f"{c:,.0f} counts ({r:.2f})" for c, r in chosen))
    return lines


def comparison(title: str, networks: Sequence[tuple[str, Sequence[Metric]]]) -> Table:
    """Show errors of several networks on the same data, beside those of shrunk PCA; the best of a line is bold."""
    table = Table(title=title, title_justify="left")
    for name in (
        "data",
        "counts",
        "judged by",
        "PCA",
        *(n for n, _ in networks),
        "PCA, line",
        *(n for n, _ in networks),
    ):
        table.add_column(name, justify="left" if name in {"data", "judged by"} else "right")
    for metrics in zip(*(m for _, m in networks), strict=True):
        first = metrics[0]
        whole = _bold([first.pca, *(m.network for m in metrics)])
        line = _bold([first.line_pca, *(m.line for m in metrics)])
        table.add_row(first.data, f"{first.counts:,.0f}", first.against, *whole, *line)
    return table


def _bold(values: list[float | None]) -> list[str]:
    known = [v for v in values if v is not None]
    best = min(known) if known else None
    return ["-" if v is None else f"[bold]{v:.4f}[/]" if v == best else f"{v:.4f}" for v in values]
