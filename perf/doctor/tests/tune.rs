//! A transaction killed at any point, also while it is undone, leaves no trace once it is undone.

use millrace_doctor::setting::{Change, Setting};
use millrace_doctor::tune::journal::{FileStore, Identity, Journal, Store};
use millrace_doctor::tune::trial::{Sample, Trial};
use millrace_doctor::tune::{Applied, Backend, Error, Snapshot, apply, undo};
use proptest::prelude::*;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;

/// How many steps are left before the process "dies", and in which manner.
#[derive(Clone, Copy, Debug)]
struct Death {
    after: usize,
    /// The step at which it dies still takes effect.
    done: bool,
    /// Of a line being written, so many bytes arrive.
    torn: usize,
}

/// A device, a disk, and a process that may die: then nothing has an effect any more.
#[derive(Debug, Default)]
struct World {
    settings: Snapshot,
    disk: Vec<u8>,
    closed: bool,
    death: Option<Death>,
    dead: bool,
}

impl World {
    /// Whether this step takes effect, and whether it is reported.
    fn step(&mut self) -> (bool, bool) {
        if self.dead {
            return (false, false);
        }
        match &mut self.death {
            Some(death) if death.after == 0 => {
                self.dead = true;
                (death.done, false)
            }
            Some(death) => {
                death.after -= 1;
                (true, true)
            }
            None => (true, true),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Shared(Rc<RefCell<World>>);

fn setting(name: &str) -> Setting {
    Setting::Feature(name.into())
}

fn ring() -> Setting {
    Setting::Ring("rx".into())
}

fn channels() -> Setting {
    Setting::Channels("combined".into())
}

/// A device with drivers' habits: sizes are rounded up, channels reset the ring, a feature takes another with it, and some
/// values are refused while another setting is in the way.
impl Backend for Shared {
    fn identity(&mut self) -> Result<Identity, String> {
        Ok(Identity { boot: "b".into(), index: 2, mac: "m".into() })
    }

    fn snapshot(&mut self) -> Result<Snapshot, String> {
        let world = self.0.borrow();
        if world.dead { Err("dead".into()) } else { Ok(world.settings.clone()) }
    }

    fn get(&mut self, setting: &Setting) -> Result<String, String> {
        self.snapshot()?.remove(setting).ok_or_else(|| "unknown".into())
    }

    fn set(&mut self, which: &Setting, value: &str) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        let (effect, reported) = world.step();
        let number = || value.parse::<u32>().map_err(|error| error.to_string());
        if effect {
            let mut value = value.to_owned();
            let lro = world.settings[&setting("rx-lro")] == "on";
            if *which == channels() {
                if lro && number()? > 4 {
                    return Err("not with LRO".into());
                }
                world.settings.insert(ring(), "512".into());
            }
            if *which == ring() {
                value = number()?.next_power_of_two().to_string();
            }
            if *which == setting("rx-gro") && value == "off" {
                world.settings.insert(setting("rx-gro-list"), "off".into());
            }
            world.settings.insert(which.clone(), value);
        }
        if reported { Ok(()) } else { Err("dead".into()) }
    }
}

impl Store for Shared {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let world = self.0.borrow();
        if world.dead { Err(io::Error::other("dead")) } else { Ok(world.disk.clone()) }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let torn = world.death.map_or(0, |death| death.torn);
        let alive = !world.dead;
        let (effect, reported) = world.step();
        if alive {
            let whole = world.disk.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            world.disk.truncate(whole);
            let arrive = if effect { bytes.len() } else { torn.min(bytes.len()) };
            world.disk.extend(&bytes[..arrive]);
        }
        if reported { Ok(()) } else { Err(io::Error::other("dead")) }
    }

    fn close(&mut self) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let (effect, reported) = world.step();
        if effect {
            world.closed = true;
            world.disk.clear();
        }
        if reported { Ok(()) } else { Err(io::Error::other("dead")) }
    }
}

/// Passes or fails the second time.
struct Verdict {
    good: bool,
}

