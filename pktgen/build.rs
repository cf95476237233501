//! Compiles the receiver's XDP program (`ebpf/pktgen.bpf.c`); the object goes to `OUT_DIR`, from where `src/steer.rs` embeds it.

use std::path::Path;
use std::process::Command;

const SOURCE: &str = "ebpf/pktgen.bpf.c";
const PACKAGES: &str = "deploy/install-deps.sh build";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    if let Err(why) = compile() {
        println!("cargo::error={SOURCE}: {why}; {PACKAGES} installs what is needed");
        std::process::exit(1);
    }
}

fn compile() -> Result<(), String> {
    let folder = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; build with cargo")?;
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]);
    // Debian and Ubuntu keep asm/types.h there, where clang looks only when it builds for the host.
    let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    if Path::new(&multiarch).is_dir() {
        command.arg(format!("-I{multiarch}"));
    }
    command.args(["-c", SOURCE, "-o"]).arg(Path::new(&folder).join("pktgen.bpf.o"));
    let output = command.output().map_err(|why| format!("can't run {clang}: {why}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    eprintln!("{said}");
    Err(format!(
        "{clang} failed: {}",
        said.lines().find(|l| l.contains("error")).unwrap_or("see its output")
    ))
}
