#!/usr/bin/env python3
"""Packets that no socket would send, for the test cluster.

    raw.py boom DEVICE PORT SECONDS       waits for a TCP segment to PORT and answers it with segments that are far out of window
    raw.py watch DEVICE SECONDS           prints from where and to where such segments go: SOURCE PORT DESTINATION PORT, each once
    raw.py udp SOURCE DESTINATION PORT    sends datagrams that claim to be from SOURCE (IPv6)

The first two say "ready" before.
"""
import ipaddress
import socket
import struct
import sys
import time

BOOM = b"boom" * 4
FIN, SYN, RST, ACK = 1, 2, 4, 16


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport(source, destination, protocol, header, at, payload):
    """The header with its checksum at `at`, and the payload."""
    body = header + payload
    pseudo = source.packed + destination.packed + struct.pack("!IHBB", len(body), 0, 0, protocol)
    return header[:at] + struct.pack("!H", checksum(pseudo + body)) + header[at + 2:] + payload


def send(source, destination, protocol, body):
    if source.version == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + source.packed + destination.packed
        family = socket.AF_INET
    else:
        ip = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + source.packed + destination.packed
        family = socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as it:
        it.sendto(ip + body, (str(destination), 0))


def segments(device, seconds):
    """TCP segments that pass a device: addresses, ports, sequence and acknowledgement numbers, flags, payload."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)) as it:
        it.bind((device, 0))
        print("ready", flush=True)
        while (left := deadline - time.monotonic()) > 0:
            it.settimeout(left)
            try:
                frame = it.recv(65536)
            except TimeoutError:
                return
            kind, ip = frame[12:14], frame[14:]
            if kind == b"\x08\x00" and ip[9] == 6:
                body = ip[(ip[0] & 15) * 4:struct.unpack("!H", ip[2:4])[0]]
                source, destination = ip[12:16], ip[16:20]
            elif kind == b"\x86\xdd" and ip[6] == 6:
                body, source, destination = ip[40:40 + struct.unpack("!H", ip[4:6])[0]], ip[8:24], ip[24:40]
            else:
                continue
            if len(body) >= 20:
                ports = struct.unpack("!HHII", body[:12])
                addresses = ipaddress.ip_address(source), ipaddress.ip_address(destination)
                yield addresses, ports, body[13], body[(body[12] >> 4) * 4:]


def boom(device, port, seconds):
    for (client, own), (sport, dport, sequence, wanted), flags, _ in segments(device, seconds):
        if dport != port or not flags & ACK or flags & (FIN | SYN | RST):
            continue
        for quarter in (1 << 29, 1 << 30, 3 << 29):
            number = (wanted + quarter) % (1 << 32)
            header = struct.pack("!HHIIBBHHH", dport, sport, number, sequence, 0x50, ACK, 512, 0, 0)
            send(own, client, 6, transport(own, client, 6, header, 16, BOOM))
        return print(f"{client} {sport}")
    sys.exit("nobody asked")


def watch(device, seconds):
    seen = set()
    for (source, destination), (sport, dport, _, _), _, payload in segments(device, seconds):
        ways = f"{source} {sport} {destination} {dport}"
        if payload.startswith(BOOM) and ways not in seen:
            seen.add(ways)
            print(ways, flush=True)


def udp(source, destination, port):
    source, destination = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    for count in range(20):
        header = struct.pack("!HHHH", 41000 + count, port, 8 + len(BOOM), 0)
        send(source, destination, 17, transport(source, destination, 17, header, 6, BOOM))


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "boom":
        boom(rest[0], int(rest[1]), float(rest[2]))
    elif command == "watch":
        watch(rest[0], float(rest[1]))
    else:
        udp(rest[0], rest[1], int(rest[2]))
