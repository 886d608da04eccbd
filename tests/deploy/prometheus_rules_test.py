#!/usr/bin/env python3
"""Rules and configuration of deploy/prometheus under promtool: they parse, their unit tests hold, and
each alert has a test that fires it, one that does not, and a part in docs/alerts.md.

  prometheus_rules_test.py SOURCE_DIR
"""

import glob
import os
import re
import shutil
import sys

from harness import checks, need, run

SOURCE = sys.argv[1]
PROMETHEUS = os.path.join(SOURCE, "deploy/prometheus")
RULES = sorted(glob.glob(f"{PROMETHEUS}/rules/*.yml"))
TESTS = sorted(glob.glob(f"{SOURCE}/tests/deploy/prometheus/*_test.yml"))
promtool = need("promtool", "prometheus")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def alerts():
    return re.findall(r"^ *- alert: (\w+)$", read(f"{PROMETHEUS}/rules/alerts.yml"), re.MULTILINE)


def the_configuration_is_valid():
    run([promtool, "check", "config", f"{PROMETHEUS}/prometheus.yml"])


def the_rules_are_valid():
    run([promtool, "check", "rules", *RULES])


def the_alertmanager_configuration_is_valid():
    if amtool := shutil.which("amtool"):
        run([amtool, "check-config", f"{PROMETHEUS}/alertmanager.yml"])
    else:
        print("(not checked: needs amtool, Debian package prometheus-alertmanager)")


def the_unit_tests_hold():
    run([promtool, "test", "rules", *TESTS])


def each_alert_is_seen_to_fire_and_not_to_fire():
    fires, silent = set(), set()
    for path in TESTS:
        # A piece for each evaluation.
        for piece in read(path).split("eval_time:")[1:]:
            if name := re.search(r"alertname: (\w+)", piece):
                (fires if "exp_alerts:" in piece else silent).add(name[1])
    assert alerts(), "no alerts"
    for alert in alerts():
        assert alert in fires, f"{alert}: no test fires it"
        # A series of each firing test that does not fire it counts as well: promtool compares all.
        assert alert in silent, f"{alert}: no test shows it silent"


def each_alert_is_told_of():
    page = read(f"{SOURCE}/docs/alerts.md")
    for alert in alerts():
        assert re.search(rf"^## .*\b{alert}\b", page, re.MULTILINE), f"docs/alerts.md: no part {alert}"
    for link in re.findall(r"runbook: docs/alerts.md#(\w+)", read(f"{PROMETHEUS}/rules/alerts.yml")):
        assert re.search(rf"^## {link}$", page, re.MULTILINE | re.IGNORECASE), f"no heading {link}"


def the_kubernetes_rules_are_the_same():
    made = run([os.path.join(SOURCE, "deploy/kubernetes/make-prometheus-rule")])
    assert made == read(f"{SOURCE}/deploy/kubernetes/components/prometheus/rule.yaml"), (
        "deploy/kubernetes/components/prometheus/rule.yaml is not of these rules; renew it:\n"
        "deploy/kubernetes/make-prometheus-rule > deploy/kubernetes/components/prometheus/rule.yaml")


checks(the_configuration_is_valid, the_rules_are_valid, the_alertmanager_configuration_is_valid,
       the_unit_tests_hold, each_alert_is_seen_to_fire_and_not_to_fire, each_alert_is_told_of,
       the_kubernetes_rules_are_the_same)
