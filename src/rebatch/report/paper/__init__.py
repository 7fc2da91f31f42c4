"""Figures of a study as SVG, for papers and results: for each study records -> numbers (pure) -> axes (matplotlib)."""
