//! What is hard to bring about from outside: words that are lost. Needs root, for a namespace of its own.

#[path = "../../../../dataplane/tests/common/netns.rs"]
#[allow(dead_code, missing_docs, reason = "shared with other tests, which use other parts")]
mod netns;

use super::*;
use netns::Namespace;
use std::{collections::BTreeSet, net::IpAddr};

#[test]
fn a_follower_that_panics_is_not_passed_over() {
    let (inbox, outbox) = crate::inbox::inbox().unwrap();
    let thread = std::thread::spawn(move || {
        let _watch = Watch(outbox);
        panic!("out of range");
    });
    assert!(thread.join().is_err());
    let (events, _) = inbox.wait(None, Duration::ZERO).unwrap();
    assert!(matches!(&events[..], [Event::Broken(_)]), "{events:?}");
}

#[test]
fn lost_words_are_made_good() {
    if !rustix::process::geteuid().is_root() || netns::ip(&["netns", "list"]).is_err() {
        assert!(
            std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
            "MILLRACE_PRIVILEGED is set, but there is no root or no iproute2"
        );
        println!("SKIP: network namespaces need root and iproute2");
        return;
    }
    let namespace = Namespace::new("mirror-lost");
    namespace.ip("link add up0 type veth peer name far0");
    namespace.ip("link set up0 up");
    let mut mirror = namespace.run(|| Mirror::open().unwrap());
    rustix::net::sockopt::set_socket_recv_buffer_size(&mirror.heard, 16 << 10).unwrap();
    let look = |mirror: &mut Mirror| {
        let mut changes = Vec::new();
        while mirror.dirty != Dirty::default() {
            mirror.look(&mut changes).unwrap();
        }
        changes
    };
    look(&mut mirror);
    mirror.hear(Instant::now()).unwrap();
    // Far more words than the socket's backlog takes, while nobody listens. The last of them, which is lost, is that the first row goes.
    let path = std::env::temp_dir().join(format!("millrace-lost-{}", std::process::id()));
    let mut batch: String = (0..900)
        .flat_map(|n| (0..10).map(move |round| (n, round)))
        .map(|(n, round)| {
            format!(
                "neigh replace 10.0.{}.{} lladdr 02:00:00:00:{round:02x}:01 dev up0 nud permanent\n",
                n / 250,
                n % 250 + 1
            )
        })
        .collect();
    batch += "neigh del 10.0.0.1 dev up0\naddr add 10.9.0.1/24 dev up0\n";
    std::fs::write(&path, batch).unwrap();
    netns::ip(&["-n", namespace.name(), "-batch", path.to_str().unwrap()]).unwrap();
    std::fs::remove_file(&path).unwrap();
    mirror.hear(Instant::now()).unwrap();
    assert_eq!(mirror.dirty, Dirty { routing: true, neighbors: true }, "nothing was lost");
    look(&mut mirror);
    // Words that were left in the socket would be older than what has been asked for.
    mirror.hear(Instant::now()).unwrap();
    look(&mut mirror);
    let there: BTreeSet<_> = mirror
        .neighbors
        .all()
        .map(|change| match change {
            Change::Neighbor((_, addr), Some(mac)) => (addr, mac),
            other => panic!("{other:?}"),
        })
        .collect();
    let first = millrace_wire::Addr::from(IpAddr::from([10, 0, 0, 1]));
    assert_eq!(there.len(), 899);
    assert!(there.iter().all(|(addr, mac)| *addr != first && mac.0 == [2, 0, 0, 0, 9, 1]));
    assert!(mirror.addresses.iter().any(|it| it.net.to_string() == "10.9.0.1/24"));
}
