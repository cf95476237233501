# Sourced by run.sh: more than a packet.

sizes() {
    local from
    step "size"
    for from in pod-1-b client; do
        local where=(10.43.0.15 80)
        [[ $from == client ]] && where=(10.40.0.1 30085)
        check "$from: 4 MiB down" 4194304 size_of $from "$(bracketed "${where[0]}"):${where[1]}"
        check "$from: 1 MiB up" ".* 1048576" upload $from "${where[@]}"
        check "$from: a datagram in fragments" "2a .*" udp $from "${where[0]}" "$([[ $from == client ]] && echo 30085 || echo 53)" 4000
    done
}
