//! The manifests directory: what is in force after files come, go, move, break and mend.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use crate::common::TempDir;
use millrace_control::{
    Key, Kind, Store,
    reflect::{
        files::{Files, Outcome},
        watch,
    },
};

fn service(name: &str, cluster_ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {cluster_ip}\n  ports:\n  - port: 80\n"
    )
}

struct Watched {
    dir: TempDir,
    files: Files,
    store: Store,
}

impl Watched {
    fn new() -> Watched {
        let dir = TempDir::new();
        let files = Files::new(dir.path());
        Watched { dir, files, store: Store::new() }
    }

    fn look(&mut self) -> Outcome {
        self.files.look(&BTreeSet::new(), &mut self.store).expect("a readable directory")
    }

    /// New problems, without the directory's name.
    fn problems(&mut self) -> Vec<String> {
        let prefix = format!("{}/", self.dir.path().display());
        self.look().new.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
    }

    /// Ingress rules of a NetworkPolicy in force.
    fn rules(&self, name: &str) -> Option<usize> {
        let key = Key { kind: Kind::NetworkPolicy, namespace: "default".into(), name: name.into() };
        self.store.policy(&key)?.ingress.as_ref().map(Vec::len)
    }

    /// `name=clusterIP` of each Service in force.
    fn services(&self) -> Vec<String> {
        let row = |name: millrace_control::store::ServiceName| {
            let addresses = self
                .store
                .service(&name)
                .into_iter()
                .flat_map(|service| &service.cluster_ips)
                .map(ToString::to_string);
            format!("{}={}", name.name, addresses.collect::<Vec<_>>().join(","))
        };
        self.store.service_names().map(row).collect()
    }
}

#[test]
fn files_that_come_change_and_go_take_effect() {
    let mut watched = Watched::new();
    watched.dir.write(
        "a.yaml",
        &format!("{}---\n{}", service("a", "172.30.0.1"), service("b", "172.30.0.2")),
    );
    watched.dir.write("c.json", r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}, "spec": {"clusterIP": "172.30.0.3"}}"#);
    assert!(watched.problems().is_empty());
    assert_eq!(watched.services(), ["a=172.30.0.1", "b=172.30.0.2", "c=172.30.0.3"]);
    watched.dir.replace("a.yaml", &service("a", "172.30.0.9"));
    fs::remove_file(watched.dir.path().join("c.json")).unwrap();
    assert!(watched.problems().is_empty());
    assert_eq!(watched.services(), ["a=172.30.0.9"]);
    fs::rename(watched.dir.path().join("a.yaml"), watched.dir.path().join("z.yml")).unwrap();
    watched.store.take_changed();
    watched.look();
    assert_eq!(watched.services(), ["a=172.30.0.9"]);
    assert!(watched.store.take_changed().services.is_empty(), "a rename changes nothing");
}

#[test]
fn temporary_hidden_and_other_files_do_not_count() {
    let mut watched = Watched::new();
    for name in [".a.yaml.swp", ".a.yaml", "a.yaml~", "a.yaml.bak", "4913", "#a.yaml#", "README.md"]
    {
        watched.dir.write(name, &service("a", "172.30.0.1"));
    }
    fs::create_dir(watched.dir.path().join("sub")).unwrap();
    watched.dir.write("sub/a.yaml", &service("a", "172.30.0.1"));
    assert!(watched.problems().is_empty() && watched.services().is_empty());
}

