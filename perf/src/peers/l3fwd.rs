//! DPDK's example router l3fwd, built from the source that comes with its packages.
//!
//! Three things are changed in a copy of `main.c`, none of them on the way of a packet:
//! - `net_pcap` has neither RSS nor checksum offload and refuses a port that asks for them: they aren't asked for (one queue needs
//!   no RSS; the forwarding code doesn't look at checksum flags, and lookups run on headers parsed by `--parse-ptype`);
//! - l3fwd doesn't say how fast it is: a thread of its own prints, four times a second, how many packets the port has sent and when.
//!   The counter is the one that testpmd's statistics show.

use super::apt::run;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program's name says which change it was built with: another change, another build.
const BUILT: &str = "l3fwd-sent1";

/// What is replaced, and by what; each must be there exactly once.
const CHANGES: [(&str, &str); 5] = [
    (".mq_mode = RTE_ETH_MQ_RX_RSS,", ".mq_mode = RTE_ETH_MQ_RX_NONE,"),
    (".offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM,", ".offloads = 0,"),
    (".rss_hf = RTE_ETH_RSS_IP,", ".rss_hf = 0,"),
    ("\nint\nmain(int argc, char **argv)\n", TELLER),
    ("\t/* launch per-lcore init on every lcore */\n", START),
];

const TELLER: &str = r#"
#include <pthread.h>
#include <time.h>
#include <unistd.h>

static void *
say_sent(void *unused)
{
	for (;;) {
		struct rte_eth_stats stats;
		struct timespec now;

		rte_eth_stats_get(0, &stats);
		clock_gettime(CLOCK_MONOTONIC, &now);
		printf("sent %" PRIu64 " at %lld.%09ld\n", stats.opackets,
		       (long long)now.tv_sec, now.tv_nsec);
		fflush(stdout);
		usleep(250000);
	}
	return unused;
}

int
main(int argc, char **argv)
"#;

const START: &str = r#"	pthread_t teller;
	if (pthread_create(&teller, NULL, say_sent, NULL) != 0)
		rte_exit(EXIT_FAILURE, "no thread to say what was sent\n");
	/* launch per-lcore init on every lcore */
"#;

/// Builds it under `folder`, once, from the packages unpacked at `root`. Returns the program.
pub fn build(root: &Path, libraries: &Path, folder: &Path) -> Result<PathBuf, String> {
    let program = folder.join(BUILT);
    if program.exists() {
        return Ok(program);
    }
    eprintln!("building l3fwd");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if let Err(error) = Command::new(&compiler).arg("--version").output() {
        return Err(format!(
            "no C compiler to build l3fwd with ({compiler}: {error}): run deploy/install-deps.sh build, or set CC"
        ));
    }
    let examples = root.join("usr/share/dpdk/examples");
    let sources = folder.join("source");
    fs::create_dir_all(&sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    let from = examples.join("l3fwd");
    let entries = fs::read_dir(&from).map_err(|e| format!("{}: {e}", from.display()))?;
    for entry in entries {
        let entry = entry.map_err(|e| e.to_string())?.path();
        if let Some(name) = entry.file_name().filter(|_| entry.is_file()) {
            fs::copy(&entry, sources.join(name))
                .map_err(|e| format!("{}: {e}", entry.display()))?;
        }
    }
    let main = sources.join("main.c");
    let text = fs::read_to_string(&main).map_err(|e| format!("{}: {e}", main.display()))?;
    fs::write(&main, change(&text)?).map_err(|e| format!("{}: {e}", main.display()))?;

    let file =
        |path: PathBuf| fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()));
    let makefile = file(sources.join("Makefile"))?;
    let flags = file(libraries.join("pkgconfig/libdpdk-libs.pc"))?;
    // Built under another name: a build that was cut short leaves no program that looks whole.
    let partial = folder.join(format!("{BUILT}.{}", std::process::id()));
    let mut command = Command::new(&compiler);
    command.current_dir(&sources).args(["-O3", "-DALLOW_EXPERIMENTAL_API", "-o"]).arg(&partial);
    command.arg(format!("-I{}", root.join("usr/include").display()));
    command.arg(format!("-I{}", examples.join("common").display()));
    command.args(flags_of(&flags, "Cflags", root)).args(sources_of(&makefile));
    command.args(flags_of(&flags, "Libs", root)).arg("-lpthread");
    for folder in [libraries.to_owned(), root.join("lib").join(name(libraries))] {
        command.arg(format!("-Wl,-rpath-link,{}", folder.display()));
    }
    run(&mut command).map_err(|e| format!("building l3fwd: {e}"))?;
    fs::rename(&partial, &program).map_err(|e| format!("{}: {e}", program.display()))?;
    Ok(program)
}

