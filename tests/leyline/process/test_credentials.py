"""Credentials of URIs, and text without them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_ray.leyline.errors import UsageError
from esper_ray.leyline.process.credentials import has_credentials, masked, without_credentials


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("s3://AKIA:se+cret@bucket/runs?region=eu", "s3://bucket/runs?region=eu"),
        ("s3://AKIA:se/cret@bucket/runs", "s3://bucket/runs"),  # not encoded
        ("s3://AKIA:123/cret@bucket/runs", "s3://bucket/runs"),
        ("s3://AKIA:se?cret@bucket/runs", "s3://bucket/runs"),
        ("s3://AKIA@bucket/runs", "s3://bucket/runs"),
        ("s3://bucket/runs?access_key=A&secret_key=B&region=eu", "s3://bucket/runs?region=eu"),
        ("s3://bucket/runs?region=eu&session_token=T", "s3://bucket/runs?region=eu"),
        ("s3://bucket/runs?secret_key=B", "s3://bucket/runs"),
        ("s3://bucket/runs?Secret-Access-Key=B&scheme=http", "s3://bucket/runs?scheme=http"),
        ("s3://bucket/runs?secret%5Fkey=B", "s3://bucket/runs"),
        ("https://host/o?X-Amz-Signature=1&X-Amz-Security-Token=2&X-Amz-Credential=3&e=4", "https://host/o"),
        ("s3://bucket/x?auth=S&bearer=S&passphrase=S&region=eu", "s3://bucket/x?region=eu"),
        ("s3://bucket/x#secret_key=S", "s3://bucket/x"),
        ("s3://bucket/x?region=eu#S", "s3://bucket/x?region=eu"),
        ("s3://bucket/x;secret_key=S", "s3://bucket/x"),
        ("s3://bucket/x;a=S/y?region=eu", "s3://bucket/x?region=eu"),
        ("s3://bucket/x?region=eu;secret_key=S", "s3://bucket/x?region=eu"),
        ("s3://bucket/x?region=eu%26secret_key=S", "s3://bucket/x?region=eu"),
        ("s3://bucket/x?account_key%3DS", "s3://bucket/x"),
        ("s3://bucket/x%3Fsecret_key%3DS", "s3://bucket/x"),
        ("s3://bucket/x%3Bsecret_key=S", "s3://bucket/x"),
        ("s3://bucket/x?endpoint_override=http%3A%2F%2Fu:p%40host", "s3://bucket/x"),
        ("s3://bucket/x?S", "s3://bucket/x"),
        ("s3:/AKIA:S@bucket/x", "s3:/bucket/x"),
        ("s3:///AKIA:S@bucket/x", "s3:///bucket/x"),
        ("s3:////AKIA:S@bucket/x", "s3:////bucket/x"),
        ("s3%3A%2F%2FAKIA:S@bucket/x", "s3%3A%2F%2Fbucket/x"),
        ("s3://AKIA:S%40bucket/x", "s3://bucket/x"),
        ("s3://AKIA%3AS@bucket/x", "s3://bucket/x"),
        ("s3://AKIA:S#cret@bucket/x", "s3://bucket/x"),
        ("s3://AKIA:S", "s3://"),
        ("/work/s3:/AKIA:S@bucket/x is not a run directory", "/work/s3:/bucket/x is not a run directory"),
        ("file://user:pw@host/x", "file://host/x"),
        ("hdfs://user:pw@namenode:8020/runs", "hdfs://namenode:8020/runs"),
        ("abfs://container:pw@account.dfs.core.windows.net/r", "abfs://container@account.dfs.core.windows.net/r"),
        ("abfs://container@account.dfs.core.windows.net/r", "abfs://container@account.dfs.core.windows.net/r"),
        ("http://admin:pw@grafana:3000/d", "http://grafana:3000/d"),
        ("--storage=s3://A:B@bucket/r", "--storage=s3://bucket/r"),
        ("Cannot parse 's3://A:B@b/r', nor \"gs://C:D@e\".", "Cannot parse 's3://b/r', nor \"gs://e\"."),
    ],
)
def test_credentials_are_removed_and_the_rest_is_unchanged(text, plain):
    assert without_credentials(text) == plain
    assert has_credentials(text) == (text != plain)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/runs?region=eu-central-1&endpoint_override=host:9000&scheme=http",
        "s3://bucket/path@2x/runs",
        "gs://bucket/a@b",
        "hdfs://namenode:8020/user@home",
        "file:///tmp/a:b@c",
        "/runs/a:b@c",
        "abfs://c@a/r?credential_kind=default",
        "file:/tmp/a:b@c",
        "http://[::1]:8265/x",
        "nas:/exports/user@home",
        "s3:/bucket/x",
        "http://host:port/x",
        "esper train ppo --set ppo.lr=1e-3",
        "host:6379",
        "",
    ],
)
def test_text_without_credentials_is_unchanged(text):
    assert without_credentials(text) == text


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
KEY = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=8, max_size=30)
SECRET = st.builds("{}{}".format, KEY, st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+=/", max_size=30))


@given(WORD, WORD, KEY, SECRET, WORD)
def test_no_secret_of_an_s3_uri_survives(bucket, folder, key, secret, region):
    uri = f"s3://{key}:{secret}@{bucket}/{folder}?region={region}&session_token={secret}"
    shown = without_credentials(f"storage {uri} failed")
    assert shown == f"storage s3://{bucket}/{folder}?region={region} failed"


def test_a_secret_that_stands_alone_is_masked_also_decoded():
    uri = "s3://AKIA:se%2Fcret@bucket/r?session_token=TOKEN"
    text = "AKIA, se%2Fcret, se/cret and TOKEN are refused by s3://AKIA:se%2Fcret@bucket/r"
    assert masked(text, uri) == "***, ***, *** and *** are refused by s3://bucket/r"
    assert masked("nothing to hide", "/runs") == "nothing to hide"


@pytest.mark.parametrize("form", ["#secret_key=TOKEN", "?auth=TOKEN", ";x=TOKEN", "?account_key%3DTOKEN", "#a&b=TOKEN"])
def test_the_value_of_every_part_that_is_not_shown_is_masked(form):
    uri = f"s3://bucket/r{form}"
    assert masked(f"TOKEN of {uri} is refused", uri) == "*** of s3://bucket/r is refused"


def test_the_message_of_a_user_error_has_no_credentials():
    assert str(UsageError("s3://A:B@bucket/runs is not empty")) == "s3://bucket/runs is not empty"
