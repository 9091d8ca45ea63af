"""Addresses of stores: which kind each is, and no secret of one in a message."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vse_tf import publish
from vse_tf.errors import UserError
from vse_tf.stores.address import address_of, check_table


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("photos.parquet", "parquet"),
        ("/data/My Photos.PARQUET/", "parquet"),
        ("photos.lancedb", "lancedb"),
        ("s3://bucket/photos.lancedb", "lancedb"),
        ("postgresql://localhost/photos", "postgresql"),
        ("postgres://", "postgresql"),
        ("photos.index", None),
        ("parquet", None),
    ],
)
def test_what_an_address_is_of(text, kind):
    found = address_of(text)
    assert (found and found.kind) == kind
    if found:
        assert str(found) == text


SECRET = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=4, max_size=12)


@given(user=SECRET, password=SECRET, key=SECRET)
def test_user_info_and_query_are_hidden(user, password, key):
    user, password, key = (f"Zz{each}zZ" for each in (user, password, key))
    coded = [quote(each, safe="") for each in (user, password, key)]
    address = address_of("postgresql://{}:{}@db.example:5433/photos?sslpassword={}".format(*coded))
    assert str(address) == "postgresql://db.example:5433/photos"
    message = address.hide(f'auth failed for "{user}" with {password}\nin {address.text}; {coded} {key}')
    for text in (repr(address), str(address), message):
        assert not any(secret in text for secret in [user, password, key, *coded])
    assert message.startswith('auth failed for "')


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ann:se/cret@db/photos",
        "postgresql://ann:12#secret@db/photos",
        "postgresql://ann:12?secret@db/photos",
        "postgresql://ann:secret@db:many/photos",
        "postgresql://[ann:secret@db/photos",
        "mysql://ann:secret@db/photos",
        "host=db user=ann password=secret",
    ],
)
def test_a_wrong_address_is_not_repeated(text, tmp_path):
    with pytest.raises(UserError) as caught:
        publish.main([str(tmp_path), "--to", text])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "1a", "a;drop", 'a"b', "ä", "a" * 52])
def test_names_of_tables(name):
    check_table("Photos_2014")
    with pytest.raises(UserError, match="--table"):
        check_table(name)
