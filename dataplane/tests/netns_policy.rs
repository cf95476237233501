//! Policies by packets: kernels' own connections between namespaces, each a pod behind an interface of the released engine, with released
//! control on manifests. What is seen has to be what the model says (`control/tests/whole/policy/model.rs`, which reads raw objects and shares no code with what
//! it judges), or what is written out, and what `explain` says of the live tables.
//!
//! Needs root and `target/release` (`make build`), or the folder that `MILLRACE_BIN` names. `cargo test --test netns_policy -- --ignored`
//! (`make policy`) runs the long forms.

mod common;

#[path = "../../control/tests/whole/policy/model.rs"]
#[allow(dead_code, reason = "names are compared where the tables are read")]
mod model;
#[path = "../../control/tests/whole/policy/random.rs"]
#[allow(dead_code, reason = "pods have their places here")]
mod random;
#[path = "policy/cases.rs"]
mod cases;
#[path = "policy/life.rs"]
mod life;
#[path = "policy/spoof.rs"]
mod spoof;
#[path = "policy/starts.rs"]
mod starts;
#[path = "policy/worlds.rs"]
mod worlds;

use common::pods::Pods;

#[test]
fn verdicts_are_as_written_and_as_the_model_says() {
    require_binaries!();
    let mut pods = Pods::new(&Pods::entries(cases::name, true));
    cases::run(&mut pods);
    worlds::run(&mut pods, 1..3);
}

#[test]
fn flows_live_and_die_as_policies_change_and_nobody_poses_as_another() {
    require_binaries!();
    let mut pods = Pods::new(&Pods::entries(cases::name, true));
    spoof::run(&mut pods);
    life::run(&mut pods);
}

#[test]
fn pods_start_closed_and_open_for_what_is_allowed() {
    require_binaries!();
    starts::run(40);
}

#[test]
#[ignore = "a minute: make policy"]
fn sixty_random_worlds_are_as_the_model_says() {
    require_binaries!();
    let mut pods = Pods::new(&Pods::entries(cases::name, true));
    worlds::run(&mut pods, 100..160);
}

#[test]
#[ignore = "minutes: make policy"]
fn a_thousand_pods_start_closed_and_open_for_what_is_allowed() {
    require_binaries!();
    starts::run(1000);
}
