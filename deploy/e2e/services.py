#!/usr/bin/env python3
"""The checks of deploy/e2e: objects go to the API server, and what Millrace makes of them is compared with what the API says.

What should be in force is worked out here a second time, from the API's objects alone and without any of Millrace's code.
"""

import argparse
import collections
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time

NODE_PORT_ADDRESSES = ["198.18.0.1", "2001:db8:18::1"]
SLICES = "/apis/discovery.k8s.io/v1"
PATIENCE = 20


class Api:
    """The API server, by way of kubectl, which knows every way of being let in."""

    def __init__(self, work):
        self.kubectl = ["kubectl", "--kubeconfig", f"{work}/kubeconfig"]
        self.file = f"{work}/object.json"

    def run(self, *words, check=True):
        done = subprocess.run([*self.kubectl, *words], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done

    def items(self, path):
        return json.loads(self.run("get", "--raw", path).stdout)["items"]

    def get(self, path):
        return json.loads(self.run("get", "--raw", path).stdout)

    def write(self, verb, path, value):
        with open(self.file, "w") as file:
            json.dump(value, file)
        return json.loads(self.run(verb, "--raw", path, "-f", self.file).stdout)

    def create(self, path, value):
        return self.write("create", path, value)

    def change(self, path, change, part=""):
        """Reads an object, changes it and writes it back, or a part of it such as its status; somebody else may write in between."""
        for _ in range(20):
            value = self.get(path)
            change(value)
            try:
                return self.write("replace", f"{path}/{part}".rstrip("/"), value)
            except RuntimeError as error:
                if "the object has been modified" not in str(error):
                    raise
        raise RuntimeError(f"{path} is written by others all the time")

    def delete(self, path):
        self.run("delete", "--raw", path)


class Millrace:
    """Control and the operator's command."""

    def __init__(self, options):
        self.bin, self.work = options.bin, options.work
        self.process = None

    def start(self, node):
        log = open(f"{self.work}/control.log", "ab")
        self.process = subprocess.Popen(
            [f"{self.bin}/millrace-control", "--kubeconfig", f"{self.work}/kubeconfig", "--node", node,
             "--config", f"{self.work}/control.toml", "--engine", f"{self.work}/engine.sock",
             "--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0"],
            stderr=log, stdin=subprocess.DEVNULL)
        with open(f"{self.work}/control.pid", "w") as file:
            file.write(str(self.process.pid))

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, *words):
        done = subprocess.run([f"{self.bin}/millrace", "--socket", f"{self.work}/engine.sock", *words],
                              capture_output=True, text=True)
        return done.stdout if done.stdout else json.dumps({"error": done.stderr.strip()})

    def services(self):
        rows = json.loads(self.ask("show", "services", "--json"))
        return rows if isinstance(rows, list) else []

    def receipts(self):
        rows = json.loads(self.ask("show", "services", "--receipts", "--json"))
        rows = rows if isinstance(rows, list) else []
        return {(row["kind"], row["namespace"], row["name"]): row for row in rows}


def v4(address):
    return ipaddress.ip_address(address).version == 4


def backends(service, port, family, slices, node, zone, local):
    """Endpoints that a frontend uses: kube-proxy's CategorizeEndpoints."""
    found = {}
    for item in slices:
        if item["addressType"] != ("IPv4" if family else "IPv6"):
            continue
        for target in item.get("ports") or []:
            same = (target.get("name") or "") == (port.get("name") or "")
            if not same or (target.get("protocol") or "TCP") != (port.get("protocol") or "TCP") or target.get("port") is None:
                continue
            for endpoint in item.get("endpoints") or []:
                conditions = endpoint.get("conditions") or {}
                ready = conditions.get("ready") is not False
                last = conditions.get("serving") is not False and conditions.get("terminating") is True
                hints = endpoint.get("hints") or {}
                zones = {hint["name"] for hint in hints.get("forZones") or []}
                nodes = {hint["name"] for hint in hints.get("forNodes") or []}
                address = ipaddress.ip_address(endpoint["addresses"][0])
                text = f"{address}:{target['port']}" if family else f"[{address}]:{target['port']}"
                rank = 2 if ready else 1 if last else 0
                if text not in found or rank > found[text][0]:
                    found[text] = (rank, endpoint.get("nodeName") == node, zones, nodes)
    usable = [entry for entry in found.items() if entry[1][0] > 0 and (entry[1][1] or not local)]
    best = max((entry[1][0] for entry in usable), default=0)
    usable = [entry for entry in usable if entry[1][0] == best]
    if not local and best == 2:
        for at, own in ((3, node), (2, zone)):
            if own and all(entry[1][at] for entry in usable) and any(own in entry[1][at] for entry in usable):
                usable = [entry for entry in usable if own in entry[1][at]]
                break
    return sorted(entry[0] for entry in usable)


