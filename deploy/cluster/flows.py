#!/usr/bin/env python3
"""UDP flows of one five-tuple each that go on while endpoints, control processes and engines change; what a Service's conntrack is about.

    flows.py move PREFIX MANIFESTS         endpoints go, come back, become unready, change their port: whose flows move, and when
    flows.py hold PREFIX FOLDER [moved]    flows go on until FOLDER/stop is there (FOLDER/ready says that all are answered); they are to
                                           keep their backend and, without `moved`, the port that they are masqueraded with

Each is a socket in a namespace of the cluster that asks every 5 ms and writes down who answers. The Service is `moving`, 10.43.0.21.
"""
import ctypes
import json
import os
import socket
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
VIP, VIP6, NODE_PORT = "10.43.0.21", "fd43::21", 30091
# What the slowest flow may take to notice on a machine that does other things too, and what the quickest of five tries has to take.
SLOW, QUICK = 2.0, 0.1
PODS = {"2a": ("10.41.2.11", "fd41:2::11", "node-2"), "3a": ("10.41.3.11", "fd41:3::11", "node-3")}
libc = ctypes.CDLL(None, use_errno=True)
failures = 0


def say(holds, what, why=""):
    global failures
    print(f"  {'✓' if holds else '✗'} {what}" + ("" if holds else f"\n      {why}"), flush=True)
    failures += not holds


def inside(namespace, make):
    """What `make` makes, in a network namespace; by a thread of its own, which alone goes there."""
    made = []

    def work():
        with open(f"/run/netns/{namespace}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), namespace)
        made.append(make())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


class Flow:
    """One five-tuple. `heard` has (time, who, as whom): who is `2a:8080`, or `refused`."""

    def __init__(self, prefix, namespace, address, port, own):
        self.name = f"{namespace} port {own} to {address}"
        self.heard, self.going = [], True
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def make():
            it = socket.socket(family, socket.SOCK_DGRAM)
            it.bind(("", own))
            it.connect((address, port))
            it.settimeout(0.005)
            return it
        self.socket = inside(f"{prefix}-{namespace}", make)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.going:
            began = time.monotonic()
            try:
                self.socket.send(b"who and port?")
                while True:
                    said = self.socket.recv(2048).decode().split()
                    self.heard.append((time.monotonic(), said[0], " ".join(said[1:])))
            except TimeoutError:
                pass
            except ConnectionRefusedError:
                self.heard.append((time.monotonic(), "refused", ""))
            except OSError:
                # A route or a device that is gone for a moment.
                pass
            time.sleep(max(0.0, began + 0.005 - time.monotonic()))

    def last(self):
        return self.heard[-1][1] if self.heard else "nothing"

    def stop(self):
        self.going = False
        self.thread.join()
        self.socket.close()


def start(prefix, each=3):
    flows = []
    for number in range(each):
        for namespace in ["pod-1-b", "node-1"]:
            flows.append(Flow(prefix, namespace, VIP, 53, 21000 + number))
        flows.append(Flow(prefix, "pod-1-b", VIP6, 53, 22000 + number))
        # By way of another node than the backends': masqueraded there.
        flows.append(Flow(prefix, "client", "10.40.0.1", NODE_PORT, 21000 + number))
    return flows


def eventually(condition, seconds=SLOW):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def objects(endpoints):
    """The Service with endpoints as (pod, port, condition)."""
    yield {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "moving", "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": VIP, "clusterIPs": [VIP, VIP6], "ipFamilies": ["IPv4", "IPv6"],
                 "ipFamilyPolicy": "RequireDualStack",
                 "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": NODE_PORT}]},
    }
    conditions = {
        "ready": {"ready": True, "serving": True, "terminating": False},
        "unready": {"ready": False, "serving": False, "terminating": False},
        "leaving": {"ready": False, "serving": True, "terminating": True},
    }
    for family, index in [("IPv4", 0), ("IPv6", 1)]:
        # A slice has one port for all, so that each endpoint gets its own.
        for pod in PODS:
            listed = [(port, state) for name, port, state in endpoints if name == pod]
            yield {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {"name": f"moving-{family.lower()}-{pod}", "namespace": "default",
                             "labels": {"kubernetes.io/service-name": "moving"}},
                "ports": [{"name": "dns", "port": listed[0][0] if listed else 8080, "protocol": "UDP"}],
                "endpoints": [{"addresses": [PODS[pod][index]], "nodeName": PODS[pod][2], "conditions": conditions[state]}
                              for _, state in listed],
            }