fn name(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// `main.c` with the changes made.
fn change(text: &str) -> Result<String, String> {
    let mut changed = text.to_owned();
    for (old, new) in CHANGES {
        let found = changed.matches(old).count();
        if found != 1 {
            return Err(format!(
                "l3fwd's main.c has {old:?} {found} times, not once: this version of DPDK is unlike 22.11 to 24.11"
            ));
        }
        changed = changed.replacen(old, new, 1);
    }
    Ok(changed)
}

/// What the Makefile lists as `SRCS-y`.
fn sources_of(makefile: &str) -> Vec<String> {
    let lines = makefile.lines().filter(|line| line.starts_with("SRCS-y"));
    let words = lines.flat_map(str::split_whitespace).filter(|word| word.ends_with(".c"));
    words.map(str::to_owned).collect()
}

/// A line of a pkg-config file, its variables resolved, and its prefix moved below `root`.
fn flags_of(file: &str, key: &str, root: &Path) -> Vec<String> {
    let mut variables = vec![("prefix".to_owned(), format!("{}/usr", root.display()))];
    let resolve = |text: &str, variables: &[(String, String)]| {
        variables.iter().fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("${{{name}}}"), value)
        })
    };
    for line in file.lines() {
        if let Some((name, value)) = line.split_once('=')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name != "prefix"
        {
            let value = resolve(value, &variables);
            variables.push((name.to_owned(), value));
        }
    }
    let line = file.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    resolve(line.unwrap_or_default(), &variables).split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "static struct rte_eth_conf port_conf = {
	.rxmode = {
		.mq_mode = RTE_ETH_MQ_RX_RSS,
		.offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM,
	},
			.rss_hf = RTE_ETH_RSS_IP,
};

int
main(int argc, char **argv)
{
	ret = 0;
	/* launch per-lcore init on every lcore */
	rte_eal_mp_remote_launch(l3fwd_lkp.main_loop, NULL, CALL_MAIN);
}
";

    #[test]
    fn the_change_asks_for_no_offloads_and_starts_the_thread_before_the_loop() {
        let changed = change(MAIN).unwrap();
        assert!(!changed.contains("MQ_RX_RSS") && !changed.contains("OFFLOAD_CHECKSUM"));
        assert!(!changed.contains("RTE_ETH_RSS_IP"));
        let at = |text: &str| changed.find(text).unwrap();
        assert!(at("say_sent(void") < at("\nmain(int"));
        assert!(at("pthread_create") < at("rte_eal_mp_remote_launch"));
    }

    #[test]
    fn another_version_is_refused_with_what_is_missing() {
        let error = change(&MAIN.replace("RTE_ETH_MQ_RX_RSS", "ETH_MQ_RX_RSS")).unwrap_err();
        assert!(error.contains("RTE_ETH_MQ_RX_RSS"), "{error}");
    }

    #[test]
    fn sources_come_from_the_makefile() {
        let makefile =
            "APP = l3fwd\nSRCS-y := main.c l3fwd_lpm.c\nSRCS-y += l3fwd_event.c\n\t$(CC) x.c\n";
        assert_eq!(sources_of(makefile), ["main.c", "l3fwd_lpm.c", "l3fwd_event.c"]);
    }

    #[test]
    fn flags_are_moved_below_the_root() {
        let file = "prefix=/usr
includedir=${prefix}/include/dpdk
libdir=${prefix}/lib/x86_64-linux-gnu

Libs: -Wl,--as-needed -L${libdir} -lrte_node -lrte_graph
Libs.private: -pthread -lm
Cflags: -I${includedir}/../x86_64-linux-gnu/dpdk -I${includedir} -include rte_config.h -march=corei7
";
        let flags = flags_of(file, "Cflags", Path::new("/cache/root"));
        assert_eq!(
            flags,
            [
                "-I/cache/root/usr/include/dpdk/../x86_64-linux-gnu/dpdk",
                "-I/cache/root/usr/include/dpdk",
                "-include",
                "rte_config.h",
                "-march=corei7"
            ]
        );
        let libraries = flags_of(file, "Libs", Path::new("/cache/root"));
        assert_eq!(libraries[1], "-L/cache/root/usr/lib/x86_64-linux-gnu");
        assert_eq!(libraries.len(), 4);
    }
}
