#!/usr/bin/env python3
"""Debian's Prometheus, with our rules, scrapes a server under load: every query of every panel and
every recording rule has data, and every series that an alert reads is there.

  scrape_test.py SOURCE_DIR THRESHERD THRESHER
"""

import glob
import json
import os
import re
import socket
import sys
import urllib.parse

from harness import Process, checks, eventually, get, need, temporary_directory
from traffic import BusyServer

SOURCE, THRESHERD, THRESHER = sys.argv[1:]
RULES = os.path.join(SOURCE, "deploy/prometheus/rules/*.yml")
prometheus = need("prometheus", "prometheus")

# Not on every machine, the cgroup's quota and its account; not of this server, which has neither a
# profile of its models' quality nor tokens nor certificates: queries, and the series that tells.
OF_THE_MACHINE = {r"thresher_elastic": "thresher_elastic_level_count",
                  r"thresher_quality_profile": "thresher_quality_profile_active",
                  r"thresher_auth_(accepted|refused)": "thresher_auth_accepted_total",
                  r"thresher_tls_certificate": "thresher_tls_certificate_expiry_timestamp_seconds",
                  r"thresher_cpu_quota": "thresher_cpu_quota_cores",
                  r"thresher_cpu_(throttled|periods)": "thresher_cpu_throttled_seconds_total"}
# Where there is no decoder to serve.
OF_TEXTS = re.compile(r"first_token|inter_token|(prompt|generated)_tokens|_texts|generation|decode_kv"
                      r"|kv_(cache|held)|prefix_cache")


class Prometheus(Process):
    def __init__(self, directory, target):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        config = os.path.join(directory, "prometheus.yml")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({  # JSON is YAML.
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [RULES],
                "scrape_configs": [{"job_name": "thresher", "static_configs": [{"targets": [target]}]}],
            }, file)
        super().__init__([prometheus, f"--config.file={config}", f"--storage.tsdb.path={directory}/data",
                          f"--web.listen-address={self.address}", "--log.level=warn"],
                         env={**os.environ, "GOMAXPROCS": "1"})

    def api(self, path, **parameters):
        status, body = get(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        if not self.running():
            raise AssertionError(f"prometheus ended:\n{self.said(self.error)}")
        if status == 0 or status == 503:  # Not up yet.
            return None
        answer = json.loads(body)
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def has_data(self, query):
        data = self.api("query", query=query)
        return data is not None and any(sample["value"][1] != "NaN" for sample in data["result"])


def panel_queries():
    """Of all dashboards, with everything chosen: (where, query)."""
    for path in sorted(glob.glob(f"{SOURCE}/deploy/grafana/dashboards/*.json")):
        with open(path, encoding="utf-8") as file:
            of = json.load(file)
        for panel in of["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "30s")
                yield f"{of['title']}: {panel['title']}", re.sub(r"\$\w+", ".*", query)
        for variable in of["templating"]["list"]:
            if selector := re.match(r"label_values\((.*), \w+\)$", variable["query"]["query"]
                                    if isinstance(variable["query"], dict) else ""):
                yield f"{of['title']}: ${variable['name']}", re.sub(r"\$\w+", ".*", selector[1])


def rules(scraper):
    groups = eventually(lambda: scraper.api("rules"), "prometheus answers")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def every_query_has_data():
    with temporary_directory() as directory, \
            BusyServer(THRESHERD, THRESHER, SOURCE) as server, \
            Prometheus(directory, server.http) as scraper:
        loaded = rules(scraper)
        wanted = list(panel_queries())
        for rule in loaded:
            wanted.append((f"rule {rule['name']}", rule["name"] if rule["type"] == "recording" else ""))
            if rule["type"] == "alerting":
                # Its comparison has no data as long as all is well, but what it compares has.
                wanted.pop()
                scraper.api("query", query=rule["query"])  # Parses.
                for name in set(re.findall(r"\b(?:\w+:)?(?:thresher|process)_\w+(?::\w+)?|\bup\b",
                                           rule["query"])):
                    wanted.append((f"alert {rule['name']}", name))
        assert len([rule for rule in loaded if rule["type"] == "alerting"]) > 10, loaded

        missing, absent = {}, set()
        _, metrics = get(f"http://{server.http}/metrics")

        def everywhere():
            server.check()
            missing.clear()
            for where, query in wanted:
                if (any(re.search(pattern, query) and series not in metrics
                        for pattern, series in OF_THE_MACHINE.items())
                        or OF_TEXTS.search(query) and not server.generates):
                    scraper.api("query", query=query)  # Parses.
                    absent.add(query)
                elif not scraper.has_data(query):
                    missing[query] = where
            return not missing
        try:
            eventually(everywhere, "every query has data")
        except AssertionError as error:
            gaps = "\n".join(f"{where}: no data: {query}" for query, where in missing.items())
            raise AssertionError(f"{error}\n{gaps}") from None
        queries = {query for _, query in wanted}
        print(f"{len(queries - absent)} queries have data; {len(absent)} have none here: there is no CPU "
              "quota, or no decoder" if absent else f"{len(queries)} queries have data")
        broken = [rule["name"] + ": " + rule.get("lastError", "") for rule in rules(scraper)
                  if rule["health"] == "err"]
        assert not broken, broken
        # All is well with this server, as far as its alerts go.
        firing = [alert["labels"]["alertname"] for alert in scraper.api("alerts")["alerts"]
                  if alert["state"] == "firing" and not alert["labels"]["alertname"].endswith("Burn")]
        assert not firing, firing


checks(every_query_has_data)
