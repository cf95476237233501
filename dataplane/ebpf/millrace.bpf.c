// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//
// Ours or the kernel's: the smallest program that can decide it, run by the driver for every
// frame that a queue of one interface receives.
//
// Decides: redirect to the queue's AF_XDP socket, or XDP_PASS. It never drops and never writes.
// Needs: `settings` and `heartbeat` from the engine (src/steer.rs keeps the layouts in step).
// Leaves to the engine: everything else, validity of headers included.
//
// Cost of a redirected frame: three array lookups (inlined by the verifier), one coarse clock
// read, one map redirect. In service-proxy mode two LPM lookups more (destination, source), and
// for the node's own addresses an array lookup.
//
// The object is loaded once for each interface, so that a socket's slot in `xsks` is its queue.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Who owns the interface's addresses: the engine, or the kernel.
#define MODE_ROUTER 0
#define MODE_SERVICE_PROXY 1

#define MAX_VLAN_TAGS 2

#define ICMP 1
#define TCP 6
#define UDP 17
#define FRAGMENT 44
#define ICMPV6 58
#define SCTP 132
#define ND_NEIGHBOR_SOLICITATION 135
#define ND_NEIGHBOR_ADVERTISEMENT 136
// RFC 4861 §7.1: a packet that was forwarded can't have it.
#define ND_HOP_LIMIT 255

// What is ours of a destination where the kernel owns the interface: src/steer/maps.rs has the same.
#define OURS_WHOLE 1
#define OURS_BY_PORT 2
// No destination is: the trunk's networks, where nothing that an uplink receives can come from.
#define OURS_SOURCE 4
// Words of 64 ports, for each of three protocols.
#define PORT_WORDS 1024

// src/steer/maps.rs writes this as three native 64-bit words.
struct settings {
    __u64 stale_after_ns;
    __u64 mode;
    __u64 mac; // the interface's, first byte at the lowest address, two zero bytes after it
};

// src/steer/maps.rs reads this as four native 64-bit words per CPU.
struct statistics {
    __u64 redirected;
    __u64 passed;  // not ours
    __u64 stale;   // ours, but no worker has beaten lately
    __u64 unbound; // ours, but the queue has no socket
};

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 64); // the loader sets the interface's queue count
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct settings);
} settings SEC(".maps");

// CLOCK_MONOTONIC nanoseconds of the engine's last sign of life; 0: none yet.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} heartbeat SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct statistics);
} stats SEC(".maps");

struct prefix4 {
    __u32 length;
    __u8 address[4];
};

struct prefix6 {
    __u32 length;
    __u8 address[16];
};

// Destinations that the engine answers for where the kernel owns the interface.
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 65536);
    __type(key, struct prefix4);
    __type(value, __u8);
} local4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 65536);
    __type(key, struct prefix6);
    __type(value, __u8);
} local6 SEC(".maps");

// Ports on the node's own addresses that are ours, one bit each: protocol (TCP, UDP, SCTP) * PORT_WORDS + port / 64.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 3 * PORT_WORDS);
    __type(key, __u32);
    __type(value, __u64);
} ports SEC(".maps");

struct vlan_tag {
    __be16 control;
    __be16 type;
} __attribute__((packed));

// RFC 826, for Ethernet and IPv4.
struct arp {
    __be16 hardware, protocol;
    __u8 hardware_length, protocol_length;
    __be16 operation;
    __u8 sender_mac[6], sender[4], target_mac[6], target[4];
} __attribute__((packed));

struct ipv4 {
    __u8 version_length, service;
    __be16 total_length, id, fragment;
    __u8 ttl, protocol;
    __be16 checksum;
    __u8 source[4], destination[4];
} __attribute__((packed));

struct ipv6 {
    __be32 version_class_label;
    __be16 payload_length;
    __u8 next_header, hop_limit, source[16], destination[16];
} __attribute__((packed));

// RFC 4861 §4.3 and §4.4: both kinds begin alike.
struct neighbor_message {
    __u8 type, code;
    __be16 checksum;
    __be32 flags;
    __u8 target[16];
} __attribute__((packed));

// Who a frame is for, by its destination MAC.
enum audience { US, GROUP, OTHERS };

