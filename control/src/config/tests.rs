use super::*;

fn parse(text: &str) -> (Config, Vec<String>) {
    let (config, problems) = Config::parse(Path::new("control.toml"), text, &Config::default());
    (config, problems.iter().map(ToString::to_string).collect())
}

fn problem_of(text: &str) -> String {
    let (config, problems) = parse(text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(config.routes.is_empty() && config.neighbors.is_empty());
    problems[0].clone()
}

#[test]
fn everything_that_can_be_said_is_read() {
    let (config, problems) = parse(
        r#"
        engine = "/tmp/e.sock"
        manifests = "/m"
        kubeconfig = "/k"
        node = "node-a"
        nodeport_addresses = ["primary", "10.0.0.0/8"]
        service_cidr = ["172.30.0.0/16", "fd00:30::/112"]
        [[route]]
        prefix = "0.0.0.0/0"
        via = "192.0.2.1"
        [[route]]
        prefix = "2001:db8::/32"
        dev = "eth0"
        [[route]]
        prefix = "10.0.0.0/8"
        next_hop = [{ via = "192.0.2.1", weight = 3 }, { via = "198.51.100.1", dev = "eth1" }]
        [[route]]
        prefix = "192.168.0.0/16"
        type = "unreachable"
        [[neighbor]]
        interface = "eth0"
        address = "192.0.2.9"
        mac = "02:00:00:00:00:09"
        "#,
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        (config.engine, config.manifests, config.node.as_deref()),
        (Some("/tmp/e.sock".into()), Some("/m".into()), Some("node-a"))
    );
    assert_eq!(
        (config.nodeport_addresses.len(), config.service_cidr.len(), config.neighbors.len()),
        (2, 2, 1)
    );
    let hops: Vec<_> = config.routes.iter().map(|route| &route.action).collect();
    let Action::Forward(several) = hops[2] else { panic!("{hops:?}") };
    assert_eq!(
        several
            .iter()
            .map(|hop| (hop.via.is_some(), hop.dev.as_deref(), hop.weight))
            .collect::<Vec<_>>(),
        [(true, None, 3), (true, Some("eth1"), 1)]
    );
    assert_eq!(hops[3], &Action::Unreachable);
}

#[test]
fn a_bad_entry_is_named_by_file_entry_and_field() {
    for (text, said) in [
        (
            "[[route]]\nprefix = '10.0.0.1/8'\ndev = 'a'",
            "control.toml: [[route]] 1: prefix: 10.0.0.1/8 has bits set beyond its length, did you mean 10.0.0.0/8?",
        ),
        ("[[route]]\nprefix = 'x'\ndev = 'a'", "control.toml: [[route]] 1: prefix: "),
        (
            "[[route]]\nprefix = '10.0.0.0/8'",
            "control.toml: [[route]] 1: via: is missing: give via, dev or next_hop, or a type",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\nvia = '::1'",
            "control.toml: [[route]] 1: via: ::1 is not of the family of 10.0.0.0/8",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\nvia = '224.0.0.1'",
            "control.toml: [[route]] 1: via: 224.0.0.1 is not an address of a neighbor",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\ndev = 'a'\nmetric = 3",
            "control.toml: [[route]] 1: metric: unknown field `metric`",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\ndev = 3",
            "control.toml: [[route]] 1: dev: invalid type: integer `3`",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\ntype = 'hole'",
            "control.toml: [[route]] 1: type: unknown variant `hole`",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\ntype = 'blackhole'\ndev = 'a'",
            "control.toml: [[route]] 1: type: takes no via, dev or next_hop",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\nnext_hop = [{dev = 'a', weight = 0}]",
            "control.toml: [[route]] 1: next_hop[0].weight: 0 is not in 1 to 256",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\nnext_hop = [{dev = 'a'}, {}]",
            "control.toml: [[route]] 1: next_hop[1].via: is missing, and so is dev",
        ),
        (
            "[[route]]\nprefix = '10.0.0.0/8'\nvia = '192.0.2.1'\nnext_hop = [{dev = 'a'}]",
            "control.toml: [[route]] 1: next_hop: excludes via and dev beside it",
        ),
        (
            "[[neighbor]]\ninterface = 'a'\naddress = '192.0.2.1'\nmac = 'x'",
            "control.toml: [[neighbor]] 1: mac: \"x\" is not a MAC address such as 02:00:00:00:00:01",
        ),
        (
            "[[neighbor]]\ninterface = 'a'\naddress = '192.0.2.1'\nmac = 'ff:ff:ff:ff:ff:ff'",
            "control.toml: [[neighbor]] 1: mac: ff:ff:ff:ff:ff:ff is not an address of one neighbor",
        ),
        (
            "[[neighbor]]\ninterface = 'a'\naddress = '0.0.0.0'\nmac = '02:00:00:00:00:01'",
            "control.toml: [[neighbor]] 1: address: 0.0.0.0 is not an address of a neighbor",
        ),
        ("[[neighbor]]\ninterface = 'a'", "control.toml: [[neighbor]] 1: missing field `address`"),
        ("route = 3", "control.toml: route: must be written as [[route]], [[neighbor]] or [[pod]]"),
        ("node = 3", "control.toml: node: invalid type: integer `3`"),
        ("service_cidr = ['10.0.0.0/8', 'x']", "control.toml: service_cidr: [1]: "),
        (
            "nodeport_addresses = ['secondary']",
            "control.toml: nodeport_addresses: \"secondary\" is neither a prefix such as 192.168.0.0/16 nor `primary`",
        ),
        (
            "manifest = '/m'",
            "control.toml: manifest: is no option: engine, manifests, kubeconfig, node, nodeport_addresses, service_cidr, cluster_cidr, detect_local_mode, masquerade_all, [masquerade], policy_changes, unknown_pods, [[route]], [[neighbor]] or [[pod]]",
        ),
    ] {
        let found = problem_of(text);
        assert!(found.starts_with(said), "{found}\nnot\n{said}");
    }
}

#[test]
fn good_entries_beside_bad_ones_are_in_force() {
    let (config, problems) = parse(
        "node = 7\n[[route]]\nprefix = '10.0.0.0/8'\n[[route]]\nprefix = '11.0.0.0/8'\ndev = 'a'\n[[route]]\nprefix = '11.0.0.0/8'\ndev = 'b'\n",
    );
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems.contains(&"control.toml: [[route]] 3: prefix: 11.0.0.0/8 is routed by an earlier entry, which is in force".to_owned()));
    assert_eq!(config.routes.len(), 1);
}

