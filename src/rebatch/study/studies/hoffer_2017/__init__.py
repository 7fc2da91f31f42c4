"""Hoffer, Hubara and Soudry (2017), "Train longer, generalize better", arXiv 1705.08741: its experiments as studies."""