#[test]
fn a_directory_a_fifo_and_a_dangling_link_with_a_manifests_name_stop_nothing() {
    let mut watched = Watched::new();
    fs::create_dir(watched.dir.path().join("dir.yaml")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        watched.dir.path().join("fifo.yaml"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    watched.dir.write("good.yaml", &service("a", "172.30.0.1"));
    assert_eq!(
        watched.problems(),
        ["dir.yaml: object: is not a regular file", "fifo.yaml: object: is not a regular file"]
    );
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
    symlink("nowhere", watched.dir.path().join("link.yaml")).unwrap();
    watched.look();
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
}

#[test]
fn a_broken_document_keeps_its_object_and_no_other() {
    let mut watched = Watched::new();
    let file = |middle: &str| {
        format!("{}---\n{middle}---\n{}", service("a", "172.30.0.1"), service("c", "172.30.0.3"))
    };
    watched.dir.write("all.yaml", &file(&service("b", "172.30.0.2")));
    watched.look();
    // Its indentation broken, a's address changed in the same save.
    let broken = file("apiVersion: v1\nkind: Service\nmetadata:\n  name: b\nspec: {clusterIP: [\n")
        .replace("172.30.0.1", "172.30.0.11");
    watched.dir.replace("all.yaml", &broken);
    let problems = watched.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("all.yaml, document 2, line ")
            && problems[0].contains(": Service b: is malformed: "),
        "{problems:?}"
    );
    assert_eq!(watched.services(), ["a=172.30.0.11", "b=172.30.0.2", "c=172.30.0.3"]);
    // A field of the wrong type: the object is known for sure, and the others may go.
    watched
        .dir
        .replace("all.yaml", &service("b", "172.30.0.2").replace("port: 80", "port: eighty"));
    assert_eq!(
        watched.problems(),
        [
            "all.yaml, document 1: Service default/b: spec.ports[0].port: invalid type: string \"eighty\", expected i32"
        ]
    );
    assert_eq!(watched.services(), ["b=172.30.0.2"]);
    watched.dir.replace("all.yaml", &service("b", "172.30.0.22"));
    let outcome = watched.look();
    assert_eq!((outcome.new.len(), outcome.mended.len()), (0, 1));
    assert_eq!(watched.services(), ["b=172.30.0.22"]);
}

#[test]
fn text_that_shows_no_identity_keeps_all_that_it_could_have_been() {
    let mut watched = Watched::new();
    watched.dir.write(
        "all.yaml",
        &format!("{}---\n{}", service("a", "172.30.0.1"), service("b", "172.30.0.2")),
    );
    watched.look();
    watched.dir.replace("all.yaml", &format!("{}---\n{{{{nonsense\n", service("a", "172.30.0.11")));
    assert_eq!(watched.problems().len(), 1);
    assert_eq!(watched.services(), ["a=172.30.0.11", "b=172.30.0.2"]);
}

#[test]
fn a_broken_object_survives_the_rename_of_its_file() {
    let mut watched = Watched::new();
    watched.dir.write("a.yaml", &service("a", "172.30.0.1"));
    watched.look();
    fs::remove_file(watched.dir.path().join("a.yaml")).unwrap();
    watched.dir.write("b.yaml", &service("a", "172.30.0.2").replace("port: 80", "port: eighty"));
    watched.look();
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
}

#[test]
fn of_two_files_with_one_object_the_first_path_is_in_force_and_the_other_reported() {
    let mut watched = Watched::new();
    watched.dir.write("b.yaml", &service("web", "172.30.0.2"));
    watched.look();
    watched.dir.write("a.yaml", &service("web", "172.30.0.1"));
    let problems = watched.problems();
    assert_eq!(
        problems,
        ["b.yaml, document 1: Service default/web: is also defined in a.yaml, which is in force"]
    );
    assert_eq!(watched.services(), ["web=172.30.0.1"]);
    // A broken version yields to a good one elsewhere.
    watched
        .dir
        .replace("a.yaml", &service("web", "172.30.0.1").replace("port: 80", "port: eighty"));
    watched.look();
    assert_eq!(watched.services(), ["web=172.30.0.2"]);
    fs::remove_file(watched.dir.path().join("b.yaml")).unwrap();
    fs::remove_file(watched.dir.path().join("a.yaml")).unwrap();
    watched.look();
    assert!(watched.services().is_empty());
}

#[test]
fn twice_in_one_file_the_first_document_is_in_force() {
    let mut watched = Watched::new();
    watched.dir.write(
        "a.yaml",
        &format!("{}---\n{}", service("web", "172.30.0.1"), service("web", "172.30.0.2")),
    );
    assert_eq!(
        watched.problems(),
        [
            "a.yaml, document 2: Service default/web: is also defined in document 1, which is in force"
        ]
    );
    assert_eq!(watched.services(), ["web=172.30.0.1"]);
}

#[test]
fn a_file_that_can_not_be_read_keeps_what_it_had() {
    let mut watched = Watched::new();
    watched.dir.write("a.yaml", &service("a", "172.30.0.1"));
    watched.look();
    fs::write(watched.dir.path().join("a.yaml"), b"\xff\xfe not text").unwrap();
    let problems = watched.problems();
    assert!(
        problems[0].starts_with("a.yaml, document 1: object: is not UTF-8: byte 0 of the file; "),
        "{problems:?}"
    );
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
    let huge = fs::File::create(watched.dir.path().join("a.yaml")).unwrap();
    huge.set_len(1 << 40).unwrap();
    assert!(watched.problems()[0].contains("at most 67108864 are read"));
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
}

fn policy(name: &str, ingress: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  ingress: {ingress}\n"
    )
}

#[test]
fn a_policy_that_can_be_read_in_two_ways_isolates_and_allows_nothing() {
    let mut watched = Watched::new();
    let twice = policy("twice", "[{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]\n  ingress: [{}]");
    let service_twice = service("a", "172.30.0.1") + "spec: {}\n";
    watched
        .dir
        .write("a.yaml", &format!("{twice}---\n{service_twice}---\n{}", policy("good", "[{}]")));
    let problems = watched.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("a.yaml, document 1")
            && problems[0].contains("NetworkPolicy default/twice: is malformed: duplicate"),
        "{problems:?}"
    );
    assert!(problems[1].contains("Service default/a: is malformed: duplicate"), "{problems:?}");
    assert_eq!(watched.rules("twice"), Some(0), "it is there, and allows nothing");
    assert_eq!(watched.rules("good"), Some(1));
    assert!(watched.services().is_empty(), "of other objects nothing is guessed");
}

