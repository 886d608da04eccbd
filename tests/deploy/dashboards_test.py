#!/usr/bin/env python3
"""Grafana's dashboards as files: they are what their description makes, and each metric of a running
server is on one of them, or left out with a reason.

  dashboards_test.py SOURCE_DIR THRESHERD THRESHER
"""

import glob
import json
import os
import re
import sys

from harness import checks, eventually, get, run
from traffic import BusyServer

SOURCE, THRESHERD, THRESHER = sys.argv[1:]
GRAFANA = os.path.join(SOURCE, "deploy/grafana")
sys.path.insert(0, GRAFANA)
sys.dont_write_bytecode = True
import dashboards as description  # noqa: E402


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def dashboards():
    paths = sorted(glob.glob(f"{GRAFANA}/dashboards/*.json"))
    assert paths, "no dashboards"
    return [json.loads(read(path)) for path in paths]


def names(text):
    """Names of series in it, recorded ones included."""
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", text))


def shown():
    """Names that panels ask for, directly or through a recording rule."""
    found = names(" ".join(target["expr"] for of in dashboards() for panel in of["panels"]
                           for target in panel.get("targets", [])))
    for path in glob.glob(f"{SOURCE}/deploy/prometheus/rules/*.yml"):
        for rule in read(path).split("- record: ")[1:]:
            record, body = rule.split("\n", 1)
            if record.strip() in found:
                found |= names(body)
    return found


def the_json_is_what_the_description_makes():
    run([os.path.join(GRAFANA, "make-dashboards"), "--check"])


def the_parts_of_a_dashboard_fit():
    uids = set()
    for of in dashboards():
        assert of["uid"] not in uids, f"two of uid {of['uid']}"
        uids.add(of["uid"])
        ids, taken = set(), set()
        variables = {variable["name"] for variable in of["templating"]["list"]}
        for panel in of["panels"]:
            where = f"{of['title']}: {panel['title']}"
            assert panel["id"] not in ids, f"{where}: id twice"
            ids.add(panel["id"])
            grid = panel["gridPos"]
            cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"])
                     for y in range(grid["y"], grid["y"] + grid["h"])}
            assert cells and max(x for x, _ in cells) < 24 and not cells & taken, f"{where}: position"
            taken |= cells
            for target in panel.get("targets", []):
                used = set(re.findall(r"\$\{?(\w+)", target["expr"])) - {"__rate_interval"}
                assert used <= variables, f"{where}: unknown variables {used - variables}"
                assert "%" not in target["expr"], f"{where}: {target['expr']}"


def each_metric_is_shown_or_left_out_with_a_reason():
    seen = shown()
    with BusyServer(THRESHERD, THRESHER, SOURCE) as server:
        def after_a_round():
            server.check()
            return server.calls > 0
        eventually(after_a_round, "a round of calls")
        status, text = get(f"http://{server.http}/metrics")
    assert status == 200, text
    metrics = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert len(metrics) > 40, f"too few to be all: {metrics}"
    for name, kind in metrics.items():
        series = {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
        there = bool(series & seen)
        if name in description.LEFT_OUT:
            assert not there, f"{name} is on a panel, and in LEFT_OUT"
        else:
            assert there, (f"{name} is on no panel: show it in deploy/grafana/dashboards.py, or put it into "
                           "LEFT_OUT there with the reason")
    for name in description.LEFT_OUT:
        assert name in metrics, f"LEFT_OUT: the server has no {name}"


checks(the_json_is_what_the_description_makes, the_parts_of_a_dashboard_fit,
       each_metric_is_shown_or_left_out_with_a_reason)
