//! Makes changes in a device's tables while traffic goes through it.
//!
//! What changes lies beside the traffic: routes and services that no packet of the trial goes to. A device that does more than
//! its work to change them loses packets that have nothing to do with them.

use crate::device::Stage;
use crate::generator::Source;
use crate::programs;
use crate::reconf::Reconf;
use crate::run::repeated;
use crate::scenario::Device;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A trial without changes, then one with them.
pub fn measure(
    stage: &Stage<'_>,
    source: &Source<'_>,
    device: &Device,
    rate: f64,
    changes: u64,
    seconds: f64,
) -> Result<Reconf, String> {
    let counts = |trial: &crate::generator::Trial| {
        let outcome = &trial.outcome;
        (outcome.sent, outcome.sent.saturating_sub(outcome.received))
    };
    // Nothing is said of trials that the generator didn't keep to its rate in: each gets a few tries.
    let kept = |(trial, _): (Result<Option<_>, String>, u32)| {
        let short = || format!("the generator can't keep to {}", crate::units::show_rate(rate));
        trial?.ok_or_else(short)
    };
    let without = kept(repeated(|| source.trial(Some(rate), seconds)))?;
    let changer = Changer { stage, device };
    let mut made = None;
    let with = repeated(|| {
        let over = AtomicBool::new(false);
        let (with, maker) = std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                // The generator begins some tenths of a second after it was started.
                std::thread::sleep(Duration::from_millis(500));
                changer.make(changes, Duration::from_secs_f64((seconds - 1.0).max(0.5)), &over)
            });
            let with = source.trial(Some(rate), seconds);
            over.store(true, Ordering::Relaxed);
            (with, maker.join())
        });
        made = Some(maker);
        with
    });
    let with = kept(with)?;
    let made = made.ok_or("no trial with changes")?;
    let (made, lasted) = made.map_err(|_| "the thread that makes changes ended by itself")??;
    if made < changes {
        return Err(format!(
            "{made} of {changes} changes in {seconds} s: give it more time (--duration) or fewer changes"
        ));
    }
    let confirmed = changer.confirm(made)?.is_some();
    Ok(Reconf::of(rate, (made, confirmed, lasted), counts(&without), counts(&with)))
}

struct Changer<'a> {
    stage: &'a Stage<'a>,
    device: &'a Device,
}

/// Changes that one program makes, or one save of manifests, where it can make many.
const AT_ONCE: u64 = 100;
/// Between two saves of manifests.
const APART: Duration = Duration::from_millis(40);