impl Trial for Verdict {
    fn measure(&mut self) -> Result<Sample, String> {
        Ok(Sample { carrier: true, errors: 0, figure: None })
    }

    fn judge(&mut self, _: &Sample, _: &Sample) -> Result<(), String> {
        if self.good { Ok(()) } else { Err("worse".into()) }
    }
}

fn device() -> (Shared, Snapshot) {
    let settings: Snapshot = [
        (channels(), "4"),
        (ring(), "2048"),
        (setting("rx-lro"), "on"),
        (setting("rx-gro"), "on"),
        (setting("rx-gro-list"), "on"),
        (Setting::Mtu, "9000"),
    ]
    .map(|(setting, value)| (setting, value.to_owned()))
    .into();
    let shared = Shared::default();
    shared.0.borrow_mut().settings = settings.clone();
    (shared, settings)
}

fn plans() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        prop::sample::select(vec![1, 2, 4, 8]).prop_map(|count| Change::new(channels(), count)),
        prop::sample::select(vec![300, 1024, 4096]).prop_map(|size| Change::new(ring(), size)),
        prop::sample::select(vec!["rx-lro", "rx-gro", "rx-gro-list"])
            .prop_map(|name| Change::new(setting(name), "off")),
        Just(Change::new(Setting::Mtu, 3498)),
    ];
    prop::collection::vec(change, 0..8)
}