#[test]
fn bytes_that_are_no_text_spoil_the_item_that_they_are_in() {
    let mut watched = Watched::new();
    let text = policy("p", "[{from: [{podSelector: {matchLabels: {a: \"ZZ\"}}}]}, {}]");
    let mut bytes = format!("{text}---\n{}", service("a", "172.30.0.1")).into_bytes();
    let at = bytes.windows(2).position(|two| two == b"ZZ").unwrap();
    bytes[at..at + 2].copy_from_slice(b"\xff\xfe");
    fs::write(watched.dir.path().join("a.yaml"), &bytes).unwrap();
    let problems = watched.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|it| it.contains(&format!("is not UTF-8: byte {at} of the file"))));
    assert!(
        problems.iter().any(|it| it.contains("spec.ingress[0].from[0].podSelector.matchLabels")),
        "{problems:?}"
    );
    assert_eq!((watched.rules("p"), watched.services().len()), (Some(2), 1));
}

#[test]
fn a_file_that_was_just_emptied_is_being_written() {
    let mut watched = Watched::new();
    watched.dir.write("a.yaml", &service("a", "172.30.0.1"));
    watched.look();
    watched.dir.write("a.yaml", "");
    assert!(watched.look().unsettled);
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while watched.look().unsettled {
        assert!(Instant::now() < deadline, "an empty file is believed in the end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(watched.services().is_empty());
}

#[test]
fn a_directory_that_is_gone_keeps_everything() {
    let mut watched = Watched::new();
    watched.dir.write("a.yaml", &service("a", "172.30.0.1"));
    watched.look();
    fs::remove_dir_all(watched.dir.path()).unwrap();
    let error = watched.files.look(&BTreeSet::new(), &mut watched.store).unwrap_err().to_string();
    assert!(error.contains("give a readable directory with --manifests"), "{error}");
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
}

#[test]
fn a_config_map_that_is_swapped_below_its_links_takes_effect() {
    let mut watched = Watched::new();
    for (version, cluster_ip) in [("v1", "172.30.0.1"), ("v2", "172.30.0.2")] {
        fs::create_dir(watched.dir.path().join(format!("..{version}"))).unwrap();
        watched.dir.write(&format!("..{version}/a.yaml"), &service("a", cluster_ip));
    }
    symlink("..v1", watched.dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", watched.dir.path().join("a.yaml")).unwrap();
    watched.look();
    assert_eq!(watched.services(), ["a=172.30.0.1"]);
    symlink("..v2", watched.dir.path().join("..tmp")).unwrap();
    fs::rename(watched.dir.path().join("..tmp"), watched.dir.path().join("..data")).unwrap();
    watched.look();
    assert_eq!(watched.services(), ["a=172.30.0.2"]);
}

#[test]
fn a_kind_that_is_not_read_is_said_once() {
    let mut watched = Watched::new();
    let policy =
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: deny}\n---\n";
    watched.dir.write("a.yaml", &format!("{policy}{}", service("a", "172.30.0.1")));
    let notices = watched.look().notices;
    assert!(
        notices.len() == 1
            && notices[0].contains(
                "projectcalico.org/v3 NetworkPolicy /deny is of an API version that is not read"
            ),
        "{notices:?}"
    );
    watched.dir.replace("a.yaml", &format!("{policy}{}", service("a", "172.30.0.2")));
    assert!(watched.look().notices.is_empty());
}

/// Through inotify, as the process does it: saves of every kind are seen whole.
#[test]
fn saves_in_place_and_by_rename_are_seen_whole() {
    let mut watched = Watched::new();
    let (sender, changes) = channel();
    watch::spawn(watched.dir.path().to_owned(), move |paths| sender.send(paths).is_ok()).unwrap();
    let wait_for = |watched: &mut Watched, expected: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while watched.services().join(" ") != expected {
            let left = deadline.saturating_duration_since(Instant::now());
            let hint = changes.recv_timeout(left).unwrap_or_else(|_| {
                panic!("waited for {expected:?}, got {:?}", watched.services())
            });
            watched.files.look(&hint, &mut watched.store).unwrap();
            assert!(
                watched.services().len() >= expected.split_whitespace().count().min(1),
                "never empty between"
            );
        }
    };
    watched.dir.write("a.yaml", &service("a", "172.30.0.1"));
    wait_for(&mut watched, "a=172.30.0.1");
    watched.dir.replace("a.yaml", &service("a", "172.30.0.2"));
    wait_for(&mut watched, "a=172.30.0.2");
    // Truncated, then written in two halves with a pause that is longer than the debounce.
    {
        use std::io::Write;
        let text = service("a", "172.30.0.3");
        let mut file = fs::File::create(watched.dir.path().join("a.yaml")).unwrap();
        let (first, second) = text.split_at(text.len() / 2);
        file.write_all(first.as_bytes()).unwrap();
        std::thread::sleep(watch::QUIET * 3);
        file.write_all(second.as_bytes()).unwrap();
    }
    wait_for(&mut watched, "a=172.30.0.3");
    fs::rename(watched.dir.path().join("a.yaml"), watched.dir.path().join("b.yaml")).unwrap();
    watched.dir.write("c.yaml", &service("c", "172.30.0.4"));
    wait_for(&mut watched, "a=172.30.0.3 c=172.30.0.4");
}
