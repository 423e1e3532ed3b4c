"""Who may use the server: hosts, origins, methods, the token, headers of every answer."""

import pytest
from overwatch_builders import live_run, served
from sanctum_builders import NAME

from esper_ray.karn.overwatch.access import (
    CONTENT_POLICY,
    Access,
    checked_hosts,
    drawn_token,
    is_loopback,
    local_target,
    read_token,
)
from esper_ray.karn.overwatch.routes import POSTS
from esper_ray.leyline.errors import UsageError

TOKEN = "a-token-of-the-tests-1234"
PATHS = ("/", f"/runs/{NAME}", "/api/v1/places", f"/api/v1/runs/{NAME}", "/healthz", "/login", "/static/none", "/no")


@pytest.fixture
def guarded(recorded):
    with served(recorded, token=TOKEN, host="0.0.0.0", address="http://10.1.2.3:8080") as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers(client, path):
    headers = client.get(path).headers
    assert headers["content-security-policy"] == CONTENT_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_policy_is_that_of_the_design():
    assert CONTENT_POLICY == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "a@127.0.0.1", "10.1.2.3", "127.0.0.1:x"]
)
def test_another_host_is_refused_everywhere(client, path, host):
    response = client.get(path, headers={"host": host})
    assert response.status_code == 400
    assert "x-frame-options" not in response.headers
    assert response.headers["content-security-policy"] == CONTENT_POLICY


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "localhost:9000", "[::1]:8080", "LOCALHOST"])
def test_a_name_of_this_machine_is_allowed_with_the_port_of_a_tunnel(client, host):
    assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_a_name_is_allowed_that_the_user_allows(recorded):
    with served(recorded, allowed=checked_hosts(["Box.Example"])) as client:
        assert client.get("/healthz", headers={"host": "box.example:80"}).status_code == 200
        assert client.get("/healthz", headers={"host": "fox.example"}).status_code == 400


@pytest.mark.parametrize("name", ["a/b", "http://box", "box:80", "a b", ""])
def test_an_allowed_host_must_be_a_name(name):
    with pytest.raises(UsageError, match="without a port"):
        checked_hosts([name])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "POST", "TRACE"])
def test_a_method_that_is_not_get_is_refused(client, method):
    response = client.request(method, "/api/v1/places")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "https://127.0.0.1", "file://"]
)
@pytest.mark.parametrize("path", ["/login", f"/api/v1/runs/{NAME}/sql"])
def test_a_post_of_another_origin_is_refused(client, origin, path):
    response = client.post(path, headers={"origin": origin}, json={"query": "SELECT 1"})
    assert response.status_code == 403


def test_a_post_of_the_same_origin_is_accepted(client):
    response = client.post("/login", headers={"origin": "http://127.0.0.1:8080"}, data={"next": "/runs/x"})
    assert (response.status_code, response.headers["location"]) == (303, "/runs/x")
    assert set(POSTS) == {"/login", "/sql"}


