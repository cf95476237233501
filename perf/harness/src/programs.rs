//! Where the other programs are, and how they are run to their end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Runs a program to its end, with `input` if there is one; the error carries the first lines of what it said.
pub fn finish(command: &mut Command, input: Option<&str>) -> Result<String, String> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let what = words.join(" ");
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{what}: {e}"))?;
    let pipe = child.stdin.take();
    let output = std::thread::scope(|scope| {
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            // Beside, so that a program which talks while it reads does not wait for us. One that ends early says why itself.
            scope.spawn(move || drop(pipe.write_all(input.as_bytes())));
        }
        child.wait_with_output()
    });
    let output = output.map_err(|e| format!("{what}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let head: Vec<&str> = errors.trim().lines().take(6).collect();
    Err(format!("{what}: {}: {}", output.status, head.join("\n")))
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
}