impl Changer<'_> {
    /// Makes so many, within a time or until `over`. Returns how many and in how many seconds.
    fn make(&self, changes: u64, most: Duration, over: &AtomicBool) -> Result<(u64, f64), String> {
        let began = Instant::now();
        let mut made = 0;
        while made < changes && began.elapsed() < most && !over.load(Ordering::Relaxed) {
            // A whole table a change is slow: few at once, so that the last ones are not made when the traffic is over.
            let most = if matches!(self.device, Device::Iptables {}) { 10 } else { AT_ONCE };
            let count = (changes - made).min(most);
            made += self.some(made, count, over)?;
        }
        Ok((made, began.elapsed().as_secs_f64()))
    }

    /// Changes number `first` and those after it. Returns how many that were.
    fn some(&self, first: u64, count: u64, over: &AtomicBool) -> Result<u64, String> {
        let ends = &self.stage.ends;
        match self.device {
            Device::Linux {} => {
                let batch: String = (first..first + count)
                    .map(|n| format!("route {} {} via 10.0.2.2\n", on_or_off(n), prefix(n)))
                    .collect();
                let mut ip = ends.inside.command("ip");
                programs::finish(ip.args(["-batch", "-"]), Some(&batch))?;
                Ok(count)
            }
            Device::Nftables {} => {
                // Each line a transaction of its own, as kube-proxy makes one for a change. Who talks to a person goes on after an error.
                let mut lines: String = (first..first + count).map(element).collect();
                lines += "quit\n";
                let script = "said=$(nft -i 2>&1 >/dev/null); test -z \"$said\" || { echo \"$said\" >&2; exit 1; }";
                let mut nft = ends.inside.command("sh");
                programs::finish(nft.args(["-c", script]), Some(&lines))?;
                Ok(count)
            }
            Device::Iptables {} => {
                // Each COMMIT puts a whole new table in place of the one before, as kube-proxy's do.
                let tables: String = (first..first + count).map(rule).collect();
                let mut restore = ends.inside.command("iptables-legacy-restore");
                programs::finish(restore.arg("--noflush"), Some(&tables))?;
                Ok(count)
            }
            Device::Millrace { manifests: None, .. } => {
                let file = self.stage.folder.path().join("manifests/change.yaml");
                let part = file.with_extension("part");
                let text: String = (0..count).map(|k| service(k, pod(first))).collect();
                fs::write(&part, text).map_err(|e| e.to_string())?;
                fs::rename(&part, &file).map_err(|e| e.to_string())?;
                // Control gathers what is written at once: saves further apart are changes of their own.
                std::thread::sleep(APART);
                Ok(count)
            }
            Device::Command { change: Some(words), .. } => {
                let mut words = words.iter().map(|word| self.stage.fill(word, Some(first)));
                let program = words.next().ok_or("change = []: no program")?;
                let mut command = ends.inside.command(program);
                command.args(words);
                // One that takes longer than the traffic is not made under it.
                let over = || over.load(Ordering::Relaxed);
                programs::finish_until(&mut command, None, over)?;
                Ok(1)
            }
            Device::Bare {} | Device::Impair { .. } => {
                Err("this device has no tables that could change".into())
            }
            Device::Millrace { .. } | Device::Command { .. } => {
                Err("nothing says how its tables change (change = [\"program\", \"{n}\"])".into())
            }
        }
    }

    /// Fails unless the device has the last of so many changes; None where it can't be asked.
    fn confirm(&self, changes: u64) -> Result<Option<()>, String> {
        let inside = &self.stage.ends.inside;
        let words: &[&str] = match self.device {
            Device::Millrace { manifests: None, .. } => return self.confirm_engine(changes),
            Device::Linux {} => &["ip", "route", "show", "root", "172.30.0.0/16"],
            Device::Nftables {} => {
                &["nft", "list", "map", "ip", "kube-proxy", "no-endpoint-services"]
            }
            Device::Iptables {} => &["iptables-legacy", "-t", "nat", "-S", "KUBE-SERVICES"],
            _ => return Ok(None),
        };
        let shown = programs::finish(inside.command(words[0]).args(&words[1..]), None)?;
        // All come in pairs, there and gone: after the last at most one is left, and it is the last.
        let left = shown.matches("172.30.").count() + shown.matches("172.21.").count();
        match left as u64 == changes % 2 {
            true => Ok(Some(())),
            false => Err(format!(
                "after {changes} changes the device has {left} of them left, not {}",
                changes % 2
            )),
        }
    }

    fn confirm_engine(&self, changes: u64) -> Result<Option<()>, String> {
        let socket = self.stage.folder.path().join("engine.sock").display().to_string();
        let Some(last) = changes.checked_sub(1).map(|last| last / AT_ONCE * AT_ONCE) else {
            return Ok(None);
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut show = self.stage.ends.inside.command(programs::find("millrace")?);
            show.args(["--socket", &socket, "show", "services", "--json"]);
            if programs::finish(&mut show, None)?.contains(&pod(last)) {
                return Ok(Some(()));
            }
            if Instant::now() > deadline {
                return Err("the engine has not got the last change 5 s after it".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn on_or_off(n: u64) -> &'static str {
    if n.is_multiple_of(2) { "replace" } else { "del" }
}

/// Beside the traffic: changes n and n + 1 are of the same one, there and gone.
fn prefix(n: u64) -> String {
    let n = n / 2;
    format!("172.30.{}.{}/32", n / 250 % 250, n % 250 + 1)
}

/// The address that change n is of, beside the traffic's services.
fn other(n: u64) -> String {
    let n = n / 2;
    format!("172.21.{}.{}", n / 250 % 250, n % 250 + 1)
}

/// Change n of an nftables map.
fn element(n: u64) -> String {
    let (verb, verdict) = if n.is_multiple_of(2) { ("add", " : drop") } else { ("delete", "") };
    format!(
        "{verb} element ip kube-proxy no-endpoint-services {{ {} . udp . 53{verdict} }}\n",
        other(n)
    )
}

/// Change n of an iptables table.
fn rule(n: u64) -> String {
    let verb = if n.is_multiple_of(2) { "-A" } else { "-D" };
    let rule = format!("-d {}/32 -p udp -m udp --dport 53 -j KUBE-MARK-MASQ", other(n));
    format!("*nat\n{verb} KUBE-SERVICES {rule}\nCOMMIT\n")
}

/// The endpoint that changes from number `first` on have.
fn pod(first: u64) -> String {
    let n = first / AT_ONCE;
    format!("10.127.{}.{}", n / 250 % 250, n % 250 + 1)
}

/// The kth service beside the traffic.
fn service(k: u64, pod: String) -> String {
    let vip = format!("172.21.0.{}", k + 1);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: change-{k}, namespace: default}}
spec:
  clusterIP: {vip}
  clusterIPs: [{vip}]
  ipFamilies: [IPv4]
  ports: [{{name: dns, port: 53, protocol: UDP, targetPort: 5353}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: change-{k}-1, namespace: default, labels: {{kubernetes.io/service-name: change-{k}}}}}
addressType: IPv4
ports: [{{name: dns, port: 5353, protocol: UDP}}]
endpoints: [{{addresses: [{pod}], conditions: {{ready: true}}}}]
---
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_in_pairs_that_leave_nothing_behind() {
        let mut there = std::collections::HashSet::new();
        for n in 0..10_000 {
            match on_or_off(n) {
                "replace" => assert!(there.insert(prefix(n))),
                _ => assert!(there.remove(&prefix(n))),
            }
        }
        assert!(there.is_empty());
        assert_eq!(element(0).replace("add", "delete").replace(" : drop", ""), element(1));
        assert_eq!(rule(2).replace("-A", "-D"), rule(3));
        assert!(rule(0) != rule(2) && element(0) != element(2));
        assert_ne!(pod(0), pod(AT_ONCE));
        assert!(service(99, pod(0)).contains("clusterIP: 172.21.0.100\n"));
    }
}
