//! Compiles the steering program (`ebpf/millrace.bpf.c`) for the kernel's virtual machine.
//!
//! Needs clang and the headers of the kernel and libbpf; the object goes to `OUT_DIR`, from where
//! `src/steer.rs` embeds it, so a built engine needs neither.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE: &str = "ebpf/millrace.bpf.c";
const HEADERS: [&str; 2] = ["bpf/bpf_helpers.h", "linux/bpf.h"];
const PACKAGES: &str = "apt-get install clang libbpf-dev linux-libc-dev";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("cargo::error={why}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let folder = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; build with cargo")?;
    let object = Path::new(&folder).join("millrace.bpf.o");
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    // -g keeps the types of the maps (BTF), which the loader reads.
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]);
    // Debian and Ubuntu keep asm/types.h there, where clang looks only when it builds for the host.
    let include = multiarch();
    if include.is_dir() {
        command.arg(format!("-I{}", include.display()));
    }
    command.arg("-c").arg(SOURCE).arg("-o").arg(&object);
    let output = command.output().map_err(|why| {
        format!("{SOURCE}: can't run {clang}: {why}; the engine's XDP program needs it: {PACKAGES} (or set CLANG)")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    if let Some(header) = HEADERS.iter().find(|header| missing(&said, header)) {
        return Err(format!("{SOURCE}: the header {header} is missing: {PACKAGES}"));
    }
    if missing(&said, "asm/types.h") {
        return Err(format!("{SOURCE}: asm/types.h is not in {}: {PACKAGES}", include.display()));
    }
    let first = said.lines().find(|line| line.contains("error")).unwrap_or("see its output");
    Err(format!("{SOURCE}: {clang} failed: {first}"))
}

fn multiarch() -> PathBuf {
    // The build machine's headers: the program's own types are of fixed sizes.
    format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH).into()
}

fn missing(said: &str, header: &str) -> bool {
    said.contains(&format!("'{header}' file not found"))
}
