"""Pages are one shell each, with what is missing said, and the files of the page."""

import gzip
import hashlib

import pytest
from overwatch_builders import served
from sanctum_builders import NAME

import esper_ray
from esper_ray.karn.overwatch.assets import REVALIDATE, VENDOR_CACHE, Assets
from esper_ray.karn.overwatch.routes import PAGES

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize("path", [path for path, (_, kind) in PAGES.items() if kind in (None, "run")])
def test_every_page_is_a_shell_with_its_name(client, path):
    name = PAGES[path][0]
    address = path.format(name=NAME, episode=3, seed="r0c0-1", number=1)
    response = client.get(address)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert f'data-page="{name}"' in response.text
    assert 'data-root=""' in response.text
    assert f'data-version="{esper_ray.__version__}"' in response.text


def test_a_page_of_an_unknown_run_is_404_with_the_nearest_one(client):
    response = client.get("/runs/digits-s43/episodes")
    assert response.status_code == 404
    assert f'href="/runs/{NAME}"' in response.text
    assert "ls -d " in response.text


@pytest.mark.parametrize(
    "path", ["/nothing", "/runs", "/runs/", "/sweeps/none", "/comparisons/none", "/evaluations/none"]
)
def test_a_page_that_does_not_exist_says_so(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "there is no " in response.text


@pytest.mark.parametrize("path", [f"/runs/{EVIL}", f"/{EVIL}", f"/sweeps/{EVIL}"])
def test_names_are_escaped(client, path):
    text = client.get(path).text
    assert EVIL not in text
    assert "&lt;script&gt;" in text


@pytest.fixture
def assets(tmp_path):
    (tmp_path / "vendor" / "chart").mkdir(parents=True)
    (tmp_path / "app.js").write_text("export const a = 1;\n" * 200)
    (tmp_path / "small.css").write_text("a {}")
    (tmp_path / "icon.svg").write_text("<svg/>")
    (tmp_path / "vendor" / "chart" / "LICENSE").write_text("MIT")
    (tmp_path / "vendor" / "chart" / "chart.js").write_text("x")
    return tmp_path


@pytest.fixture
def assets_client(assets, recorded, monkeypatch):
    monkeypatch.setattr("esper_ray.karn.overwatch.routes.Assets", lambda: Assets(assets))
    with served(recorded) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "media_type", "cache"),
    [
        ("app.js", "text/javascript; charset=utf-8", REVALIDATE),
        ("small.css", "text/css; charset=utf-8", REVALIDATE),
        ("icon.svg", "image/svg+xml", REVALIDATE),
        ("vendor/chart/chart.js", "text/javascript; charset=utf-8", VENDOR_CACHE),
        ("vendor/chart/LICENSE", "text/plain; charset=utf-8", VENDOR_CACHE),
    ],
)
def test_a_file_has_its_type_its_digest_and_how_long_it_may_be_kept(assets_client, assets, name, media_type, cache):
    response = assets_client.get(f"/static/{name}")
    content = (assets / name).read_bytes()
    assert response.content == content
    assert response.headers["content-type"] == media_type
    assert response.headers["cache-control"] == cache
    tag = response.headers["etag"]
    assert tag == f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    again = assets_client.get(f"/static/{name}", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_a_large_file_is_compressed_for_who_accepts_it(assets_client, assets):
    with assets_client.stream("GET", "/static/app.js", headers={"accept-encoding": "gzip"}) as response:
        content = b"".join(response.iter_raw())
        assert response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(content) == (assets / "app.js").read_bytes()
    with assets_client.stream("GET", "/static/app.js", headers={"accept-encoding": "identity"}) as response:
        assert "content-encoding" not in response.headers


def test_a_changed_file_is_served_as_it_is_now(assets_client, assets):
    before = assets_client.get("/static/small.css").headers["etag"]
    (assets / "small.css").write_text("b {}")
    response = assets_client.get("/static/small.css", headers={"if-none-match": before})
    assert (response.status_code, response.text) == (200, "b {}")


@pytest.mark.parametrize(
    "name", ["../routes.py", "%2e%2e/routes.py", "/etc/passwd", "vendor", "", "none.js", "app.js/"]
)
def test_only_files_of_the_page_are_served(assets_client, name):
    assert assets_client.get(f"/static/{name}").status_code == 404


def test_the_files_of_the_package_are_found_without_a_path():
    assert all(not name.startswith(("/", ".")) for name in Assets().names)