@pytest.mark.parametrize(
    "path", ["/api/v1/places", f"/api/v1/runs/{NAME}", f"/api/v1/runs/{NAME}/stream", "/api/v1/no"]
)
def test_without_the_token_the_interface_is_closed(guarded, path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        response = guarded.get(path, headers=headers)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert "token is needed" in response.json()["error"]
    assert guarded.get(f"{path}?token={TOKEN}").status_code == 401


def test_without_the_token_a_page_leads_to_the_login_and_back(guarded):
    response = guarded.get(f"/runs/{NAME}?zoom=1-5&x=%22")
    assert response.status_code == 303
    assert response.headers["location"] == f"/login?next=%2Fruns%2F{NAME}%3Fzoom%3D1-5%26x%3D%2522"
    assert guarded.get(response.headers["location"]).status_code == 200


def test_the_token_is_accepted_as_a_bearer_header(guarded):
    assert guarded.get("/api/v1/places", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_login_sets_a_cookie_that_is_not_the_token(guarded):
    response = guarded.post("/login", data={"token": TOKEN, "next": f"/runs/{NAME}"})
    assert (response.status_code, response.headers["location"]) == (303, f"/runs/{NAME}")
    cookie = response.headers["set-cookie"]
    assert TOKEN not in cookie
    assert cookie.startswith("esper_overwatch_8080=")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert guarded.get("/api/v1/places").status_code == 200


def test_a_wrong_token_gives_the_form_again(guarded, monkeypatch):
    monkeypatch.setattr("esper_ray.karn.overwatch.routes.LOGIN_SECONDS", 0.0)
    response = guarded.post("/login", data={"token": "wrong", "next": "/runs/x"})
    assert response.status_code == 403
    assert "set-cookie" not in response.headers
    assert 'value="/runs/x"' in response.text
    assert guarded.post("/login", content=b"x" * 10_000).status_code == 403
    assert guarded.get("/api/v1/places").status_code == 401


def test_health_login_and_files_of_the_page_need_no_token(guarded):
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/login").status_code == 200
    assert guarded.get("/static/none").status_code == 404


def test_on_an_open_address_an_ip_address_is_allowed_and_a_name_is_not(guarded):
    assert guarded.get("/healthz", headers={"host": "192.168.0.7:8080"}).status_code == 200
    assert guarded.get("/healthz", headers={"host": "evil.example:8080"}).status_code == 400


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil", "evil", "", "/a\nb", "javascript:x", "/\u00e9"]
)
def test_the_way_back_from_the_login_stays_on_this_server(target):
    assert local_target(target) == "/"


def test_a_path_of_this_server_is_a_way_back():
    assert local_target("/runs/x?step=3&sort=a") == "/runs/x?step=3&sort=a"


def test_the_token_of_a_file_goes_before_that_of_the_environment(tmp_path):
    (tmp_path / "token").write_text(f"  {TOKEN}\n")
    assert read_token(tmp_path / "token", "x" * 20) == TOKEN
    assert read_token(None, "x" * 20) == "x" * 20
    assert read_token(None, None) is read_token(None, "") is None


@pytest.mark.parametrize(
    ("content", "text"), [("short", "has 5 characters, at least 16"), ("\u00e9" * 20, "other characters")]
)
def test_a_weak_token_is_refused_and_not_printed(tmp_path, content, text):
    (tmp_path / "token").write_text(content)
    with pytest.raises(UsageError, match=text) as error:
        read_token(tmp_path / "token", None)
    assert content not in str(error.value)


def test_a_token_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none", None)


def test_a_drawn_token_is_long_and_new():
    assert len(drawn_token()) >= 40
    assert drawn_token() != drawn_token()


def test_a_token_is_not_in_the_text_of_the_rules():
    access = Access(host="0.0.0.0", port=1, token=TOKEN)
    assert TOKEN not in repr(access)
    assert access.is_token(TOKEN)
    assert not access.is_token(TOKEN[:-1])
    assert not Access(host="127.0.0.1", port=1).is_token("")


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("box", False)],
)  # fmt: skip
def test_loopback_addresses(host, local):
    assert is_loopback(host) is local


@pytest.mark.parametrize("path", ["/prefix", ""])
def test_behind_a_prefix_every_address_has_it(tmp_path, path):
    """A proxy may remove the prefix, or leave it."""
    live_run(tmp_path)
    with served(tmp_path, root="/prefix", token=TOKEN) as client:
        assert client.get(f"{path}/healthz").status_code == 200
        response = client.get(f"{path}/runs/{NAME}")
        assert response.headers["location"].startswith("/prefix/login?next=%2Fruns%2F")
        response = client.post(f"{path}/login", data={"token": TOKEN, "next": "/runs/x"})
        assert response.headers["location"] == "/prefix/runs/x"
        assert "Path=/prefix;" in response.headers["set-cookie"]
        bearer = {"authorization": f"Bearer {TOKEN}"}
        (line,) = client.get(f"{path}/api/v1/places", headers=bearer).json()["places"]
        assert line["url"] == f"/prefix/runs/{NAME}"
        assert 'data-root="/prefix"' in client.get(f"{path}/runs/{NAME}", headers=bearer).text
