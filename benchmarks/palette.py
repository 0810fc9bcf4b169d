"""The colours of the plots. No library is needed to know them."""

COLOURS = {
    "sparklet": "#0072b2",
    "plain": "#d55e00",
    "tuned": "#8c8c8c",
    "sparklet_cold": "#56b4e9",
    "duckdb": "#009e73",
    "polars": "#cc79a7",
    "one_job": "#d55e00",
    "raw": "#8c8c8c",
}
"""Of each side, on every plot: Okabe and Ito's colours, which the colour-blind can tell apart, and grey. Blue is
Sparklet, vermilion a spark-submit with its defaults."""