#[test]
fn a_route_that_breaks_stays_as_it_was_and_so_does_a_broken_file() {
    let (good, _) = parse(
        "[[route]]\nprefix = '10.0.0.0/8'\ndev = 'a'\n[[route]]\nprefix = '11.0.0.0/8'\ndev = 'a'\n",
    );
    let (next, problems) =
        Config::parse(Path::new("c"), "[[route]]\nprefix = '10.0.0.0/8'\nvia = 'x'\n", &good);
    assert_eq!((next.routes.len(), problems.len()), (1, 1));
    assert_eq!(next.routes[0], good.routes[0]);
    let (next, problems) = Config::parse(Path::new("c"), "node = 'a'\n[[route]\n", &good);
    assert_eq!(next, good);
    assert!(problems[0].to_string().starts_with("c: line 2: "), "{}", problems[0]);
    let (next, problems) = Config::read(Path::new("/nowhere/c"), &good);
    assert!(next == good && problems[0].to_string().starts_with("/nowhere/c: can't be read: "));
}

#[test]
fn the_interface_of_a_pod_that_cannot_be_read_is_nobodys() {
    let text = |entry: &str| {
        format!("[[pod]]\ninterface = 'a'\npod = 'default/web'\nmac = '02:00:00:00:00:0a'\n{entry}")
    };
    let (config, problems) = parse(&text("addresses = ['10.0.0.5', 'fd00::5']"));
    assert_eq!(problems, [""; 0]);
    let [PodInterface { interface, pod: Some(pod), addresses: Some(addresses), .. }] =
        config.pods.as_slice()
    else {
        panic!("{:?}", config.pods)
    };
    assert_eq!((interface.as_str(), pod.to_string().as_str()), ("a", "Pod default/web"));
    assert_eq!(addresses.len(), 2);
    assert!(config.has_interface_of(pod));
    for (entry, said) in [
        ("addresses = ['10.0.0.0/8']", "control.toml: [[pod]] 1: addresses[0]: "),
        ("addresses = ['224.0.0.1']", "control.toml: [[pod]] 1: addresses: 224.0.0.1 is no pod's"),
        ("ip = '10.0.0.5'", "control.toml: [[pod]] 1: ip: unknown field `ip`"),
    ] {
        let (config, problems) = parse(&text(entry));
        assert!(problems.len() == 1 && problems[0].starts_with(said), "{problems:?}");
        assert_eq!(config.pods.len(), 1, "its interface stays closed");
        assert_eq!((config.pods[0].pod.as_ref(), config.pods[0].interface.as_str()), (None, "a"));
    }
    for (entry, said) in [
        ("pod = 'web'\nmac = '02:00:00:00:00:0a'", "pod: \"web\" is no NAMESPACE/NAME"),
        ("pod = 'a/b'\nmac = 'ff:ff:ff:ff:ff:ff'", "mac: ff:ff:ff:ff:ff:ff is not a station's"),
        ("pod = 'a/b'", "missing field `mac`"),
    ] {
        let (config, problems) = parse(&format!("[[pod]]\ninterface = 'a'\n{entry}"));
        assert_eq!(problems, [format!("control.toml: [[pod]] 1: {said}")]);
        assert!(config.pods.len() == 1 && config.pods[0].pod.is_none());
    }
    let twice = text("") + &text("");
    let (config, problems) = parse(&twice);
    assert_eq!(
        problems,
        ["control.toml: [[pod]] 2: interface: \"a\" is of an earlier entry, which is in force"]
    );
    assert!(config.pods.len() == 1 && config.pods[0].pod.is_some());
}
