#!/usr/bin/env python3
"""Flows of the test cluster that go on while policies, control processes and engines change.

    talk.py serve PORT                          echoes lines over TCP and datagrams over UDP
    talk.py talk tcp|udp HOST PORT FOLDER       one connection or five-tuple that asks every 20 ms, until FOLDER/stop is there; FOLDER/ready says
                                                that the first answer came. Prints the moments of all answers, in seconds, one a line
    talk.py try udp|tcp HOST PORT FOLDER        begins a flow every 10 ms, until FOLDER/stop; prints how many were answered, and tried

Moments are of CLOCK_MONOTONIC, as /proc/uptime has them nearly.
"""
import os
import selectors
import socket
import sys
import threading
import time


def serve(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    # A host of several addresses answers from the one that was asked.
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    datagrams.bind(("::", port))

    def echo_datagrams():
        while True:
            data, control, _, address = datagrams.recvmsg(65536, 256)
            back = [item for item in control if item[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
            datagrams.sendmsg([data], back, 0, address)
    threading.Thread(target=echo_datagrams, daemon=True).start()
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            try:
                if key.fileobj is listener:
                    ready.register(listener.accept()[0], selectors.EVENT_READ)
                    continue
                data = key.fileobj.recv(65536)
                if data:
                    key.fileobj.sendall(data)
                    continue
            except OSError:
                pass
            ready.unregister(key.fileobj)
            key.fileobj.close()


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def talk(protocol, host, port, folder):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family(host), kind) as it:
        it.settimeout(2)
        it.connect((host, port))
        it.setblocking(False)
        while not os.path.exists(f"{folder}/stop"):
            try:
                it.send(b"?\n")
            except OSError:
                pass
            time.sleep(0.02)
            try:
                while it.recv(65536):
                    print(f"{time.monotonic():.3f}", flush=True)
                    if not os.path.exists(f"{folder}/ready"):
                        open(f"{folder}/ready", "w").close()
            except OSError:
                pass


def attempt(protocol, host, port, folder):
    waiting, answered, tried = selectors.DefaultSelector(), 0, 0
    open(f"{folder}/ready", "w").close()
    end = None
    while end is None or time.monotonic() < end:
        if end is None and os.path.exists(f"{folder}/stop"):
            # What is under way comes.
            end = time.monotonic() + 0.3
        if end is None:
            it = socket.socket(family(host), socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
            it.setblocking(False)
            tried += 1
            try:
                it.connect_ex((host, port))
                if protocol == "udp":
                    it.send(b"?")
                # Answered is what can be written to (TCP), or read from.
                waiting.register(it, selectors.EVENT_WRITE if protocol == "tcp" else selectors.EVENT_READ)
            except OSError:
                it.close()
        for key, _ in waiting.select(0.01):
            answered += key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            waiting.unregister(key.fileobj)
            key.fileobj.close()
    print(answered, tried)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    elif sys.argv[1] == "talk":
        talk(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        attempt(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
