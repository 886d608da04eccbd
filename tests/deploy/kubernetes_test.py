#!/usr/bin/env python3
"""deploy/kubernetes: kubectl renders it, what comes out is of the right form (kubernetes/schemas.yaml), and
its parts know each other. What a cluster makes of it is not seen here.

  kubernetes_test.py SOURCE_DIR
"""

import copy
import json
import os
import re
import subprocess
import sys

from harness import checks, need, run, skip

try:
    import jsonschema
    import yaml
except ImportError as error:
    skip(f"needs {error.name} (Debian packages python3-jsonschema, python3-yaml)")

SOURCE = sys.argv[1]
KUBERNETES = os.path.join(SOURCE, "deploy/kubernetes")
kubectl = need("kubectl", "kubernetes-client")
# The one of Debian 12 (1.20) has a kustomize of 2019, which knows no `resources` that are directories.
version = json.loads(subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True,
                                    text=True, check=True).stdout)["clientVersion"]
if (int(version["major"]), int(re.match(r"\d+", version["minor"])[0])) < (1, 22):
    skip(f"needs kubectl 1.22 or later, not {version['gitVersion']} (Debian 13: package kubernetes-client)")


def load(path):
    with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
        return yaml.safe_load(file)


SCHEMAS = load("tests/deploy/kubernetes/schemas.yaml")


def rendered(directory):
    return list(yaml.safe_load_all(run([kubectl, "kustomize", os.path.join(KUBERNETES, directory)])))


BASE, EXAMPLE = rendered("base"), rendered("overlays/example")
RUNTIME = load("deploy/kubernetes/kserve/cluster-serving-runtime.yaml")


def error_of(thing):
    """What is wrong with an object's form; None: nothing."""
    schema = SCHEMAS["kinds"].get(thing["kind"])
    assert schema, f"tests/deploy/kubernetes/schemas.yaml: no kind {thing['kind']}"
    validator = jsonschema.Draft7Validator({"$defs": SCHEMAS["$defs"], "allOf": [schema]})
    error = jsonschema.exceptions.best_match(validator.iter_errors(thing))
    return error and f"{thing['kind']} at {'/'.join(map(str, error.absolute_path))}: {error.message}"