static __always_inline int ours4(const __u8 *address) {
    struct prefix4 key = {.length = 32};
    __builtin_memcpy(key.address, address, sizeof(key.address));
    const __u8 *what = bpf_map_lookup_elem(&local4, &key);
    return what ? *what : 0;
}

static __always_inline int ours6(const __u8 *address) {
    struct prefix6 key = {.length = 128};
    __builtin_memcpy(key.address, address, sizeof(key.address));
    const __u8 *what = bpf_map_lookup_elem(&local6, &key);
    return what ? *what : 0;
}

// What a source is, if it says that the frame is forged. The kernel judges it where it came in (of
// IPv4 it refuses it); out of the trunk it would be taken for the node's own.
static __always_inline int is_this_node(int what) {
    return what == OURS_BY_PORT || what == OURS_SOURCE;
}

static __always_inline int is_our_port(__u8 protocol, __be16 port) {
    __u32 host = bpf_ntohs(port), place = protocol == TCP ? 0 : protocol == UDP ? 1 : 2;
    __u32 key = place * PORT_WORDS + host / 64;
    const __u64 *word = bpf_map_lookup_elem(&ports, &key);
    return word && (*word >> (host % 64) & 1);
}

static __always_inline int has_ports(__u8 protocol) {
    return protocol == TCP || protocol == UDP || protocol == SCTP;
}

// Behind the IP header of a packet to an address of the node's; `at` is one to be bounded by.
static __always_inline int is_our_flow(const __be16 *at, void *end, __u8 protocol) {
    return (void *)(at + 2) <= end && is_our_port(protocol, at[1]);
}

// The packet that an ICMP error quotes was sent by us if its source port is ours.
static __always_inline int is_our_quote(const __be16 *at, void *end, __u8 protocol) {
    return has_ports(protocol) && (void *)(at + 1) <= end && is_our_port(protocol, at[0]);
}

static __always_inline void *behind4(const struct ipv4 *ip) {
    return (void *)ip + (ip->version_length & 0xf) * 4;
}

// Fragments go to the engine all or none, and only the first tells: all.
static __always_inline int is_ours_by_port4(const struct ipv4 *ip, void *end) {
    if (ip->fragment & bpf_htons(0x3fff))
        return has_ports(ip->protocol);
    void *payload = behind4(ip);
    if (has_ports(ip->protocol))
        return is_our_flow(payload, end, ip->protocol);
    const __u8 *type = payload;
    const struct ipv4 *quoted = payload + 8;
    if (ip->protocol != ICMP || (void *)(quoted + 1) > end)
        return 0;
    // RFC 792: destination unreachable, time exceeded, parameter problem.
    if (*type != 3 && *type != 11 && *type != 12)
        return 0;
    return is_our_quote(behind4(quoted), end, quoted->protocol);
}

static __always_inline int is_ours_by_port6(const struct ipv6 *ip, void *end) {
    const void *payload = ip + 1;
    if (ip->next_header == FRAGMENT)
        return 1;
    if (has_ports(ip->next_header))
        return is_our_flow(payload, end, ip->next_header);
    const __u8 *type = payload;
    const struct ipv6 *quoted = payload + 8;
    if (ip->next_header != ICMPV6 || (void *)(quoted + 1) > end || *type >= 128)
        return 0;
    return is_our_quote((const void *)(quoted + 1), end, quoted->next_header);
}

// A router resolves and is resolved by nobody else, so it takes all of ARP. Beside a kernel
// that owns the interface the kernel does that, or whoever announces service addresses.
static __always_inline int is_our_arp(const struct arp *arp, void *end, __u64 mode) {
    return mode == MODE_ROUTER && (void *)(arp + 1) <= end;
}

static __always_inline int is_our_ipv4(const struct ipv4 *ip, void *end, enum audience audience, __u64 mode) {
    if ((void *)(ip + 1) > end || audience != US)
        return 0;
    if (mode == MODE_ROUTER)
        return 1;
    int what = ours4(ip->destination);
    int is_ours = what == OURS_BY_PORT ? is_ours_by_port4(ip, end) : what == OURS_WHOLE;
    return is_ours && !is_this_node(ours4(ip->source));
}

