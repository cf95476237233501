//! The binary on a world of files, for every test of `millrace explain`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// A folder of one test, removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("millrace-explain-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("manifests")).unwrap();
        fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/world.yaml"),
            path.join("manifests/world.yaml"),
        )
        .unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, lines: &[Value]) -> PathBuf {
        let path = self.0.join(name);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs `millrace explain` on the world of node-a. Returns the answers and whether it said that all were good.
    pub fn explain(&self, option: &str, file: &Path, more: &[&str]) -> (Vec<Value>, bool) {
        self.explain_on("node-a", option, file, more)
    }

    /// The same of another node.
    pub fn explain_on(
        &self,
        node: &str,
        option: &str,
        file: &Path,
        more: &[&str],
    ) -> (Vec<Value>, bool) {
        let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(["explain", "--node", node, "--manifests"])
            .arg(self.0.join("manifests"))
            .arg(option)
            .arg(file)
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, output.status.success())
    }

    /// Answers to flows.
    #[allow(dead_code)]
    pub fn flows(&self, lines: &[Value]) -> (Vec<Value>, bool) {
        self.flows_with(lines, &[])
    }

    /// The same with more options.
    #[allow(dead_code)]
    pub fn flows_with(&self, lines: &[Value], more: &[&str]) -> (Vec<Value>, bool) {
        self.explain("--flows", &self.write("flows.jsonl", lines), more)
    }

    /// Answers to a history.
    #[allow(dead_code)]
    pub fn script(&self, lines: &[Value]) -> (Vec<Value>, bool) {
        self.script_with(lines, &[])
    }

    /// The same with more options.
    #[allow(dead_code)]
    pub fn script_with(&self, lines: &[Value], more: &[&str]) -> (Vec<Value>, bool) {
        self.explain("--script", &self.write("script.jsonl", lines), more)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[allow(dead_code)]
pub fn flow(id: &str, src: &str, dst: (&str, u16), protocol: &str) -> Value {
    json!({"id": id, "src": src, "sport": 40000, "dst": dst.0, "dport": dst.1, "protocol": protocol})
}

#[allow(dead_code)]
pub fn with(mut value: Value, more: Value) -> Value {
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}
