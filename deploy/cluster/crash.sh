# Sourced by run.sh: an engine that is killed, one that ends, and others who meddle with what it has put into the kernel.

# What an engine has put into the kernel of a node.
traces() {
    at "node-$1" ip -o link show millrace0 2>/dev/null
    at "node-$1" ip rule show | grep 'proto 77'
    at "node-$1" ip -6 rule show | grep 'proto 77'
    at "node-$1" ip route show table all proto 77
    at "node-$1" ip -6 route show table all proto 77
    at "node-$1" nft list tables | grep millrace | sort
    true
}

is_gone() { ! at "node-$1" ip link show millrace0; }

# All of it, with what is in the nftables tables.
all_traces() {
    local table
    traces 1
    { for table in "inet millrace" "inet millrace-pods" "ip millrace-own" "ip6 millrace-own"; do at node-1 nft list table $table; done; } | tr -d '\n\t ' | sed 's/elements={[^}]*}/\n&\n/g' | tr ',' '\n' | sort
}

is_whole() { [[ $(all_traces) == "$whole" ]]; }

# What others do to the rules of a node, by accident: a second engine, a firewall's flush, a network manager.
disturb() {
    local said whole
    # Until its routes and the set of node ports are there.
    within 5 eval '[[ $(all_traces) == *10.40.0.1.* && $(all_traces) == *10.43.0.0/16* ]]' || bad "node ports and the ServiceCIDR are led to the engine" "$(all_traces)"
    whole=$(all_traces)
    sed 's/engine-1.sock/second.sock/; $a[trunk]\nname = "second0"' "$work/engine-1.toml" >"$work/second.toml"
    said=$(timeout 20 ip netns exec "$(ns node-1)" "$bin/millrace-dataplane" --config "$work/second.toml" 2>&1) && bad "a second engine is refused" "$said"
    if [[ $said == *"another engine runs"* ]] && is_whole; then good "a second engine is refused, and takes nothing away"; else bad "a second engine is refused, and takes nothing away" "$said"; fi
    said=$(at node-1 "$bin/millrace-dataplane" --config "$work/second.toml" --cleanup 2>&1) && bad "--cleanup beside an engine is refused" "$said"
    if [[ $said == *"process ${engine[1]},"* ]] && is_whole; then good "--cleanup beside an engine is refused, names it and takes nothing away"; else bad "--cleanup beside an engine is refused, names it and takes nothing away" "$said"; fi
    at node-1 nft delete table inet millrace
    at node-1 nft delete table inet millrace-pods
    at node-1 nft delete table ip6 millrace-own
    at node-1 ip rule del pref 76
    at node-1 ip -6 rule del pref 77
    at node-1 ip route flush table 7701
    at node-1 ip route flush table 7700
    if within 10 is_whole; then good "what others take away is put back"; else bad "what others take away is put back" "$(diff <(echo "$whole") <(all_traces))"; fi
    check "and the engine serves" "$one .*" tcp pod-1-b 10.43.0.10 80
}

crash() {
    step "an engine that is killed, and one that ends"
    stop_engine 1 KILL
    if within 5 is_gone 1; then good "the trunk goes with its process"; else bad "the trunk goes with its process" "$(traces 1)"; fi
    check "the node is reached" "node-1 10.40.0.9" tcp client 10.40.0.1 9090
    check "its pods are reached" "1a 10.41.2.12" tcp pod-2-b 10.41.1.11 8080
    check "its pods reach others" "2a 10.41.1.12" tcp pod-1-b 10.41.2.11 8080
    check "other nodes serve" "2a 10.41.2.1" tcp client 10.40.0.2 30085
    at node-1 "$bin/millrace-dataplane" --config "$work/engine-1.toml" --cleanup 2>>"$work/cleanup.log" || bad "--cleanup" "$(tail -n 3 "$work/cleanup.log")"
    check "--cleanup leaves nothing" "" traces 1
    at node-1 "$bin/millrace-dataplane" --config "$work/engine-1.toml" --cleanup 2>>"$work/cleanup.log" || bad "--cleanup again" "$(tail -n 3 "$work/cleanup.log")"
    start_engine 1
    if serves 1; then good "a new engine serves"; else bad "a new engine serves" "$(tail -qn 3 "$work/engine-1.log")"; fi
    disturb
    if [[ $short == yes ]]; then
        stop_engine 1 TERM
        check "one that ends by itself leaves nothing" "" traces 1
        return
    fi
    stop_engine 1 KILL
    start_engine 1
    if serves 1; then good "and one that finds what the last has left"; else bad "and one that finds what the last has left" "$(tail -qn 3 "$work/engine-1.log")"; fi
    stop_engine 1 TERM
    check "one that ends by itself leaves nothing" "" traces 1
    start_engine 1
    if serves 1; then good "and serves again"; else bad "and serves again" "$(tail -qn 3 "$work/engine-1.log")"; fi
}