class World:
    def __init__(self, prefix, folder):
        self.folder, self.flows = folder, start(prefix)

    def write(self, *endpoints):
        """Puts these endpoints in the place of the last; the time is that of the change."""
        new = os.path.join(self.folder, ".moving")
        with open(new, "w") as file:
            for it in objects(endpoints):
                file.write(json.dumps(it) + "\n")
        os.rename(new, os.path.join(self.folder, "moving.json"))
        return time.monotonic()

    def change(self, what, wanted, *endpoints, back, tries=5):
        """All flows are to come to `wanted`. `back`: endpoints by which none is there, for another try if it took longer than it should."""
        took = []
        for left in reversed(range(tries)):
            stay = [flow for flow in self.flows if flow.last() == wanted]
            marks = [len(flow.heard) for flow in stay]
            began = self.write(*endpoints)
            if not eventually(lambda: all(flow.last() == wanted for flow in self.flows)):
                late = {flow.name: flow.last() for flow in self.flows if flow.last() != wanted}
                return say(False, what, f"after {SLOW} s: {late}")
            # The first answer that nothing but the old way came after.
            moved = []
            for flow in self.flows:
                if flow not in stay:
                    others = [at for at, who, _ in flow.heard if who != wanted]
                    moved.append(min(at for at, who, _ in flow.heard if at > max(others, default=0)) - began)
            took.append(max(moved))
            for flow, mark in zip(stay, marks):
                others = {who for _, who, _ in flow.heard[mark:]} - {wanted}
                if others:
                    return say(False, what, f"{flow.name} had no reason to move, and was answered by {others}")
            if took[-1] <= QUICK or left == 0:
                break
            self.write(*back)
            if not eventually(lambda: all(flow.last() != wanted for flow in self.flows)):
                return say(False, what, f"there is no way back: {[flow.last() for flow in self.flows]}")
            time.sleep(0.2)
        best = f"{min(took) * 1000:.0f} ms"
        say(min(took) <= QUICK, f"{what} ({len(moved)} flows moved, within {best}; {len(stay)} stayed)", f"it took {best}")


def move(prefix, folder):
    world = World(prefix, folder)
    a, b = ("2a", 8080, "ready"), ("3a", 8080, "ready")
    world.write(a, b)
    answered = eventually(lambda: all(":" in flow.last() for flow in world.flows), 10)
    chosen = {flow.last() for flow in world.flows}
    say(answered and len(chosen) == 2, "flows from pods, a node and outside spread over two endpoints", {flow.name: flow.last() for flow in world.flows})
    time.sleep(0.3)
    world.change("an endpoint goes: its flows move, the others stay", "3a:8080", b, back=(a,))
    world.change("the last one goes: refused", "refused", back=(b,))
    world.change("one comes", "2a:8080", a, back=())
    world.change("it gets unready, another ready", "3a:8080", ("2a", 8080, "unready"), b, back=(a, ("3a", 8080, "unready")))
    world.change("it is ready again, the other is not", "2a:8080", a, ("3a", 8080, "unready"), back=(("2a", 8080, "unready"), b))
    world.change("its port changes", "2a:8081", ("2a", 8081, "ready"), back=(a,))
    marks = [len(flow.heard) for flow in world.flows]
    world.write(("2a", 8081, "leaving"), b)
    time.sleep(0.5)
    others = {who for flow, mark in zip(world.flows, marks) for _, who, _ in flow.heard[mark:]}
    say(others == {"2a:8081"}, "it is on its way out, but serves: flows stay", others)
    new = Flow(prefix, "pod-1-b", VIP, 53, 23000)
    say(eventually(lambda: new.last() == "3a:8080"), "a new one goes to the other", new.last())
    new.stop()
    world.change("it serves no longer", "3a:8080", b, back=(("2a", 8081, "ready"),))
    for flow in world.flows:
        flow.stop()
    os.remove(os.path.join(folder, "moving.json"))


def hold(prefix, folder, moved):
    world = World(prefix, os.path.join(folder, "manifests"))
    world.write(("2a", 8080, "ready"), ("3a", 8080, "ready"))
    answered = eventually(lambda: all(":" in flow.last() for flow in world.flows), 10)
    say(answered, "flows are answered", {flow.name: flow.last() for flow in world.flows})
    # Those that began before the Service was everywhere have found their way.
    time.sleep(0.3)
    marks = [len(flow.heard) - 1 for flow in world.flows]
    open(os.path.join(folder, "ready"), "w").close()
    eventually(lambda: os.path.exists(os.path.join(folder, "stop")), 60)
    since = time.monotonic()
    eventually(lambda: all(flow.heard[-1][0] > since and flow.last() != "refused" for flow in world.flows), 5)
    astray, silent, other_port = {}, [], {}
    for flow, mark in zip(world.flows, marks):
        flow.stop()
        _, backend, source = flow.heard[mark]
        if flow.heard[-1][0] <= since or flow.last() == "refused":
            silent.append(flow.name)
        answers = {who for _, who, _ in flow.heard[mark:]} - {"refused"}
        if answers != {backend}:
            astray[flow.name] = sorted(answers)
        sources = {as_whom for _, who, as_whom in flow.heard[mark:] if who != "refused"}
        if sources != {source}:
            other_port[flow.name] = sorted(sources)
    say(not silent, "all go on", silent)
    say(not astray, "each keeps its backend", astray)
    if not moved:
        say(not other_port, "and the address and port that it is seen with", other_port)
    os.remove(os.path.join(folder, "manifests", "moving.json"))


if __name__ == "__main__":
    if sys.argv[1] == "move":
        move(sys.argv[2], sys.argv[3])
    else:
        hold(sys.argv[2], sys.argv[3], sys.argv[4:] == ["moved"])
    sys.exit(1 if failures else 0)
