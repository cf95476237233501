//! Servers that have only just begun, come back, were restored, or lack a kind: as seen with Kubernetes 1.36.

use super::*;

#[test]
fn a_kind_that_comes_later_is_followed_from_then_on() {
    let server = ApiServer::start().unwrap();
    server.apply(service("web", 1));
    // As before its CustomResourceDefinition is there.
    server.set_answer("ClusterNetworkPolicy", Some(404));
    let mut follower = Follower::start(&server, |options| {
        options.absent = Duration::from_millis(200);
    });
    follower.wait("the rest", |follower| follower.intake.is_complete());
    // Longer than it takes to be asked for ever more rarely.
    let until = Instant::now() + Duration::from_millis(800);
    while Instant::now() < until {
        follower.turn(Duration::from_millis(20));
    }
    assert_eq!(follower.store.count(Kind::ClusterNetworkPolicy), 0);
    server.apply(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "late"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}));
    server.set_answer("ClusterNetworkPolicy", None);
    follower.wait("the policy", |follower| follower.store.count(Kind::ClusterNetworkPolicy) == 1);
}

#[test]
fn a_kind_is_followed_under_the_version_that_the_server_has() {
    let server = ApiServer::start().unwrap();
    server.apply(service("web", 1));
    server.apply(json!({"apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy", "metadata": {"name": "beta"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}));
    server.set_answer("/apis/policy.networking.k8s.io/v1alpha2/", Some(404));
    let mut follower = Follower::start(&server, |_| {});
    follower.wait("the rest", |follower| follower.intake.is_complete());
    // It was not thought that there are none, even for a moment.
    assert_eq!(follower.store.count(Kind::ClusterNetworkPolicy), 1);
    server.set_answer("/apis/policy.networking.k8s.io/v1alpha2/", None);
    server.set_answer("/apis/policy.networking.k8s.io/v1beta1/", Some(404));
    server.end_watches();
    server.apply(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "older"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}));
    follower.wait("the other", |follower| follower.store.count(Kind::ClusterNetworkPolicy) == 2);
}

#[test]
fn what_a_server_forbids_before_it_has_let_us_see_anything_is_not_taken_for_absent() {
    let server = ApiServer::start().unwrap();
    server.apply(service("web", 1));
    let kinds =
        ["Node", "Service", "EndpointSlice", "ServiceCIDR", "Pod", "Namespace", "NetworkPolicy"];
    // A server that has only just begun knows no roles.
    let of_the_cluster =
        ["ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy"];
    for kind in kinds.into_iter().chain(of_the_cluster) {
        server.set_answer(kind, Some(403));
    }
    let mut follower = Follower::start(&server, |options| {
        options.first_wait = Duration::from_millis(100);
    });
    (0..20).for_each(|_| follower.turn(Duration::from_millis(20)));
    // Had the policies been taken for absent, nothing would wait for them now.
    for kind in kinds {
        server.set_answer(kind, None);
    }
    for kind in of_the_cluster {
        server.set_answer(kind, Some(503));
    }
    follower.wait("the Service", |follower| follower.store.count(Kind::Service) == 1);
    (0..20).for_each(|_| follower.turn(Duration::from_millis(20)));
    assert!(!follower.intake.is_complete(), "published without the policies");
    for kind in of_the_cluster {
        server.set_answer(kind, None);
    }
    follower.wait("the policies", |follower| follower.intake.is_complete());
}

#[test]
fn a_server_that_answers_again_is_asked_about_every_kind_at_once() {
    let server = ApiServer::start().unwrap();
    server.apply(service("web", 1));
    let mut follower = Follower::start(&server, |options| {
        options.first_wait = Duration::from_millis(100);
        options.longest_wait = Duration::from_secs(3);
    });
    follower.wait("the first list", |follower| follower.intake.is_complete());
    server.set_up(false);
    // Until the waits have grown.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        follower.turn(Duration::from_millis(20));
    }
    let watches = |follower: &Follower| {
        let count =
            |health: &kube::KindHealth| health.watches.load(std::sync::atomic::Ordering::Relaxed);
        follower.health.kinds().map(|(_, health)| count(health)).collect::<Vec<u64>>()
    };
    let before = watches(&follower);
    // As a server that was restarted: it knows no version from before.
    server.compact();
    server.apply(service("meanwhile", 2));
    server.set_up(true);
    let first = |follower: &Follower| {
        watches(follower).iter().zip(&before).any(|(now, before)| now > before)
    };
    follower.wait("one kind", first);
    let began = Instant::now();
    follower.wait("all kinds", |follower| {
        watches(follower).iter().zip(&before).all(|(now, before)| now > before)
    });
    follower.converge(&server);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1000), "{took:?} after the first");
}

#[test]
fn a_server_restored_from_a_backup_is_believed() {
    let server = ApiServer::start().unwrap();
    server.set_bookmarks(Duration::from_millis(20));
    server.apply(service("web", 1));
    server.apply(slice("web-1", "web", &[1]));
    let backup = server.back_up();
    server.apply(service("later", 2));
    server.apply(slice("web-1", "web", &[1, 2]));
    (0..50).for_each(|number| _ = server.apply(slice("other-1", "other", &[number])));
    let mut follower = Follower::start(&server, |_| {});
    follower.converge(&server);
    server.set_up(false);
    let away = |follower: &Follower| {
        let faults =
            |health: &kube::KindHealth| health.faults.load(std::sync::atomic::Ordering::Relaxed);
        follower.health.kinds().all(|(_, health)| faults(health) > 1)
    };
    follower.wait("the outage", away);
    server.restore(&backup);
    server.set_up(true);
    follower.converge(&server);
    assert!(follower.backends("default/later").is_empty());
    server.apply(slice("web-1", "web", &[7]));
    follower.converge(&server);
}

#[test]
fn a_server_that_ends_each_watch_with_gone_is_listed_ever_more_rarely() {
    let server = ApiServer::start().unwrap();
    server.apply(service("web", 1));
    server.set_faults(Faults { gone: 1000, ..Faults::default() });
    let mut follower = Follower::start(&server, |options| {
        options.first_wait = Duration::from_millis(50);
        options.longest_wait = Duration::from_secs(60);
    });
    let until = Instant::now() + Duration::from_secs(2);
    let mut round = 0;
    while Instant::now() < until {
        server.apply(service("web", round));
        round += 1;
        follower.turn(Duration::from_millis(5));
    }
    let services = follower.health.kinds().find(|(kind, _)| *kind == Kind::Service);
    let lists = services.unwrap().1.lists.load(std::sync::atomic::Ordering::Relaxed);
    // 25 to 50 ms, then double each time: some seven in two seconds; without that, one every few milliseconds.
    assert!((2..=10).contains(&lists), "{lists} lists");
}
