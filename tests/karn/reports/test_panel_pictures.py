"""Dashboard rows as pictures, from the responses of a Prometheus server."""

import http.server
import json
import threading
from urllib.parse import parse_qs, urlparse

import pytest

from esper_ray.karn.reports.panel_pictures import Window, draw_row, draw_rows, format_value, legend
from esper_ray.nissa.catalogue.panels import ROWS
from esper_ray.nissa.catalogue.shapes import Panel, Query, Row
from esper_ray.nissa.grafana.prometheus import PrometheusApi, PrometheusError

pytestmark = pytest.mark.integration

END = 1_700_000_000.0


class Answers(http.server.BaseHTTPRequestHandler):
    """Server with responses of Prometheus: 0 to 3 series per query."""

    requests: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012 - of the class on purpose

    def do_GET(self):
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.requests.append((url.path, query))
        if "bad" in query.get("query", ""):
            return self.answer(400, {"status": "error", "error": "parse error: unexpected identifier"})
        return self.answer(200, {"status": "success", "data": self.data(url.path, query)})

    def data(self, path, query):
        if path.endswith("/label/run/values"):
            return ["other", "run"]
        if "empty" in query["query"]:
            return {"result": []}
        series = [{"group": "", "stage": name, "state": name, "head": name} for name in ("one", "two")]
        if path.endswith("query_range"):
            times = [END - 60 + 10 * number for number in range(7)]
            return {
                "result": [
                    {"metric": labels, "values": [[t, str(n % 2)] for n, t in enumerate(times)]} for labels in series
                ]
            }
        return {"result": [{"metric": labels, "value": [END, "0.25"]} for labels in series]}

    def answer(self, status, tree):
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    Answers.requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield PrometheusApi(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.mark.nightly
def test_every_row_becomes_a_picture(api, tmp_path):
    paths = draw_rows(api, "run", tmp_path, 60.0, END)
    assert len(paths) == len(ROWS) == len({path.name for path in paths})
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)
    queries = [query["query"] for _, query in Answers.requests if "query" in query]
    assert len(queries) == sum(len(panel.queries) for row in ROWS for panel in row.panels)
    assert not [query for query in queries if "$" in query]
    assert all('run="run"' in query for query in queries if "ray_esper" in query)


def panel(kind, expression="x", unit="none", **more):
    return Panel("Title", "About.", kind, (Query(expression, "{{stage}} of {{group}}"),), unit, 12, **more)


@pytest.mark.parametrize("kind", ["timeseries", "stat", "bargauge", "state-timeline", "table"])
def test_each_panel_shows_its_series_or_no_data(api, kind):
    row = Row("A row", (panel(kind), panel(kind, "empty")), "well.")
    figure = draw_row(api, "run", row, Window(END - 60, END))
    full, empty = figure.axes
    assert [text.get_text() for text in empty.texts] == ["no data"]
    names = {text.get_text() for text in full.texts} | {label.get_text() for label in full.get_yticklabels()}
    names |= {text.get_text() for text in (full.get_legend().get_texts() if full.get_legend() else ())}
    assert {"one of", "two of"} <= {name.partition(":")[0] for name in names}
    assert full.get_title(loc="left") == "Title"


def test_panels_beyond_the_width_are_drawn_on_the_next_line(api):
    figure = draw_row(api, "run", Row("A row", tuple(panel("stat") for _ in range(3)), "well."), Window(END - 60, END))
    first, second, third = (axes.get_subplotspec() for axes in figure.axes)
    assert (first.colspan, second.colspan, third.colspan) == (range(12), range(12, 24), range(12))
    assert [spec.rowspan.start for spec in (first, second, third)] == [0, 0, 1]


def test_stacked_curves_are_areas_and_steps_colour_numbers(api):
    row = Row(
        "A row", (panel("timeseries", stacked=True), panel("stat", steps=((None, "green"), (0.2, "red")))), "well."
    )
    stacked, stat = draw_row(api, "run", row, Window(END - 60, END)).axes
    upwards, downwards = stacked.collections[:2], stacked.collections[2:]
    assert len(upwards) == len(downwards) == 2
    assert max(path.vertices[:, 1].max() for area in upwards for path in area.get_paths()) == 2.0
    assert [text.get_color() for text in stat.texts if text.get_text() == "0.25"] == ["red", "red"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.256, "percentunit", "25.6%"),
        (25.6, "percent", "26 %"),
        (3 * 2**30, "bytes", "3.00 GiB"),
        (2**20, "bytes", "1.0 MiB"),
        (0.25, "s", "250 ms"),
        (90.0, "s", "90 s"),
        (600.0, "s", "10.0 min"),
        (7200.0, "s", "2.0 h"),
        (12.0, "ops", "12/s"),
        (1234.5678, "none", "1235"),
    ],
)
def test_values_are_formatted_with_their_unit(value, unit, text):
    assert format_value(value, unit) == text


def test_a_legend_is_filled_in_from_the_labels():
    assert legend(Query("x", "{{group}} env {{env}}"), {"env": "3"}) == "env 3"
    assert legend(Query("x", "{{group}}"), {}) == "value"


def test_an_unknown_run_is_refused_with_the_existing_ones(api, tmp_path):
    with pytest.raises(PrometheusError, match="has no run 'mine'; its runs: other, run"):
        draw_rows(api, "mine", tmp_path, 60.0)


def test_a_query_that_cannot_be_evaluated_is_an_error_with_the_reason(api):
    with pytest.raises(PrometheusError, match="parse error: unexpected identifier"):
        api.at("bad")


def test_an_unreachable_server_is_an_error():
    with pytest.raises(PrometheusError, match=r"no Prometheus answers at http://127\.0\.0\.1:1"):
        PrometheusApi("http://127.0.0.1:1").label_values("run")