static __always_inline int is_our_neighbor_message(const struct ipv6 *ip, void *end) {
    const struct neighbor_message *message = (const void *)(ip + 1);
    if (ip->next_header != ICMPV6 || ip->hop_limit != ND_HOP_LIMIT || (void *)(message + 1) > end)
        return 0;
    return message->type == ND_NEIGHBOR_SOLICITATION || message->type == ND_NEIGHBOR_ADVERTISEMENT;
}

static __always_inline int is_our_ipv6(const struct ipv6 *ip, void *end, enum audience audience, __u64 mode) {
    if ((void *)(ip + 1) > end)
        return 0;
    if (mode == MODE_ROUTER)
        return audience == US || is_our_neighbor_message(ip, end);
    if (audience != US)
        return 0;
    // Also those about a service address: the kernel, or whoever announces it, answers.
    if (is_our_neighbor_message(ip, end))
        return 0;
    int what = ours6(ip->destination);
    int is_ours = what == OURS_BY_PORT ? is_ours_by_port6(ip, end) : what == OURS_WHOLE;
    return is_ours && !is_this_node(ours6(ip->source));
}

static __always_inline int is_vlan(__be16 type) {
    return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline int is_ours(struct xdp_md *frame, const struct settings *settings) {
    void *end = (void *)(long)frame->data_end;
    struct ethhdr *ethernet = (void *)(long)frame->data;
    if ((void *)(ethernet + 1) > end)
        return 0;

    __u64 destination = 0;
    __builtin_memcpy(&destination, ethernet->h_dest, ETH_ALEN);
    enum audience audience = destination == settings->mac ? US : ethernet->h_dest[0] & 1 ? GROUP : OTHERS;
    if (audience == OTHERS)
        return 0;

    __u64 mode = settings->mode;
    __be16 type = ethernet->h_proto;
    void *payload = ethernet + 1;
    // The kernel has a device of its own for the VLAN; handed to it by the trunk it would be of none.
    if (mode != MODE_ROUTER && is_vlan(type))
        return 0;
#pragma unroll
    for (int tags = 0; tags < MAX_VLAN_TAGS; tags++) {
        if (!is_vlan(type))
            break;
        struct vlan_tag *tag = payload;
        if ((void *)(tag + 1) > end)
            return 0;
        type = tag->type;
        payload = tag + 1;
    }

    switch (type) {
    case bpf_htons(ETH_P_IP):
        return is_our_ipv4(payload, end, audience, mode);
    case bpf_htons(ETH_P_IPV6):
        return is_our_ipv6(payload, end, audience, mode);
    case bpf_htons(ETH_P_ARP):
        return is_our_arp(payload, end, mode);
    }
    return 0;
}

// The coarse clock may lag a beat by a tick: a negative age is fresh.
static __always_inline int is_alive(const struct settings *settings) {
    __u32 zero = 0;
    const volatile __u64 *beat = bpf_map_lookup_elem(&heartbeat, &zero);
    if (!beat)
        return 0;
    __u64 last = *beat;
    return last != 0 && (__s64)(bpf_ktime_get_coarse_ns() - last) <= (__s64)settings->stale_after_ns;
}

// `xdp.frags`: frames of several buffers come too; their headers are in the first.
SEC("xdp.frags")
int millrace_steer(struct xdp_md *frame) {
    __u32 zero = 0;
    const struct settings *current = bpf_map_lookup_elem(&settings, &zero);
    struct statistics *counts = bpf_map_lookup_elem(&stats, &zero);
    if (!current || !counts)
        return XDP_PASS;
    if (!is_ours(frame, current)) {
        counts->passed++;
        return XDP_PASS;
    }
    if (!is_alive(current)) {
        counts->stale++;
        return XDP_PASS;
    }
    int action = bpf_redirect_map(&xsks, frame->rx_queue_index, XDP_PASS);
    if (action == XDP_REDIRECT)
        counts->redirected++;
    else
        counts->unbound++;
    return action;
}

// The kernel reads it; some helpers are for GPL-compatible programs alone.
char LICENSE[] SEC("license") = "Dual BSD/GPL";
