//! Lines with tabs, aligned at the end.

use crate::cli::columns;

/// A page in the making.
#[derive(Debug, Default)]
pub(in crate::cli) struct Page(String);

impl Page {
    /// Adds a line, indented by two spaces for each level.
    pub(in crate::cli) fn line(&mut self, level: usize, line: &str) {
        self.0.extend(std::iter::repeat_n("  ", level));
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Adds `TITLE: value` if there is a value and it is not empty.
    pub(in crate::cli) fn some(
        &mut self,
        level: usize,
        title: &str,
        value: Option<&impl ToString>,
    ) {
        if let Some(value) = value.map(ToString::to_string).filter(|value| !value.is_empty()) {
            self.line(level, &format!("{title}:\t{value}"));
        }
    }

    /// The page with its columns aligned (kubectl's tab writer: two spaces between) and nothing a terminal would obey.
    pub(in crate::cli) fn finish(self) -> String {
        columns::align(&columns::visible(&self.0), 2)
    }
}

/// The text, or nothing.
pub(super) fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}
