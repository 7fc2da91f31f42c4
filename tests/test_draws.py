import numpy as np

from rebatch import draws


def test_an_epochs_order_is_a_permutation_that_can_be_drawn_again() -> None:
    order = draws.order(3, 5, 97)
    np.testing.assert_array_equal(np.sort(order), np.arange(97))
    np.testing.assert_array_equal(draws.order(3, 5, 97), order)


def test_seeds_epochs_and_purposes_have_streams_of_their_own() -> None:
    streams = [(s, p, e) for s in (0, 1) for p in ("order", "flip") for e in (0, 1)]
    tables = [draws.generator(*stream).integers(2**62, size=4).tobytes() for stream in streams]
    assert len(set(tables)) == len(streams)


def test_the_streams_are_fixed_so_that_old_runs_can_be_rebuilt() -> None:
    assert draws.order(0, 0, 7).tolist() == [0, 6, 1, 3, 4, 2, 5]
    assert draws.generator(1, "flip", 2).integers(100, size=3).tolist() == [47, 81, 29]
