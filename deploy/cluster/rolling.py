#!/usr/bin/env python3
"""A rolling update under load: new connections all the time, while each endpoint is replaced; none is to fail.

    rolling.py PREFIX MANIFESTS

The Service is `rolling`, 10.43.0.26. Each connection asks by HTTP and ends. An endpoint that goes leaves first (terminating, and serves).
"""
import json
import os
import socket
import sys
import threading
import time

import flows
from flows import eventually, inside, say

VIP, VIP6, NODE_PORT = "10.43.0.26", "fd43::26", 30096
STEPS = ["2a 3a", "2a 3a 1a", "2a! 3a 1a", "3a 1a", "3a 1a 2b", "3a! 1a 2b", "1a 2b", "1a 2b 3b", "1a! 2b 3b", "2b 3b"]


def objects(pods):
    yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "rolling", "namespace": "default"},
           "spec": {"type": "NodePort", "clusterIP": VIP, "clusterIPs": [VIP, VIP6], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": NODE_PORT}]}}
    for family in ["IPv4", "IPv6"]:
        endpoints = []
        for pod in pods.split():
            number, leaving = {"a": 11, "b": 12}[pod[1]], pod.endswith("!")
            endpoints.append({"addresses": [f"10.41.{pod[0]}.{number}" if family == "IPv4" else f"fd41:{pod[0]}::{number}"], "nodeName": f"node-{pod[0]}",
                              "conditions": {"ready": not leaving, "serving": True, "terminating": leaving}})
        yield {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
               "metadata": {"name": f"rolling-{family.lower()}", "namespace": "default", "labels": {"kubernetes.io/service-name": "rolling"}},
               "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}


class Load:
    """One connection after the other from one place."""

    def __init__(self, prefix, namespace, address, port):
        self.namespace, self.where = f"{prefix}-{namespace}", (address, port)
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.heard, self.failed, self.going = [], [], True

    def ask(self):
        with socket.socket(self.family, socket.SOCK_STREAM) as it:
            it.settimeout(5)
            it.connect(self.where)
            it.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = b""
            while part := it.recv(4096):
                said += part
        return said.split(b"\r\n\r\n")[1].split()[0].decode()

    def run(self):
        while self.going:
            try:
                self.heard.append(self.ask())
            except (OSError, IndexError) as why:
                self.failed.append(f"{why}, after {self.heard[-1:]}")
            time.sleep(0.005)


def main(prefix, folder):
    def write(pods):
        new = os.path.join(folder, ".rolling")
        with open(new, "w") as file:
            for it in objects(pods):
                file.write(json.dumps(it) + "\n")
        os.rename(new, os.path.join(folder, "rolling.json"))

    places = [("pod-1-b", VIP, 80), ("pod-3-a", VIP6, 80), ("node-1", VIP, 80), ("client", "10.40.0.1", NODE_PORT), ("client", "fd40::2", NODE_PORT)]
    loads = [Load(prefix, *it) for it in places]

    def serves(load):
        try:
            return inside(load.namespace, load.ask) is not None
        except (OSError, IndexError):
            return False
    write(STEPS[0])
    say(eventually(lambda: all(serves(load) for load in loads), 10), "the Service serves")
    # Each in its namespace to its end: `inside` waits, so by a thread.
    threads = [threading.Thread(target=inside, args=(load.namespace, load.run)) for load in loads]
    for thread in threads:
        thread.start()
    for step in STEPS[1:]:
        time.sleep(0.3)
        write(step)
    time.sleep(0.5)
    marks = [len(load.heard) for load in loads]
    time.sleep(0.3)
    for load in loads:
        load.going = False
    for thread in threads:
        thread.join()
    count = sum(len(load.heard) for load in loads)
    failed = [f"{load.namespace}: {why}" for load in loads for why in load.failed]
    say(not failed and min(len(load.heard) for load in loads) >= 50, f"{count} connections while every endpoint was replaced, none failed",
        f"{len(failed)} failed: {failed[:3]}; by place {[len(load.heard) for load in loads]}")
    last = {who for load, mark in zip(loads, marks) for who in load.heard[mark:]}
    say(last == {"2b", "3b"}, "and the last go to the new ones", last)
    os.remove(os.path.join(folder, "rolling.json"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    sys.exit(1 if flows.failures else 0)
