//! Field paths, spelled as Kubernetes spells them: `spec.containers[0].resources.limits[cpu]`.
//!
//! Owns: building them. A path is a borrowed chain while rules are checked, and becomes text only
//! when there is something to say. `layout` finds what a path names.

use std::fmt;

/// A path under construction: the parent and one more step.
#[derive(Clone, Copy, Debug)]
pub struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'p> {
    /// `.name`
    Field(&'p str),
    /// `[3]`
    Index(usize),
    /// `[key]`, of a map whose keys are the user's
    Key(&'p str),
}

impl<'p> Path<'p> {
    /// The path of a top-level field.
    #[must_use]
    pub const fn root(name: &'p str) -> Self {
        Self { parent: None, step: Step::Field(name) }
    }

    #[must_use]
    pub const fn field(&'p self, name: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    #[must_use]
    pub const fn index(&'p self, index: usize) -> Path<'p> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    #[must_use]
    pub const fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Field(name) if self.parent.is_none() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_path_reads_as_kubernetes_prints_it() {
        let spec = Path::root("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        let resources = first.field("resources");
        let limits = resources.field("limits");
        assert_eq!(limits.key("cpu").to_string(), "spec.containers[0].resources.limits[cpu]");
        assert_eq!(spec.to_string(), "spec");
    }
}
