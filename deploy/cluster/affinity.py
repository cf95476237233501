#!/usr/bin/env python3
"""Session affinity with a timeout: it is kept, refreshed by whoever asks, runs out, and ends with its endpoint.

    affinity.py PREFIX MANIFESTS

The Service is `brief`, 10.43.0.24, with two seconds. Each question is a flow of its own, from a new port.
"""
import json
import os
import socket
import sys
import time

import flows
from flows import eventually, inside, say

VIP, VIP6, NODE_PORT, TIMEOUT = "10.43.0.24", "fd43::24", 30094, 2.0
PODS = ["2a", "2b", "3a", "3b", "1a"]


class Asker:
    def __init__(self, prefix, namespace, address, port):
        self.name, self.namespace, self.where = f"{namespace} to {address}", f"{prefix}-{namespace}", (address, port)
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def ask(self):
        """Who answers."""
        with inside(self.namespace, lambda: socket.socket(self.family, socket.SOCK_DGRAM)) as it:
            it.settimeout(0.5)
            try:
                it.connect(self.where)
                it.send(b"?")
                return it.recv(2048).decode().split()[0]
            except OSError:
                return "nobody"


def objects(name, vip, vip6, node_port, pods, affinity):
    spec = {"type": "NodePort", "clusterIP": vip, "clusterIPs": [vip, vip6], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": node_port}]} | affinity
    yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
    for family in ["IPv4", "IPv6"]:
        def address(pod):
            number = {"a": 11, "b": 12}[pod[1]]
            return f"10.41.{pod[0]}.{number}" if family == "IPv4" else f"fd41:{pod[0]}::{number}"
        yield {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
               "metadata": {"name": f"{name}-{family.lower()}", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
               "ports": [{"name": "dns", "port": 8080, "protocol": "UDP"}],
               "endpoints": [{"addresses": [address(pod)], "nodeName": f"node-{pod[0]}",
                              "conditions": {"ready": True, "serving": True, "terminating": False}} for pod in pods]}


def write(folder, pods, mark):
    """The Service with these pods, and one without affinity whose only pod is `mark`: who is answered by that has the change."""
    brief = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": int(TIMEOUT)}}}
    new = os.path.join(folder, ".brief")
    with open(new, "w") as file:
        for it in [*objects("brief", VIP, VIP6, NODE_PORT, pods, brief), *objects("mark", "10.43.0.25", "fd43::25", 30095, [mark], {})]:
            file.write(json.dumps(it) + "\n")
    os.rename(new, os.path.join(folder, "brief.json"))


def stays(askers, wanted, seconds):
    """Asks all the time: `None` if nobody was answered by another, else who was; `late` if we were too slow to tell."""
    last = {asker: time.monotonic() for asker in askers}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for asker in askers:
            who = asker.ask()
            now = time.monotonic()
            if now - last[asker] > TIMEOUT / 2:
                return "late"
            if who != wanted:
                return f"{asker.name} was answered by {who}"
            last[asker] = now
        time.sleep(0.05)
    return None


def main(prefix, folder):
    nodes = [("pod-1-b", VIP, 53), ("pod-3-a", VIP6, 53), ("client", "10.40.0.1", NODE_PORT), ("client", "fd40::2", NODE_PORT)]
    askers = [Asker(prefix, *it) for it in nodes]
    marks = [Asker(prefix, "client", f"10.40.0.{node}", 30095) for node in [1, 2, 3]]

    def everywhere(mark):
        return eventually(lambda: all(it.ask() == mark for it in marks), 5)
    for _ in range(5):
        write(folder, ["2a"], "2a")
        say_later = everywhere("2a") and all(asker.ask() == "2a" for asker in askers)
        write(folder, PODS, "3a")
        # Twice as long as the timeout: who goes on asking keeps its backend.
        moved = stays(askers, "2a", 2 * TIMEOUT)
        if moved != "late":
            break
    say(say_later, "the Service serves")
    say(moved is None and everywhere("3a"), "with more endpoints who goes on asking stays where it is", moved)
    time.sleep(TIMEOUT + 1.2)
    chosen = [asker.ask() for asker in askers]
    say(set(chosen) <= set(PODS) and set(chosen) != {"2a"}, "after two seconds without a word there are new choices", chosen)
    write(folder, [pod for pod in PODS if pod != chosen[0]], "2a")
    say(eventually(lambda: askers[0].ask() not in [chosen[0], "nobody"]), "and they end with their endpoint", chosen[0])
    say(everywhere("2a") and askers[0].ask() in PODS and askers[0].ask() != chosen[0], "for good")
    os.remove(os.path.join(folder, "brief.json"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    sys.exit(1 if flows.failures else 0)
