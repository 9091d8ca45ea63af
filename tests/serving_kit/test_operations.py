"""The kit on Kubernetes and its alert rules, parsed as the cluster and Prometheus would."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.serving.servers import free_port
from tests.serving_kit.proxies import KIT, compose

# Metrics of tensorflow_model_server as its Prometheus exporter names them, "/" as ":": of
# tensorflow_serving/servables/tensorflow/util.cc, of tensorflow/cc/saved_model/loader.cc, with their labels.
METRICS = {
    ":tensorflow:serving:request_count": {"model_name", "status"},
    ":tensorflow:serving:request_latency_bucket": {"model_name", "API", "entrypoint", "le"},
    ":tensorflow:cc:saved_model:load_attempt_count": {"model_path", "status"},
    "up": set(),
}
OF_PROMETHEUS = {"job", "instance"}
KUSTOMIZATION = yaml.safe_load((KIT / "kustomization.yaml").read_text(encoding="utf-8"))
RESOURCES = [
    resource
    for name in KUSTOMIZATION["resources"]
    for resource in yaml.safe_load_all((KIT / name).read_text(encoding="utf-8"))
]
ALERTS = KIT / "alerts.yaml"


def resource(kind, name):
    (found,) = [each for each in RESOURCES if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(name):
    return resource("Deployment", name)["spec"]["template"]["spec"]


def test_every_manifest_is_named_and_every_name_is_one_resource():
    assert {KIT / name for name in KUSTOMIZATION["resources"]} == set((KIT / "kubernetes").glob("*.yaml"))
    names = [(each["kind"], each["metadata"]["name"]) for each in RESOURCES]
    assert len(set(names)) == len(names) == 10
    assert all(each["apiVersion"] for each in RESOURCES)


def test_the_containers_are_those_of_compose():
    services = compose()["services"]
    for name in ("model-server", "proxy"):
        (container,) = pod(name)["containers"]
        assert container["image"] == services[name]["image"]
        assert container.get("args") or container["command"] == services[name]["command"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert pod(name)["securityContext"]["runAsNonRoot"] is True
        assert pod(name)["automountServiceAccountToken"] is False
        for limit in ("cpu", "memory"):
            assert {limit} <= container["resources"]["limits"].keys() & container["resources"]["requests"].keys()
    assert pod("model-server")["containers"][0]["args"] == services["model-server"]["command"]


def test_the_config_map_has_every_file_that_is_named():
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert all((KIT / name).is_file() for name in generator["files"])
    manifests = "".join((KIT / name).read_text(encoding="utf-8") for name in KUSTOMIZATION["resources"])
    named = set(re.findall(r"/config/([\w.]+)", manifests + (KIT / "nginx.conf").read_text(encoding="utf-8")))
    assert named == set(generator["files"])
    for name in ("model-server", "proxy"):
        volumes = {each["name"]: each for each in pod(name)["volumes"]}
        assert volumes["config"]["configMap"]["name"] == generator["name"]
    # An edited file has to reach the running servers.
    assert KUSTOMIZATION["generatorOptions"]["disableNameSuffixHash"] is True


def test_the_models_are_read_from_a_volume():
    (mount,) = [each for each in pod("model-server")["containers"][0]["volumeMounts"] if each["name"] == "models"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/models", True)
    (volume,) = [each for each in pod("model-server")["volumes"] if each["name"] == "models"]
    assert resource("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])


def test_selectors_ports_and_the_autoscaler_fit():
    for name in ("model-server", "proxy"):
        deployment, service = resource("Deployment", name), resource("Service", name)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert service["spec"]["selector"].items() <= labels.items()
        (port,) = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
        assert service["spec"]["ports"][0]["targetPort"] == port["name"]
        assert (service["spec"]["ports"][0]["port"], port["containerPort"]) == (8501, 8501)
        assert resource("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    scaler = resource("HorizontalPodAutoscaler", "model-server")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "model-server"
    assert 1 < scaler["minReplicas"] < scaler["maxReplicas"]
    assert "replicas" not in resource("Deployment", "model-server")["spec"]
    # The proxy finds the server by the service's name.
    assert "server model-server:8501;" in (KIT / "nginx.conf").read_text(encoding="utf-8")


def test_the_model_server_has_no_way_out():
    policy = resource("NetworkPolicy", "model-server")["spec"]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    sources = [source for rule in policy["ingress"] for source in rule["from"]]
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "proxy"}}} in sources


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash on the PATH")
def test_readiness_reads_the_state_of_the_models(server):
    container = pod("model-server")["containers"][0]
    command = container["readinessProbe"]["exec"]["command"]
    assert command == container["startupProbe"]["exec"]["command"]
    assert command[:2] == ["bash", "/config/ready.sh"]

    def ready(port, *models):
        argv = ["bash", str(KIT / "ready.sh"), *models]
        return subprocess.run(argv, env={"PORT": str(port)}, capture_output=True, check=False).returncode == 0

    assert ready(server.address[1], *command[2:])
    assert not ready(server.address[1], "text_tower", "no_such_model")
    assert not ready(free_port(), "text_tower")


def rules():
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def test_alerts_name_metrics_and_labels_of_the_server():
    for rule in rules():
        found = re.findall(r"(:\w[\w:]*|\bup)\{([^}]*)\}", rule["expr"])
        assert found, rule["alert"]
        for metric, selectors in found:
            assert set(re.findall(r"(\w+)\s*[!=]~?", selectors)) <= METRICS[metric] | OF_PROMETHEUS
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert shown <= set.union(*METRICS.values()) | OF_PROMETHEUS
        assert rule["labels"]["severity"] in {"critical", "warning"}
    assert len({rule["alert"] for rule in rules()}) == len(rules()) == 4


def test_the_metrics_are_scraped_where_they_are():
    annotations = resource("Deployment", "model-server")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in (KIT / "monitoring.config").read_text(encoding="utf-8")


# Series as promtool writes them: a value at the start, added per minute, how often.
UNIT_TEST = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'up{{job="model-server", instance="a"}}', values: '1x30 0x10'}}
      - series: ':tensorflow:cc:saved_model:load_attempt_count{{job="model-server", status="fail", model_path="/x/2"}}'
        values: '_x20 1x30'
      - series: ':tensorflow:serving:request_count{{job="model-server", model_name="x", status="OK"}}'
        values: '0+100x40'
      - series: ':tensorflow:serving:request_count{{job="model-server", model_name="x", status="INVALID_ARGUMENT"}}'
        values: '0+50x40'
      - series: ':tensorflow:serving:request_count{{job="model-server", model_name="x", status="INTERNAL"}}'
        values: '0x20 0+5x20'
      - series: ':tensorflow:serving:request_latency_bucket{{job="model-server", model_name="x", le="500000"}}'
        values: '0+90x40'
      - series: ':tensorflow:serving:request_latency_bucket{{job="model-server", model_name="x", le="2e+06"}}'
        values: '0+100x40'
      - series: ':tensorflow:serving:request_latency_bucket{{job="model-server", model_name="x", le="+Inf"}}'
        values: '0+100x40'
    alert_rule_test:
{expected}
"""


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool on the PATH: Debian's package prometheus has it")
def test_prometheus_takes_the_rules_and_they_fire(tmp_path):
    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True, capture_output=True)
    fires = {"ModelServerDown": [36], "ModelVersionNotLoaded": [21, 30], "RequestsFail": [40], "RequestsSlow": [20]}
    silent = {"ModelServerDown": [30], "ModelVersionNotLoaded": [19, 40], "RequestsFail": [19], "RequestsSlow": [5]}
    cases = []
    for alert, minutes in silent.items():
        cases += [f"      - {{eval_time: {at}m, alertname: {alert}, exp_alerts: []}}" for at in minutes]
    path = tmp_path / "silent.yaml"
    path.write_text(UNIT_TEST.format(rules=ALERTS, expected="\n".join(cases)))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for alert, minutes in fires.items():
        for at in minutes:
            case = f"      - {{eval_time: {at}m, alertname: {alert}, exp_alerts: []}}"
            path.write_text(UNIT_TEST.format(rules=ALERTS, expected=case))
            done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
            assert done.returncode and f'alertname="{alert}"' in done.stdout + done.stderr, (alert, at)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl on the PATH")
def test_kubectl_builds_the_kit(tmp_path):
    built = subprocess.run(["kubectl", "kustomize", str(KIT)], check=True, capture_output=True, text=True).stdout
    kinds = [each["kind"] for each in yaml.safe_load_all(built)]
    assert sorted(kinds) == sorted([*(each["kind"] for each in RESOURCES), "ConfigMap"])


def test_the_threat_model_is_one_page_with_good_links():
    text = (KIT.parent / "SECURITY.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 70
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 4
    assert all((Path(KIT.parent) / link).is_file() for link in links)