def one(things, kind, name="thresher"):
    found = [thing for thing in things if thing["kind"] == kind and thing["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pod(things):
    return one(things, "Deployment")["spec"]["template"]


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


def the_schemas_are_schemas():
    for schema in SCHEMAS["kinds"].values():
        jsonschema.Draft7Validator.check_schema({"$defs": SCHEMAS["$defs"], "allOf": [schema]})


def all_is_of_the_right_form():
    for thing in [*BASE, *EXAMPLE, RUNTIME]:
        assert not error_of(thing), error_of(thing)


def a_misspelt_field_is_found():
    for field in ("readinessProbes", "securitycontext"):
        wrong = copy.deepcopy(one(BASE, "Deployment"))
        wrong["spec"]["template"]["spec"]["containers"][0][field] = {}
        assert error_of(wrong), field
    wrong = copy.deepcopy(one(BASE, "PodDisruptionBudget"))
    wrong["spec"]["selector"] = {}
    assert error_of(wrong), "an empty selector"


def selectors_select_the_pods():
    for things in (BASE, EXAMPLE):
        labels = pod(things)["metadata"]["labels"].items()
        selectors = [thing["spec"]["selector"] for thing in things if thing["kind"] == "Service"]
        selectors += [thing["spec"]["selector"]["matchLabels"] for thing in things
                      if thing["kind"] in ("Deployment", "PodDisruptionBudget")]
        assert len(selectors) == 4, selectors
        for selector in selectors:
            assert selector and selector.items() <= labels, selector


def services_and_probes_name_ports_that_are_there():
    for things in (BASE, EXAMPLE):
        ports = {port["name"]: port["containerPort"] for port in pod(things)["spec"]["containers"][0]["ports"]}
        assert ports == {"grpc": 8001, "http": 8002}, ports
        for thing in things:
            if thing["kind"] == "Service":
                for port in thing["spec"]["ports"]:
                    assert ports[port["targetPort"]] == port["port"], port
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pod(things)["spec"]["containers"][0][probe]["httpGet"]["port"] in ports, probe


def a_stop_has_the_time_it_takes():
    for things in (BASE, EXAMPLE):
        spec = pod(things)["spec"]
        env = {item["name"]: item["value"] for item in spec["containers"][0]["env"]}
        lame_duck, drain = seconds(env["THRESHER_LAME_DUCK"]), seconds(env["THRESHER_DRAIN_TIMEOUT"])
        assert spec["terminationGracePeriodSeconds"] > lame_duck + drain
        probe = spec["containers"][0]["readinessProbe"]
        assert lame_duck > probe["periodSeconds"] * probe["failureThreshold"], "nobody looks away in time"


def pods_pass_the_restricted_standard():
    for things in (BASE, EXAMPLE):
        spec = pod(things)["spec"]
        container = spec["containers"][0]["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
        assert container["allowPrivilegeEscalation"] is False and container["readOnlyRootFilesystem"]
        assert container["capabilities"] == {"drop": ["ALL"]}


def each_replica_is_scraped_once_under_the_job_that_the_rules_want():
    monitor = one(EXAMPLE, "ServiceMonitor")["spec"]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["http"]
    services = [thing for thing in EXAMPLE if thing["kind"] == "Service"
                and monitor["selector"]["matchLabels"].items() <= thing["metadata"]["labels"].items()
                and any(port["name"] == "http" for port in thing["spec"]["ports"])]
    assert len(services) == 1, services
    assert services[0]["metadata"]["labels"][monitor["jobLabel"]] == "thresher"


def the_autoscaler_reads_what_the_adapter_makes_of_a_recorded_series():
    scaler = one(EXAMPLE, "HorizontalPodAutoscaler")["spec"]
    target = one(EXAMPLE, scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"], "the Deployment and the autoscaler both say how many"
    rule = load("deploy/kubernetes/components/autoscale/adapter-values.yaml")["rules"]["custom"][0]
    assert scaler["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    series = re.match(r"[\w:]+", rule["seriesQuery"])[0]
    recorded = {entry.get("record"): entry["expr"] for group in one(EXAMPLE, "PrometheusRule")["spec"]["groups"]
                for entry in group["rules"]}
    assert series in recorded, series
    for label in rule["resources"]["overrides"]:
        assert re.search(rf"by \([^)]*\b{label}\b", recorded[series]), f"{series} has no {label}"


def the_rules_are_those_of_deploy_prometheus():
    groups = []
    for name in sorted(os.listdir(f"{SOURCE}/deploy/prometheus/rules")):
        groups += load(f"deploy/prometheus/rules/{name}")["groups"]
    assert one(EXAMPLE, "PrometheusRule")["spec"]["groups"] == groups


def mounts_have_volumes_and_the_configuration_is_there():
    spec = pod(EXAMPLE)["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in spec["containers"][0]["volumeMounts"]:
        assert mount["name"] in volumes and mount["readOnly"], mount
    config = one(EXAMPLE, "ConfigMap", volumes["config"]["configMap"]["name"])
    assert list(config["data"]) == ["server.textproto"]
    assert spec["containers"][0]["args"] == ["--config", "/etc/thresher/server.textproto"]


def other_files_parse():
    envoy = load("deploy/proxy/envoy.yaml")["static_resources"]
    clusters = {cluster["name"] for cluster in envoy["clusters"]}
    text = json.dumps(envoy["listeners"])
    assert set(re.findall(r'"cluster": "(\w+)"', text)) == clusters
    compose = load("deploy/compose.yaml")
    for service, what in compose["services"].items():
        for volume in what.get("volumes", []):
            source = volume.split(":")[0]
            there = (os.path.exists(os.path.join(SOURCE, "deploy", source)) if source.startswith(".")
                     else source in compose["volumes"])
            assert there, f"compose.yaml: {service}: {source}"
        for other in what.get("depends_on", []):
            assert other in compose["services"], f"compose.yaml: {service}: {other}"
    for name in ("datasources", "dashboards"):
        assert load(f"deploy/grafana/provisioning/{name}/thresher.yaml")["apiVersion"] == 1


checks(the_schemas_are_schemas, all_is_of_the_right_form, a_misspelt_field_is_found,
       selectors_select_the_pods, services_and_probes_name_ports_that_are_there,
       a_stop_has_the_time_it_takes, pods_pass_the_restricted_standard,
       each_replica_is_scraped_once_under_the_job_that_the_rules_want,
       the_autoscaler_reads_what_the_adapter_makes_of_a_recorded_series,
       the_rules_are_those_of_deploy_prometheus, mounts_have_volumes_and_the_configuration_is_there,
       other_files_parse)
