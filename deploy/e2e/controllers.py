"""What the cluster's own controllers make: Services with selectors, whose EndpointSlices come from the EndpointSlice controller.

Three Nodes and some Pods are made for it, which no kubelet runs: their status is written here, as a kubelet would write it. So every
step of a Pod's life is in our hands, and the controllers do what they do in any cluster.
"""

import json
import time
import urllib.error
import urllib.request

import services
from services import SLICES, Suite, backends, v4


class Controllers(Suite):
    """Beside what [`Suite`] does on any cluster."""

    def __init__(self, options):
        super().__init__(options)
        self.namespace += "-pods"
        self.nodes_made = [f"{self.namespace}-{name}" for name in "abc"]

    # Objects.

    def node_object(self, number, zone):
        name = self.nodes_made[number]
        self.api.create("/api/v1/nodes", {
            "apiVersion": "v1", "kind": "Node", "spec": {"unschedulable": True},
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone,
                                                  "node.kubernetes.io/exclude-from-external-load-balancers": "true"}}})
        self.remember(f"/api/v1/nodes/{name}")

        def status(value):
            value["status"] = {
                "addresses": [{"type": "InternalIP", "address": f"198.18.250.{number + 1}"}],
                "capacity": {"cpu": "4", "pods": "110"}, "allocatable": {"cpu": "4", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "e2e", "message": "no kubelet runs here"}]}
        self.api.change(f"/api/v1/nodes/{name}", status, part="status")

    def pod(self, name, app, node, last, ready=True, port=8080):
        addresses = [f"10.250.{node + 1}.{last}"] + ([f"fd00:e2e0:{node + 1}::{last:x}"] if self.dual else [])
        container = {"name": "c", "image": "registry.invalid/none", "ports": [{"name": "web", "containerPort": port}]}
        self.api.create(self.path("pods"), {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.namespace, "labels": {"app": app}},
            "spec": {"nodeName": self.nodes_made[node], "automountServiceAccountToken": False, "containers": [container],
                     "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 3600}})

        def status(value):
            value["status"] |= {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses],
                                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
        self.api.change(self.path("pods", name), status, part="status")

    def ready(self, name, ready):
        def status(value):
            value["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
        self.api.change(self.path("pods", name), status, part="status")

    def remove(self, name, now=True):
        """At once, or by a kubelet that takes its time: then the Pod is on its way out until it is removed at once."""
        seconds = 0 if now else 3600
        self.api.run("delete", "pod", name, "-n", self.namespace, "--wait=false", f"--grace-period={seconds}", *(["--force"] if now else []))

    def spec(self, name, change):
        self.api.change(self.path("services", name), lambda value: change(value["spec"]))

    # What should be.

    def endpoints(self, name):
        """Addresses that the controller lists, by family and condition."""
        found = set()
        for item in self.api.items(self.path("endpointslices")):
            if item["metadata"]["labels"].get("kubernetes.io/service-name") != name:
                continue
            for endpoint in item.get("endpoints") or []:
                conditions = endpoint.get("conditions") or {}
                word = "ready" if conditions.get("ready") else "terminating" if conditions.get("terminating") else "unready"
                found.add(f"{endpoint['addresses'][0]} {word}")
        return found

    def settled(self, name, *wanted):
        """The controller has got so far; and then Millrace must have what it made."""
        def look():
            found = {entry for entry in self.endpoints(name) if "." in entry.split()[0]}
            return None if found == set(wanted) else f"the controller lists {sorted(found)} for {name}, not {sorted(wanted)}"
        deadline = time.monotonic() + services.PATIENCE
        while (wrong := look()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return wrong

    def holds(self, what, name=None, *wanted):
        wrong = self.settled(name, *wanted) if name else None
        self.check(what, lambda: wrong or self.difference())

    def health(self, name, code, count):
        def look():
            port = self.api.get(self.path("services", name))["spec"]["healthCheckNodePort"]
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    status, text = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, text = error.code, error.read()
            except OSError as error:
                return f"health check node port {port}: {error}"
            body = json.loads(text)
            good = status == code and body["localEndpoints"] == count and body["service"] == {"namespace": self.namespace, "name": name}
            return None if good else f"{status} {body}"
        return look

    def served(self, address, port, local, name):
        """A flow from outside to this address."""
        def look():
            service = self.api.get(self.path("services", name))
            mine = [item for item in self.api.items(self.path("endpointslices"))
                    if item["metadata"]["labels"].get("kubernetes.io/service-name") == name]
            wanted = backends(service, service["spec"]["ports"][0], v4(address), mine, self.node, self.zone, local)
            source, there = (("192.0.2.9:40000", f"{address}:{port}") if v4(address) else ("[2001:db8::9]:40000", f"[{address}]:{port}"))
            answer = json.loads(self.millrace.ask("explain", "tcp", source, there, "--from", "interface:up0", "--json"))
            outcomes = answer.get("outcomes") or []
            good = len(outcomes) == 1 and wanted and outcomes[0]["verdict"] == "transmit" and outcomes[0].get("backend") in wanted
            return None if good else f"{answer}, the API says {wanted}"
        return look

    # The checks.

    def run(self):
        self.prepare()
        kubernetes = self.api.get("/api/v1/namespaces/default/services/kubernetes")["spec"]
        self.api.create(self.path("services"), {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "families", "namespace": self.namespace},
            "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}], "selector": {"app": "web"}}})
        families = self.api.get(self.path("services", "families"))["spec"]["ipFamilies"]
        self.dual = len(families) == 2 and kubernetes["clusterIP"] is not None
        for number, zone in enumerate(("e2e-zone-1", "e2e-zone-1", "e2e-zone-2")):
            self.node_object(number, zone)
        self.node, self.zone = self.nodes_made[0], "e2e-zone-1"
        print(f"namespace {self.namespace}, as node {self.node}, with Pods that no kubelet runs ({' and '.join(families)})")
        if not self.accounts():
            return 1
        self.millrace.start(self.node)
        self.kinds()
        self.lives()
        self.topology()
        self.changes()
        self.check("receipts: every object in its present version, used by every worker", self.stale)
        self.millrace.kill()
        return self.failed

    def accounts(self):
        """A Pod needs its service account, which a controller makes."""
        deadline = time.monotonic() + services.PATIENCE
        while self.api.run("get", "--raw", self.path("serviceaccounts", "default"), check=False).returncode != 0:
            if time.monotonic() > deadline:
                print("  ✗ no controller makes service accounts here: is kube-controller-manager running?")
                return False
            time.sleep(0.1)
        return True

    def kinds(self):
        tcp = [{"name": "http", "port": 80, "targetPort": "web"}]
        web = {"selector": {"app": "web"}}
        self.pod("web-1", "web", 0, 1)
        self.pod("web-2", "web", 1, 2)
        self.pod("web-3", "web", 2, 3, port=9090)
        everyone = ["10.250.1.1 ready", "10.250.2.2 ready", "10.250.3.3 ready"]
        self.holds("Pods that got ready; both families where the cluster has them", "families", *everyone)
        self.service("web", tcp, **web)
        self.holds("a named port that is another one in some Pods", "web", *everyone)
        self.service("node-port", tcp, type="NodePort", **web)
        self.service("headless", tcp, clusterIP="None", **web)
        self.service("sticky", tcp, sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}}, **web)
        self.service("inside", tcp, internalTrafficPolicy="Local", **web)
        self.service("several", [{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81, "targetPort": 8081},
                                 {"name": "u", "port": 80, "protocol": "UDP"}, {"name": "s", "port": 80, "protocol": "SCTP"}], **web)
        self.service("balanced", tcp, type="LoadBalancer", externalTrafficPolicy="Local", **web)
        self.service("proxied", tcp, type="LoadBalancer", **web)

        def ingress(*entries):
            def change(value):
                value["status"] = {"loadBalancer": {"ingress": list(entries)}}
            return change
        self.api.change(self.path("services", "balanced"), ingress({"ip": "203.0.113.80", "ipMode": "VIP"}), part="status")
        self.api.change(self.path("services", "proxied"), ingress({"ip": "203.0.113.81", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}), part="status")
        for name in ("node-port", "sticky", "inside", "several", "balanced", "proxied"):
            self.holds(f"as it is: {name}", name, *everyone)
        self.check("explain: from outside to the load balancer's address", self.served("203.0.113.80", 80, True, "balanced"))
        number = self.api.get(self.path("services", "node-port"))["spec"]["ports"][0]["nodePort"]
        self.check("explain: from outside to a node port", self.served("198.18.0.1", number, False, "node-port"))
        if self.dual:
            address = self.api.get(self.path("services", "families"))["spec"]["clusterIPs"][1]
            self.check("explain: to the second family's cluster IP", self.served(address, 80, False, "families"))
        self.check("the health check node port counts one endpoint here", self.health("balanced", 200, 1))

    def lives(self):
        """Pods come, go, and take their time."""
        self.ready("web-1", False)
        self.holds("a Pod that is no longer ready", "web", "10.250.1.1 unready", "10.250.2.2 ready", "10.250.3.3 ready")
        self.check("the health check node port says so", self.health("balanced", 503, 0))
        self.ready("web-1", True)
        self.holds("and is again", "web", "10.250.1.1 ready", "10.250.2.2 ready", "10.250.3.3 ready")
        self.service("eager", [{"port": 80}], selector={"app": "slow"}, publishNotReadyAddresses=True)
        self.pod("slow-1", "slow", 0, 9, ready=False)
        self.holds("publishNotReadyAddresses", "eager", "10.250.1.9 ready")
        for number in range(10, 30):
            self.pod(f"web-{number}", "web", number % 3, number)
        many = [f"10.250.{number % 3 + 1}.{number} ready" for number in range(10, 30)]
        self.holds("scaled up to 23", "web", "10.250.1.1 ready", "10.250.2.2 ready", "10.250.3.3 ready", *many)
        for number in range(10, 30):
            self.remove(f"web-{number}")
        self.holds("and down to 3", "web", "10.250.1.1 ready", "10.250.2.2 ready", "10.250.3.3 ready")
        self.remove("web-1", now=False)
        self.holds("a Pod on its way out", "web", "10.250.1.1 terminating", "10.250.2.2 ready", "10.250.3.3 ready")
        self.remove("web-2", now=False)
        self.remove("web-3", now=False)
        self.holds("the last Pods on their way out, serving on", "web", *(f"10.250.{n}.{n} terminating" for n in (1, 2, 3)))
        self.check("a new connection goes to one of them", lambda: self.explained("web"))
        for number in (1, 2, 3):
            self.remove(f"web-{number}")
        self.holds("no Pod is left", "web")
        self.check("a new connection is rejected", lambda: self.explained("web"))
        self.pod("web-1", "web", 0, 1)
        self.pod("web-2", "web", 1, 2)
        self.pod("web-3", "web", 2, 3)
        self.holds("and back from none", "web", "10.250.1.1 ready", "10.250.2.2 ready", "10.250.3.3 ready")

    def hinted(self, name, kind):
        """The controller has given hints to all endpoints."""
        def look():
            mine = [item for item in self.api.items(self.path("endpointslices")) if item["metadata"]["labels"].get("kubernetes.io/service-name") == name]
            bare = [endpoint["addresses"][0] for item in mine for endpoint in item.get("endpoints") or [] if not (endpoint.get("hints") or {}).get(kind)]
            return f"no {kind} hints for {bare}" if bare or not mine else None
        deadline = time.monotonic() + services.PATIENCE
        while (wrong := look()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return wrong

    def topology(self):
        for distribution, kind in (("PreferClose", "forZones"), ("PreferSameZone", "forZones"), ("PreferSameNode", "forNodes")):
            name = distribution.lower()
            try:
                self.service(name, [{"port": 80, "targetPort": 8080}], selector={"app": "web"}, trafficDistribution=distribution)
            except RuntimeError as error:
                print(f"  - trafficDistribution {distribution}: not in this cluster ({error})")
                continue
            wrong = self.hinted(name, kind)
            self.check(f"trafficDistribution {distribution}", lambda: wrong or self.difference())
        def move(value):
            value["metadata"]["labels"]["topology.kubernetes.io/zone"] = "e2e-zone-2"
        self.api.change(f"/api/v1/nodes/{self.node}", move)
        self.zone = "e2e-zone-2"
        self.check("this node in another zone", self.difference)

    def changes(self):
        """Services become something else."""
        self.spec("web", lambda spec: spec.update(type="NodePort"))
        self.check("a cluster IP that gets a node port", self.difference)
        number = self.api.get(self.path("services", "web"))["spec"]["ports"][0]["nodePort"]
        self.spec("web", lambda spec: spec["ports"][0].update(port=8000))
        self.check("another port", self.difference)
        self.spec("web", lambda spec: (spec.update(type="ClusterIP"), spec["ports"][0].pop("nodePort", None)))
        self.check(f"and node port {number} is given back", self.difference)
        self.spec("web", lambda spec: spec.update(selector={"app": "slow"}))
        self.holds("another selector", "web", "10.250.1.9 unready")
        self.spec("web", lambda spec: spec.update(selector={"app": "web"}))
        self.holds("and the first one", "web", "10.250.1.1 ready", "10.250.2.2 ready", "10.250.3.3 ready")

        def external(spec):
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
                spec.pop(field, None)
            spec.update(type="ExternalName", externalName="example.org")
        self.spec("web", external)
        self.check("a name elsewhere instead", self.difference)
        self.spec("web", lambda spec: (spec.pop("externalName"), spec.update(type="ClusterIP")))
        self.check("and a cluster IP again", self.difference)
        for _ in range(3):
            self.api.delete(self.path("services", "sticky"))
            self.service("sticky", [{"port": 80, "targetPort": 8080}], sessionAffinity="ClientIP", selector={"app": "web"})
        self.check("deleted and made anew under its name", self.difference)

        def foreign(value):
            value["metadata"].setdefault("labels", {})["service.kubernetes.io/service-proxy-name"] = "another"
        self.api.change(self.path("services", "inside"), foreign)
        self.check("a Service that another proxy takes over", self.difference)
        self.api.change(self.path("services", "inside"), lambda value: value["metadata"].pop("labels"))
        self.check("and leaves to us again", self.difference)