fn deaths() -> impl Strategy<Value = Option<Death>> {
    prop::option::weighted(
        0.9,
        (0..30_usize, any::<bool>(), 0..400_usize).prop_map(|(after, done, torn)| Death {
            after,
            done,
            torn,
        }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_kills_it_an_undo_restores_all(
        plan in plans(),
        good in any::<bool>(),
        first in deaths(),
        later in prop::collection::vec(deaths(), 0..4),
    ) {
        let (shared, before) = device();
        let (mut backend, mut store) = (shared.clone(), shared.clone());
        shared.0.borrow_mut().death = first;
        let result = apply(&mut backend, &mut store, &mut Verdict { good }, &plan);
        if matches!(result, Ok(Applied::Reverted { .. } | Applied::Nothing)) {
            prop_assert_eq!(&shared.0.borrow().settings, &before);
            prop_assert!(shared.0.borrow().disk.is_empty());
        }
        // The undo may die as well, several times; the last one does not.
        for death in later.into_iter().chain([None]) {
            {
                let mut world = shared.0.borrow_mut();
                world.dead = false;
                world.death = death;
            }
            let result = undo(&mut backend, &mut store, false);
            if !shared.0.borrow().dead {
                prop_assert!(result.is_ok(), "{:?}", result);
            }
        }
        prop_assert_eq!(&shared.0.borrow().settings, &before);
        prop_assert!(Journal::read(&mut store).unwrap().is_none());
    }

    #[test]
    fn a_damaged_journal_is_an_error_and_changes_nothing(
        at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let (shared, _) = device();
        let (mut backend, mut store) = (shared.clone(), shared.clone());
        let plan = [Change::new(Setting::Mtu, 1500), Change::new(setting("rx-lro"), "off")];
        apply(&mut backend, &mut store, &mut Verdict { good: true }, &plan).unwrap();
        let tuned = shared.0.borrow().settings.clone();
        let length = shared.0.borrow().disk.len();
        // Not the newline that ends it: without that the last line counts as cut short.
        let at = at.index(length - 1);
        shared.0.borrow_mut().disk[at] ^= 1 << bit;
        let error = undo(&mut backend, &mut store, false).unwrap_err();
        prop_assert!(matches!(error, Error::Journal(_)), "{:?}", error);
        prop_assert_eq!(&shared.0.borrow().settings, &tuned);
    }
}

#[test]
fn what_others_changed_since_is_left_unless_forced() {
    for force in [false, true] {
        let (shared, before) = device();
        let (mut backend, mut store) = (shared.clone(), shared.clone());
        let plan = [Change::new(Setting::Mtu, 3498), Change::new(setting("rx-lro"), "off")];
        let result = apply(&mut backend, &mut store, &mut Verdict { good: true }, &plan);
        assert_eq!(result, Ok(Applied::Kept(2)));
        let again = apply(&mut backend, &mut store, &mut Verdict { good: true }, &plan);
        assert_eq!(again, Err(Error::Kept));
        shared.0.borrow_mut().settings.insert(Setting::Mtu, "1400".into());
        let undone = undo(&mut backend, &mut store, force).unwrap();
        assert_eq!(undone.left.len(), usize::from(!force));
        let mtu = shared.0.borrow().settings[&Setting::Mtu].clone();
        assert_eq!(mtu, if force { "9000" } else { "1400" });
        assert_eq!(shared.0.borrow().settings[&setting("rx-lro")], before[&setting("rx-lro")]);
    }
}

#[test]
fn a_journal_of_another_interface_is_not_used() {
    struct Other(Shared, Identity);
    impl Backend for Other {
        fn identity(&mut self) -> Result<Identity, String> {
            Ok(self.1.clone())
        }
        fn snapshot(&mut self) -> Result<Snapshot, String> {
            self.0.snapshot()
        }
        fn get(&mut self, setting: &Setting) -> Result<String, String> {
            self.0.get(setting)
        }
        fn set(&mut self, _: &Setting, _: &str) -> Result<(), String> {
            panic!("it was touched")
        }
    }
    let (shared, _) = device();
    let (mut backend, mut store) = (shared.clone(), shared.clone());
    let plan = [Change::new(Setting::Mtu, 3498)];
    apply(&mut backend, &mut store, &mut Verdict { good: true }, &plan).unwrap();
    let mine = backend.identity().unwrap();
    let mut other = Other(shared.clone(), Identity { index: 9, ..mine.clone() });
    let error = undo(&mut other, &mut store, false).unwrap_err();
    assert!(matches!(error, Error::OtherInterface { .. }), "{error}");
    let mut rebooted = Other(shared.clone(), Identity { boot: "c".into(), ..mine });
    assert!(undo(&mut rebooted, &mut store, false).unwrap().forgotten);
    assert!(shared.0.borrow().closed);
}

#[test]
fn a_file_keeps_whole_lines_and_one_holder() {
    let folder = std::env::temp_dir().join(format!("millrace-doctor-{}", std::process::id()));
    let mut store = FileStore::open(&folder, "eth0@1").unwrap();
    let refused = FileStore::open(&folder, "eth0@1").unwrap_err();
    assert!(refused.contains("another `tune`"), "{refused}");
    store.append(b"one\n").unwrap();
    std::fs::write(store.path(), b"one\ntw").unwrap();
    store.append(b"three\n").unwrap();
    assert_eq!(store.read().unwrap(), b"one\nthree\n");
    store.close().unwrap();
    assert_eq!(store.read().unwrap(), b"");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_was_kept_before_the_machine_was_started_anew_is_no_hindrance() {
    struct Later(Shared);

    impl Backend for Later {
        fn identity(&mut self) -> Result<Identity, String> {
            Ok(Identity { boot: "c".into(), ..self.0.identity()? })
        }

        fn snapshot(&mut self) -> Result<Snapshot, String> {
            self.0.snapshot()
        }

        fn get(&mut self, setting: &Setting) -> Result<String, String> {
            self.0.get(setting)
        }

        fn set(&mut self, setting: &Setting, value: &str) -> Result<(), String> {
            self.0.set(setting, value)
        }
    }

    let (shared, before) = device();
    let (mut backend, mut store) = (shared.clone(), shared.clone());
    let plan = [Change::new(Setting::Mtu, 3498)];
    let kept = Ok(Applied::Kept(1));
    assert_eq!(apply(&mut backend, &mut store, &mut Verdict { good: true }, &plan), kept);
    shared.0.borrow_mut().settings = before.clone();
    let mut later = Later(shared.clone());
    assert_eq!(apply(&mut later, &mut store, &mut Verdict { good: true }, &plan), kept);
    undo(&mut later, &mut store, false).unwrap();
    assert_eq!(shared.0.borrow().settings, before);
}
