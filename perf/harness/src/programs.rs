//! Where the other programs are, and how they are run to their end.

use rustix::process::{Signal, kill_process_group};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Finds a program of this project: beside this one, in `MILLRACE_BIN`, in `PATH`.
pub fn find(name: &str) -> Result<PathBuf, String> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let named = std::env::var_os("MILLRACE_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(named).chain(std::env::split_paths(&path));
    let mut candidates = folders.map(|folder| folder.join(name));
    candidates.find(|file| file.is_file()).ok_or_else(|| {
        format!("{name}: not beside this program, in $MILLRACE_BIN or in $PATH (cargo build --release -p {name})")
    })
}

/// This program, which knows `bare`, `impair`, `offer` and `sink`.
pub fn own() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))
}

/// In the environment of all that a run starts: the run's process. Whoever tidies up after it finds them by that.
pub const RUN: &str = "MILLRACE_PERF_RUN";

/// Has a program know whose it is.
pub fn mark(command: &mut Command) -> &mut Command {
    command.env(RUN, std::process::id().to_string())
}

/// Runs a program to its end, with `input` if there is one; the error carries the first lines of what it said. Ctrl-C on the terminal
/// is not the program's: half of a set-up would be left behind.
pub fn finish(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    finish_until(command, input, || false)
}

/// The same, and tells it to end as soon as `enough` says so; then what it said counts as if it had ended by itself.
pub fn finish_until(
    command: &mut Command,
    input: Option<&str>,
    enough: impl Fn() -> bool,
) -> Result<String, String> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let what = words.join(" ");
    let failed = |e: std::io::Error| format!("{what}: {e}");
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    mark(command).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    let (pipe, mut out, mut errors) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (status, out, errors) = std::thread::scope(|scope| {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // Beside, so that a program which talks while it reads does not wait for us. One that ends early says why itself.
            scope.spawn(move || drop(pipe.write_all(input.as_bytes())));
        }
        let out = scope.spawn(move || read(&mut out));
        let errors = scope.spawn(move || read(&mut errors));
        let status = wait(&mut child, enough);
        (status, out.join().unwrap_or_default(), errors.join().unwrap_or_default())
    });
    let status = status.map_err(failed)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&out).into_owned());
    }
    let errors = String::from_utf8_lossy(&errors);
    let head: Vec<&str> = errors.trim().lines().take(6).collect();
    Err(format!("{what}: {status}: {}", head.join("\n")))
}

/// Runs a generator for about so many seconds: on `stop` it is told to end, and so is one that does not come to its end.
pub fn generate(command: &mut Command, seconds: f64, stop: &AtomicBool) -> Result<String, String> {
    let most = Duration::from_secs_f64((seconds * 1.5 + 60.0).min(1e6));
    let began = Instant::now();
    let late = || began.elapsed() > most;
    let text = finish_until(command, None, || stop.load(Ordering::Relaxed) || late());
    match late() && !stop.load(Ordering::Relaxed) {
        true => Err(format!(
            "the generator was to send for {seconds:.1} s, and has not ended after {most:.0?}"
        )),
        false => text,
    }
}

/// A file's text, if it is no longer than anything of its kind ever is.
pub fn text_of(path: &Path, most: u64) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if bytes.len() as u64 > most {
        return Err(failed(&format!("it is longer than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

fn read(pipe: &mut Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// How long a program has to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(3);

fn wait(child: &mut Child, enough: impl Fn() -> bool) -> std::io::Result<ExitStatus> {
    let (began, mut told) = (Instant::now(), None);
    loop {
        // It is not waited for elsewhere: its number is its own until here.
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let group = rustix::process::Pid::from_child(child);
        match told {
            None if enough() => {
                let _ = kill_process_group(group, Signal::TERM);
                told = Some(Instant::now());
            }
            Some(at) if Instant::now() > at + PATIENCE => {
                let _ = kill_process_group(group, Signal::KILL);
            }
            _ => {}
        }
        // Most are over in a few milliseconds.
        let pause = if began.elapsed() < Duration::from_millis(20) { 500 } else { 3_000 };
        std::thread::sleep(Duration::from_micros(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failing_program_says_is_in_the_error() {
        let script = "cat >/dev/null; echo wrong >&2; exit 3";
        let error = finish(Command::new("sh").args(["-c", script]), Some("input")).unwrap_err();
        assert!(error.contains("exit status: 3: wrong"), "{error}");
        let long = "x".repeat(1 << 20);
        assert_eq!(finish(&mut Command::new("cat"), Some(&long)).unwrap(), long);
        assert!(find("millrace-no-such-program").unwrap_err().contains("millrace-no-such-program"));
    }

    #[test]
    fn a_file_that_has_no_end_is_not_read_to_it() {
        let error = text_of(Path::new("/dev/zero"), 1000).unwrap_err();
        assert!(error.contains("/dev/zero: it is longer than 1000"), "{error}");
        assert!(text_of(Path::new("/"), 1000).is_err());
        assert_eq!(text_of(Path::new("/dev/null"), 1000), Ok(String::new()));
    }

    #[test]
    fn a_program_that_goes_on_for_ever_is_told_to_end_with_what_it_started() {
        let began = Instant::now();
        let enough = || began.elapsed() > Duration::from_millis(50);
        let mut command = Command::new("sh");
        command.args(["-c", "trap 'echo told; exit 0' TERM; sleep 60 & wait"]);
        assert_eq!(finish_until(&mut command, None, enough).unwrap(), "told\n");
        let began = Instant::now();
        let enough = || began.elapsed() > Duration::from_millis(50);
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; sleep 60"]);
        let error = finish_until(&mut command, None, enough).unwrap_err();
        assert!(
            error.contains("signal: 9") && began.elapsed() < Duration::from_secs(30),
            "{error}"
        );
    }
}
