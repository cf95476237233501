//! Captured files as one readable text: what a test's fixture is, and what `doctor --capture` writes.
//!
//! ```text
//! Anything before the first section is a comment: where the values come from.
//! -- sys/class/net/eth0/mtu --
//! 1500
//! -- link sys/class/net/eth0/device/driver --
//! ../../bus/pci/drivers/ixgbe
//! -- answers.json --
//! {"link": …}
//! ```

use std::collections::BTreeMap;

/// Sections by their path, and the comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// What precedes the first section.
    pub comment: String,
    /// Contents by path; a link's path begins with `link `.
    pub sections: BTreeMap<String, String>,
}

impl Archive {
    /// Reads one. Every text is an archive; a later section of the same path wins.
    pub fn parse(text: &str) -> Self {
        let mut archive = Self::default();
        let mut current: Option<String> = None;
        for line in text.split_inclusive('\n') {
            let name =
                line.trim_end().strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --"));
            match name {
                Some(name) => {
                    archive.sections.insert(name.into(), String::new());
                    current = Some(name.into());
                }
                None => match &current {
                    Some(name) => archive.sections.entry(name.clone()).or_default().push_str(line),
                    None => archive.comment.push_str(line),
                },
            }
        }
        archive
    }
}

impl std::fmt::Display for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.comment)?;
        for (name, content) in &self.sections {
            writeln!(f, "-- {name} --")?;
            f.write_str(content)?;
            if !content.is_empty() && !content.ends_with('\n') {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn what_is_written_is_read_again() {
        let text = "a comment\n-- a/b --\n1\n2\n-- c --\n-- link d --\n../e\n";
        let archive = Archive::parse(text);
        assert_eq!(archive.sections["a/b"], "1\n2\n");
        assert_eq!(archive.sections["c"], "");
        assert_eq!(archive.to_string(), text);
    }
}