def expected(services, slices, node, zone):
    """Every frontend that should be there: (service, address, port, protocol) to its backends."""
    of_service = collections.defaultdict(list)
    for item in slices:
        labels = item["metadata"].get("labels") or {}
        if "service.kubernetes.io/headless" in labels or "service.kubernetes.io/service-proxy-name" in labels:
            continue
        of_service[item["metadata"]["namespace"], labels.get("kubernetes.io/service-name")].append(item)
    frontends = {}
    for service in sorted(services, key=lambda service: service["metadata"].get("creationTimestamp") or ""):
        metadata, spec = service["metadata"], service["spec"]
        if "service.kubernetes.io/service-proxy-name" in (metadata.get("labels") or {}):
            continue
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") in (None, "", "None"):
            continue
        ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        balancers = [entry["ip"] for entry in ingress if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP"]
        internal = spec.get("internalTrafficPolicy") == "Local"
        external = spec.get("externalTrafficPolicy") == "Local" and (spec["type"] != "ClusterIP" or bool(spec.get("externalIPs")))
        cluster_ips = spec.get("clusterIPs") or [spec["clusterIP"]]
        families = {v4(address) for address in cluster_ips}
        for port in spec.get("ports") or []:
            name = f"{metadata['namespace']}/{metadata['name']}" + (f":{port['name']}" if port.get("name") else "")
            places = [(address, port["port"], internal) for address in cluster_ips]
            if port.get("nodePort"):
                places += [(address, port["nodePort"], external) for address in NODE_PORT_ADDRESSES]
            places += [(address, port["port"], external) for address in balancers + (spec.get("externalIPs") or [])]
            for address, number, local in places:
                if v4(address) not in families:
                    continue
                key = (name, str(ipaddress.ip_address(address)), number, port.get("protocol") or "TCP")
                mine = of_service[metadata["namespace"], metadata["name"]]
                frontends.setdefault(key, backends(service, port, v4(address), mine, node, zone, local))
    return frontends


def sockets(rows):
    return sorted(rows)


class Suite:
    def __init__(self, options):
        self.api, self.millrace = Api(options.work), Millrace(options)
        self.work, self.failed = options.work, 0
        self.namespace = f"millrace-e2e-{os.getpid()}"

    def check(self, what, look):
        """Until it holds, or the time is over. `look` answers what is wrong, or nothing."""
        deadline = time.monotonic() + PATIENCE
        while True:
            wrong = look()
            if not wrong:
                print(f"  ✓ {what}", flush=True)
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self.failed += 1
        print(f"  ✗ {what}", flush=True)
        for line in str(wrong).splitlines()[:20]:
            print(f"      {line}", flush=True)

    def difference(self):
        services, slices = self.api.items("/api/v1/services"), self.api.items(f"{SLICES}/endpointslices")
        wanted = expected(services, slices, self.node, self.zone)
        found = {(row["service"], row["address"], row["port"], row["protocol"]): sockets(row["backends"])
                 for row in self.millrace.services()}
        lines = [f"missing: {key}" for key in wanted if key not in found]
        lines += [f"not in the API: {key}" for key in found if key not in wanted]
        lines += [f"{key}: {found[key]}, the API says {wanted[key]}" for key in wanted if key in found and found[key] != wanted[key]]
        return "\n".join(lines)

    def stale(self):
        receipts, wrong = self.millrace.receipts(), []
        for kind, path in (("Service", "/api/v1/services"), ("EndpointSlice", f"{SLICES}/endpointslices")):
            for item in self.api.items(path):
                metadata = item["metadata"]
                labels = metadata.get("labels") or {}
                if {"service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"} & set(labels):
                    continue
                receipt = receipts.get((kind, metadata["namespace"], metadata["name"]))
                if not receipt or not receipt["applied"] or receipt["resource_version"] != metadata["resourceVersion"]:
                    wrong.append(f"{kind} {metadata['namespace']}/{metadata['name']} {metadata['resourceVersion']}: {receipt}")
        return "\n".join(wrong)

    def path(self, kind, name=""):
        group = SLICES if kind == "endpointslices" else "/api/v1"
        return f"{group}/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")

    def service(self, name, ports, **spec):
        metadata = {"name": name, "namespace": self.namespace}
        value = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports, **spec}}
        return self.api.create(self.path("services"), value)

    def slice(self, name, service, ports, endpoints, family="IPv4"):
        labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "millrace-e2e"}
        return self.api.create(self.path("endpointslices"), {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family, "ports": ports,
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels}, "endpoints": endpoints})

    def remember(self, path):
        """run.sh deletes it at the end, however that comes."""
        with open(f"{self.work}/cluster-objects", "a") as file:
            file.write(path + "\n")

    def prepare(self):
        self.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.remember(f"/api/v1/namespaces/{self.namespace}")
        nodes = self.api.items("/api/v1/nodes")
        self.node = nodes[0]["metadata"]["name"] if nodes else "millrace-e2e"
        labels = (nodes[0]["metadata"].get("labels") or {}) if nodes else {}
        self.zone = labels.get("topology.kubernetes.io/zone")

    def objects(self):
        tcp = {"protocol": "TCP", "port": 80}
        here = lambda last, **more: {"addresses": [f"10.250.1.{last}"], "nodeName": self.node, **more}
        there = lambda last, **more: {"addresses": [f"10.250.2.{last}"], "nodeName": "elsewhere", **more}
        target = [{"name": "", "protocol": "TCP", "port": 8080}]
        self.service("plain", [tcp])
        self.slice("plain-1", "plain", target, [here(1), there(1)])
        self.slice("plain-2", "plain", target, [there(2), there(1)])
        self.service("empty", [tcp])
        self.service("node-port", [{"name": "web", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}], type="NodePort")
        self.slice("node-port-1", "node-port", [{"name": "web", "protocol": "TCP", "port": 8080}, {"name": "dns", "protocol": "UDP", "port": 5353}],
                   [here(3), there(3)])
        self.service("local", [tcp], type="NodePort", externalTrafficPolicy="Local", internalTrafficPolicy="Local")
        self.slice("local-1", "local", target, [here(4), there(4)])
        self.service("balanced", [tcp], type="LoadBalancer", externalTrafficPolicy="Local", externalIPs=["203.0.113.77"])
        self.slice("balanced-1", "balanced", target, [there(5), here(5, conditions={"ready": False, "serving": True, "terminating": True})])
        self.service("sticky", [tcp], sessionAffinity="ClientIP")
        self.slice("sticky-1", "sticky", target, [here(6)])
        self.service("named", [{"name": "http", "protocol": "TCP", "port": 80}])
        self.slice("named-1", "named", [{"name": "http", "protocol": "TCP", "port": 8080}], [here(7)])
        self.slice("named-2", "named", [{"name": "http", "protocol": "TCP", "port": 9090}], [there(7)])
        self.service("leaving", [tcp])
        leaving = {"ready": False, "serving": True, "terminating": True}
        self.slice("leaving-1", "leaving", target, [here(8, conditions=leaving), there(8, conditions={"ready": False, "serving": False})])
        self.service("headless", [tcp], clusterIP="None")
        self.api.create(self.path("services"), {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere", "namespace": self.namespace},
                                                "spec": {"type": "ExternalName", "externalName": "example.org"}})
        self.service("refused", [tcp])
        self.slice("refused-1", "refused", target, [{"addresses": ["pods.example.org"]}], family="FQDN")

    def explained(self, name):
        """What one new flow to the Service's cluster IP meets, and whether that is what the API says."""
        service = self.api.get(self.path("services", name))
        slices = [item for item in self.api.items(self.path("endpointslices"))
                  if item["metadata"]["labels"].get("kubernetes.io/service-name") == name]
        vip, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]
        wanted = backends(service, port, v4(vip), slices, self.node, self.zone, service["spec"].get("internalTrafficPolicy") == "Local")
        source = "192.0.2.9:40000" if v4(vip) else "[2001:db8::9]:40000"
        there = f"{vip}:{port['port']}" if v4(vip) else f"[{vip}]:{port['port']}"
        answer = json.loads(self.millrace.ask("explain", "tcp", source, there, "--from", "interface:up0", "--json"))
        outcomes = answer.get("outcomes") or []
        if len(outcomes) != 1:
            return f"{name}: {answer}"
        verdict, backend = outcomes[0]["verdict"], outcomes[0].get("backend")
        good = (verdict == "transmit" and backend in wanted) if wanted else (verdict in ("reply", "drop") and not backend)
        return None if good else f"{name}: {verdict} {backend}, the API says {wanted}"

    def refused(self):
        events = self.api.items(self.path("events"))
        about = [event for event in events if event.get("reason") == "Refused" and event["involvedObject"]["name"] == "refused-1"]
        if not about:
            return f"no Event about refused-1 among {[event.get('reason') for event in events]}"
        return None if "addressType" in about[0]["message"] else about[0]["message"]

    def run(self):
        self.prepare()
        print(f"namespace {self.namespace}, as node {self.node}")
        self.objects()
        self.millrace.start(self.node)
        self.check("every Service of the cluster is served as the API says", self.difference)
        self.check("receipts: every object in its present version, used by every worker", self.stale)
        for name in ("plain", "empty", "local", "sticky", "named", "leaving"):
            self.check(f"explain: a new connection to {name} meets what the API says", lambda: self.explained(name))
        self.check("what is refused is an Event on its object", self.refused)

        def gone(value):
            value["endpoints"] = [endpoint for endpoint in value["endpoints"] if endpoint["nodeName"] != self.node]
        self.api.change(self.path("endpointslices", "plain-1"), gone)
        self.check("an endpoint that goes", self.difference)

        def unready(value):
            for endpoint in value["endpoints"]:
                endpoint["conditions"] = {"ready": False}
        self.api.change(self.path("endpointslices", "named-1"), unready)
        self.check("endpoints that are no longer ready", self.difference)

        def cluster(value):
            value["spec"]["externalTrafficPolicy"] = "Cluster"
            value["spec"].pop("healthCheckNodePort", None)
        self.api.change(self.path("services", "balanced"), cluster)
        self.check("a traffic policy that changes", self.difference)
        self.api.delete(self.path("services", "node-port"))
        self.check("a Service that is deleted", self.difference)
        self.millrace.kill()
        self.service("while-away", [{"protocol": "TCP", "port": 8}])
        self.api.delete(self.path("services", "sticky"))
        self.millrace.start(self.node)
        self.check("control killed, objects changed meanwhile, control back", self.difference)
        self.check("receipts after that", self.stale)
        self.millrace.kill()
        return self.failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--pods", action="store_true")
    options = parser.parse_args()
    failed = Suite(options).run()
    if options.pods:
        # Only now: it is made of what is here.
        from controllers import Controllers
        failed += Controllers(options).run()
    print("deploy/e2e: every check held" if failed == 0 else f"deploy/e2e: {failed} checks did not hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    # `controllers` finds this file under its name.
    sys.modules["services"] = sys.modules["__main__"]
    main()
