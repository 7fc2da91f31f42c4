"""Records -> numbers -> tables, figures and the page. Nothing here imports torch."""
