"""The code book: the nearest codes, their moving averages, and several processes."""

import math

import numpy as np
import pytest
import torch

from models.parts.code_book import CodeBook, perplexity
from tests.two_processes import in_two_processes

pytestmark = pytest.mark.usefixtures("one_thread")


def book_of(num_codes, code_size, **changes):
    usual = {"update": "ema", "decay": 0.99, "revive_below": 0.1, "micro_batches": 1}
    return CodeBook(num_codes, code_size, **{**usual, **changes})


def small_book(**changes):
    book = book_of(3, 2, **changes)
    book.codes.data = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return book


def test_an_output_is_named_by_the_code_nearest_to_it():
    outputs = torch.tensor([[1.0, 1.0], [7.0, 1.0], [-1.0, 30.0], [4.9, 4.8]])
    assert small_book()(outputs).tolist() == [0, 1, 2, 0]
    book = book_of(50, 6)
    outputs = torch.randn(4, 7, 6)
    expected = torch.cdist(outputs.flatten(0, 1), book.codes).argmin(1).view(4, 7)
    assert torch.equal(book(outputs), expected)


def test_the_nearest_code_is_the_same_in_mixed_precision():
    book, outputs = book_of(512, 64), torch.randn(500, 64)
    expected = book(outputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(book(outputs), expected)


def test_the_moving_averages_of_a_code_are_those_of_hand_arithmetic():
    book = small_book(decay=0.9)
    book.uses.copy_(torch.tensor([2.0, 1.0, 4.0]))
    book.sums.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 40.0]]))
    outputs = torch.tensor([[1.0, 1.0], [2.0, 0.0], [12.0, 2.0]])
    book.follow(outputs, torch.tensor([0, 0, 1]))
    uses = torch.tensor([1.8 + 0.2 / 3, 0.9 + 0.1 / 3, 3.6])  # 0.9 * 2 + 0.1 * 2 / 3, ...
    sums = torch.tensor([[0.1, 0.1 / 3], [9 + 0.4, 0.2 / 3], [0.0, 36.0]])
    torch.testing.assert_close(book.uses, uses)
    torch.testing.assert_close(book.sums, sums)
    torch.testing.assert_close(book.codes, sums / uses[:, None])


def test_a_code_without_outputs_stays_where_it_is():
    book = small_book(revive_below=0.0, decay=0.9)
    before = book.codes.clone()
    for _ in range(300):  # until the average has forgotten the first outputs of the second code
        book.follow(torch.tensor([[1.0, 2.0], [9.0, 1.0]]), torch.tensor([0, 1]))
        book.follow(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    for _ in range(600):
        book.follow(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    torch.testing.assert_close(book.codes, torch.tensor([[1.0, 2.0], [9.0, 1.0], before[2].tolist()]))


def test_a_book_that_kept_numbers_of_outputs_goes_on_with_shares():
    book, other = small_book(), small_book()
    outputs = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    for _ in range(1000):
        book.follow(outputs, book(outputs))
    state = book.state_dict()
    other.load_state_dict({**state, "uses": 512 * state["uses"], "sums": 512 * state["sums"]})  # as 0.1.0 had it
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-3)
    other.load_state_dict(state)
    assert torch.equal(other.uses, state["uses"])


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_book_in_use_is_kept_where_training_goes_on_with_other_batches(update):
    book = small_book(revive_below=0.1, update=update)
    outputs = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    for _ in range(300):
        book.revive(outputs)
        book.follow(outputs, book(outputs))
    before = book.codes.clone()
    assert len(before.unique(dim=0)) == 3
    book.revive(torch.randn(3000, 2))
    assert torch.equal(book.codes, before)


def test_codes_hardly_used_become_outputs_of_the_batch():
    book = small_book(revive_below=0.05)
    book.uses.copy_(torch.tensor([0.96, 0.02, 0.01]))  # an even use is 1 / 3
    outputs = torch.tensor([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    book.revive(outputs)
    assert book.codes[:2].tolist() == [[0, 0], [10, 0]]
    assert book.codes[2].tolist() in outputs.tolist()
    assert book.uses.tolist() == pytest.approx([0.96, 0.02, 0.1 / 3])
    torch.testing.assert_close(book.sums[2], 0.1 / 3 * book.codes[2])


def test_a_revived_code_has_time_to_find_its_outputs():
    book = small_book(revive_below=0.05, decay=0.99)
    book.revive(torch.randn(30, 2))
    for step in range(100):
        book.follow(torch.zeros(30, 2), torch.zeros(30, dtype=torch.long))
        assert (book.uses[1:] > 0.05 / 3).all() == (step < 68)


def test_no_code_is_revived_where_that_is_not_wanted():
    book = small_book(revive_below=0.0)
    before = book.codes.clone()
    book.revive(torch.randn(3, 2))
    assert torch.equal(book.codes, before)


def test_perplexity_is_the_exponential_of_the_entropy():
    assert perplexity(torch.tensor([5, 5, 5, 5, 0])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([0, 7, 0])).item() == pytest.approx(1)
    shares = np.array([0.2, 0.3, 0.5])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert perplexity(torch.tensor([2, 3, 5])).item() == pytest.approx(expected, rel=1e-6)


def test_codes_are_revived_once_in_a_step():
    book = small_book(revive_below=0.1, decay=0.5, micro_batches=2)
    first, second = torch.randn(30, 2), torch.randn(30, 2)
    book.revive(first)
    assert book.uses.tolist() == pytest.approx([2 * 0.1 / 3] * 3)
    before = {key: value.clone() for key, value in book.state_dict().items()}
    book.follow(first, book(first))
    book.revive(second)
    assert all(torch.equal(value, before[key]) for key, value in book.state_dict().items())
    book.follow(second, book(second))
    assert book.uses.sum().item() == pytest.approx(0.5 * 0.2 + 0.5)


TINY_BOOK = {"decay": 0.5, "revive_below": 0.1}


def follow_as_rank(rank):
    book = book_of(4, 2, micro_batches=2, **TINY_BOOK)
    torch.manual_seed(rank)  # the processes draw differently
    for _ in range(3):
        for outputs in shares_of_two()[rank].chunk(2):
            book.revive(outputs)
            book.follow(outputs, book(outputs))
    return book.state_dict()


def shares_of_two():
    return torch.randn(2, 10, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_two_processes_in_micro_batches_keep_the_same_book_as_one_with_all_the_outputs(tmp_path):
    first, second = in_two_processes(follow_as_rank, tmp_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
    # Again in this process, which draws new codes as the first of the two did, from its first micro-batch.
    book = book_of(4, 2, **TINY_BOOK)
    torch.manual_seed(0)
    share, everything = shares_of_two()[0].chunk(2)[0], shares_of_two().flatten(0, 1)
    book.revive(share)
    for _ in range(3):
        book.follow(everything, book(everything))
    for key, value in book.state_dict().items():
        torch.testing.assert_close(first[key], value)
