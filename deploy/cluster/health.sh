# Sourced by run.sh: what load balancers ask before they send anything.

# status ADDRESS PATH: status line, headers and body on one line.
status() { at client curl -s -g --max-time 2 -D - "http://$1$2" | tr -d '\r\t ' | tr '\n' ' '; }
says() { [[ $(status "$1" "$2") == HTTP/1.[01]"$3"* ]]; }

health() {
    step "health check node ports, and what nodes say of themselves"
    check "a node with a pod of the Service" 'HTTP/1.[01]200.*[Xx]-[Ll]oad-[Bb]alancing-[Ee]ndpoint-[Ww]eight:1 .*"name":"local".*"localEndpoints":1.*"serviceProxyHealthy":true.*' status 10.40.0.1:31081 /
    check "one without" 'HTTP/1.[01]503.*"localEndpoints":0.*' status 10.40.0.3:31081 /
    check "one whose only pod is on its way out" 'HTTP/1.[01]503.*"localEndpoints":0.*' status 10.40.0.1:31082 /
    check "which still serves what comes" "1a 10.40.0.9" tcp client 10.40.0.1 30105
    check "in IPv6" 'HTTP/1.[01]503.*' status '[fd40::3]:31081' /
    check "/healthz" 'HTTP/1.[01]200.*' status 10.40.0.1:10256 /healthz
    check "/livez" 'HTTP/1.[01]200.*' status 10.40.0.1:10256 /livez
    replace_node 'deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [millrace.dev/test]'
    if within 5 says 10.40.0.1:10256 /healthz 503; then good "a node that is being deleted: /healthz"; else bad "a node that is being deleted: /healthz" "$(status 10.40.0.1:10256 /healthz)"; fi
    check "/livez is as it was" 'HTTP/1.[01]200.*' status 10.40.0.1:10256 /livez
    check "other nodes too" 'HTTP/1.[01]200.*' status 10.40.0.2:10256 /healthz
    check "it serves on" "$one .*" tcp client 10.40.0.1 30080
    check "and its pods" "$one .*" tcp pod-1-b 10.43.0.10 80
    replace_node ""
    if within 5 says 10.40.0.1:10256 /healthz 200; then good "it is not deleted after all"; else bad "it is not deleted after all" "$(status 10.40.0.1:10256 /healthz)"; fi
}

replace_node() {
    node 1 "$1" >"$work/node.yaml"
    mv "$work/node.yaml" "$work/manifests/node-1.yaml"
}
