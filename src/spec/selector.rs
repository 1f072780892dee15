//! Which objects are meant, by their labels.
//!
//! Owns: `metav1.LabelSelector` as rules and the plain selector of a Service, once they are known to be well formed. Not: the
//! text form of `kubectl -l` (`board::selector`).

use std::collections::{BTreeMap, BTreeSet};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A conjunction of requirements; without any, everything is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

/// What must hold of a label (`matchExpressions[].operator`; an entry of `matchLabels` is an `In` of one value).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Exactly these labels, whatever others there are.
    #[must_use]
    pub fn with_labels(labels: &Labels) -> Self {
        let one = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(BTreeSet::from([value.clone()])),
        };
        Self { requirements: labels.iter().map(one).collect() }
    }

    /// Whether an object with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                // A label that is absent has none of the values (`labels.Requirement.Matches`).
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn each_operator_means_what_it_means_in_kubernetes() {
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        for (key, operator, holds) in [
            ("app", Operator::In(set(&["web", "db"])), true),
            ("app", Operator::In(set(&["db"])), false),
            ("tier", Operator::In(set(&["web"])), false),
            ("app", Operator::NotIn(set(&["db"])), true),
            ("app", Operator::NotIn(set(&["web"])), false),
            ("tier", Operator::NotIn(set(&["web"])), true),
            ("app", Operator::Exists, true),
            ("tier", Operator::Exists, false),
            ("app", Operator::DoesNotExist, false),
            ("tier", Operator::DoesNotExist, true),
        ] {
            let requirement = Requirement { key: key.to_owned(), operator };
            let selector = LabelSelector { requirements: vec![requirement.clone()] };
            assert_eq!(selector.matches(&labels), holds, "{requirement:?}");
        }
        assert!(LabelSelector::everything().matches(&Labels::new()));
        assert!(LabelSelector::with_labels(&labels).matches(&labels));
        assert!(!LabelSelector::with_labels(&labels).matches(&Labels::new()));
    }
}
