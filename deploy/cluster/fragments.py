#!/usr/bin/env python3
"""Datagrams in fragments, made by hand: in every order, twice, tiny, overlapping; whoever asks is to be answered, or not.

    fragments.py ADDRESS PORT OTHER-PORT

Runs where it sends from. PORT answers with who it is and how much came; OTHER-PORT leads to another pod, and is what a second fragment
tries to turn the first into.
"""
import itertools
import os
import socket
import struct
import sys

from flows import say

UDP, FRAGMENT = 17, 44


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Sender:
    """A UDP socket that listens, and a raw one beside it that sends what no kernel would."""

    def __init__(self, host):
        self.six = ":" in host
        family = socket.AF_INET6 if self.six else socket.AF_INET
        self.family, self.dst = family, socket.inet_pton(family, host)
        self.udp = socket.socket(family, socket.SOCK_DGRAM)
        self.udp.connect((host, 9))
        self.src = socket.inet_pton(family, self.udp.getsockname()[0])
        self.udp.close()
        self.raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.host = host
        self.renew()

    def renew(self):
        """Another source port and identification: nothing of the last question is left."""
        self.udp = socket.socket(self.family, socket.SOCK_DGRAM)
        self.udp.bind(("", 0))
        self.sport = self.udp.getsockname()[1]
        self.id = struct.unpack("!I", os.urandom(4))[0]

    def datagram(self, port, size):
        length = size + 8
        body = bytes(range(256)) * (size // 256 + 1)
        packet = struct.pack("!HHHH", self.sport, port, length, 0) + body[:size]
        pseudo = self.src + self.dst + (struct.pack("!II", length, UDP) if self.six else struct.pack("!BBH", 0, UDP, length))
        return packet[:6] + struct.pack("!H", checksum(pseudo + packet) or 0xFFFF) + packet[8:]

    def send(self, offset, part, more):
        """A fragment: `offset` in bytes, a multiple of 8."""
        if self.six:
            extension = struct.pack("!BBHI", UDP, 0, offset | more, self.id)
            head = struct.pack("!IHBB", 6 << 28, len(part) + 8, FRAGMENT, 64) + self.src + self.dst
            self.raw.sendto(head + extension + part, (self.host, 0))
            return
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), self.id & 0xFFFF, more << 13 | offset // 8, 64, UDP, 0, self.src, self.dst)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        self.raw.sendto(head + part, (self.host, 0))

    def answer(self, patience):
        self.udp.settimeout(patience)
        try:
            said = self.udp.recv(2048).decode().split()
            return f"{said[0]} {said[2]}"
        except TimeoutError:
            return "silence"


def cut(packet, *at):
    """(offset, bytes, more) of the packet cut there."""
    edges = [0, *at, len(packet)]
    return [(start, packet[start:end], end < len(packet)) for start, end in itertools.pairwise(edges)]


def main(host, port, other):
    it = Sender(host)
    family = "IPv6" if it.six else "IPv4"

    def ask(what, wanted, fragments, patience=1.0):
        # What is to be answered is asked again, once or twice: a datagram may be lost on a busy machine, a part of one sooner.
        for _ in range(1 if wanted == "silence" else 3):
            it.renew()
            for piece in fragments():
                it.send(*piece)
            got = it.answer(patience)
            if got == wanted:
                break
        say(got == wanted, f"{family}: {what}", f"wanted {wanted}, got {got}")

    def whole():
        return cut(it.datagram(port, 3000), 1000, 2000)
    for order in itertools.permutations(range(3)):
        ask(f"three fragments in the order {''.join(str(n + 1) for n in order)}", "2a 3000", lambda: [whole()[n] for n in order])
    ask("the UDP header alone in the first", "2a 3000", lambda: cut(it.datagram(port, 3000), 8, 1008, 2008))
    ask("a datagram of 40 fragments", "2a 3000", lambda: cut(it.datagram(port, 3000), *range(80, 3000, 80)))
    # RFC 1858, RFC 5722: a later fragment that says anew what the first has said, and means another port.
    ask("a second that overlaps the first's ports", "silence", lambda: [whole()[0], (0, it.datagram(other, 3000)[:1000], True), *whole()[1:]], 0.5)
    ask("one that overlaps its end", "silence", lambda: [whole()[0], (992, b"x" * 1008, True), whole()[2]], 0.5)
    ask("the first never comes", "silence", lambda: whole()[1:], 0.5)
    ask("the last never comes", "silence", lambda: whole()[:2], 0.5)
    ask("and whole ones pass as before", "2a 3000", whole)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
