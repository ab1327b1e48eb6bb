"""Names of prompt blocks."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortator.gateway.block_hashes import block_hashes, chain_salt

SALT = chain_salt(tenant="acme", model="tiny")
token_lists = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(token_lists, token_lists, st.integers(1, 8))
def test_equal_prefixes_have_equal_hashes_and_only_those(first, second, tokens_per_block):
    a = block_hashes(first, tokens_per_block=tokens_per_block, salt=SALT)
    b = block_hashes(second, tokens_per_block=tokens_per_block, salt=SALT)
    assert len(a) == len(first) // tokens_per_block
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        end = (index + 1) * tokens_per_block
        assert (x == y) == (first[:end] == second[:end])


def test_hashes_chain_so_the_same_block_elsewhere_is_another():
    [first, second] = block_hashes([1, 2, 1, 2], tokens_per_block=2, salt=SALT)
    assert first != second


def test_hashes_are_stable_across_processes_and_versions():
    # Workers and gateways of different releases must agree: change this only with a migration.
    assert block_hashes([1, 2, 3, 4, 5], tokens_per_block=2, salt=SALT) == [
        13793347351826158478,
        9414786997612682797,
    ]


def test_hashes_fit_64_bits_and_arrays_give_the_same():
    ids = list(range(1000))
    hashes = block_hashes(ids, tokens_per_block=16, salt=SALT)
    assert all(0 <= value < 2**64 for value in hashes)
    assert block_hashes(array("I", ids), tokens_per_block=16, salt=SALT) == hashes


def test_salts_keep_tenants_and_models_apart():
    salts = {
        chain_salt(tenant=tenant, model=model)
        for tenant, model in [("", ""), ("a", "b"), ("ab", ""), ("", "ab"), ("a", "c"), ("b", "a")]
    }
    assert len(salts) == 6


def test_a_block_needs_a_token():
    with pytest.raises(ValueError, match="at least 1"):
        block_hashes([1], tokens_per_block=0, salt=SALT)
