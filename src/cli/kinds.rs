//! The words people use for kinds of object: `po`, `pod`, `pods`, `pod/web`.

use anyhow::{bail, ensure};

use crate::board::Kind;

/// The kind that a word names.
///
/// # Errors
/// In kubectl's words if there is none.
pub(super) fn kind(word: &str) -> anyhow::Result<Kind> {
    let lower = word.to_ascii_lowercase();
    // `networkpolicies.networking.k8s.io` says the group as well.
    let (lower, group) = lower.split_once('.').map_or((&*lower, None), |(w, g)| (w, Some(g)));
    let named = |kind: &Kind| {
        let names = [kind.plural(), kind.singular()];
        let is_it = names.contains(&lower) || kind.short_names().contains(&lower);
        is_it && group.is_none_or(|group| group == kind.group())
    };
    let mut types = Kind::ALL.map(Kind::plural);
    types.sort_unstable();
    match Kind::ALL.into_iter().find(named) {
        Some(kind) => Ok(kind),
        None if word.contains(',') || word == "all" => {
            bail!("one type at a time (kubectl takes several): {}", types.join(", "))
        }
        None => bail!(
            "the server doesn't have a resource type \"{word}\": there are {}. A pod of that name is pod/{word}",
            types.join(", ")
        ),
    }
}

/// `TYPE NAME…` or `TYPE/NAME…` as kind and names.
///
/// # Errors
/// If the kind is none, or the two forms are mixed.
pub(super) fn kind_and_names(first: &str, rest: &[String]) -> anyhow::Result<(Kind, Vec<String>)> {
    let Some((word, name)) = first.split_once('/') else {
        for name in rest {
            ensure!(
                !name.contains('/'),
                "there is no need to specify a resource type as a separate argument when passing arguments in \
                 resource/name form (e.g. 'podling get resource/<resource_name>' instead of 'podling get resource \
                 resource/<resource_name>'"
            );
        }
        return Ok((kind(first)?, rest.to_vec()));
    };
    let mut names = vec![name.to_owned()];
    let kind = kind(word)?;
    for other in rest {
        let same = other.split_once('/').filter(|(word, _)| self::kind(word).ok() == Some(kind));
        let Some((_, name)) = same else {
            bail!("{other}: name objects of one type at a time, each as {}/NAME", kind.singular());
        };
        names.push(name.to_owned());
    }
    ensure!(
        names.iter().all(|name| !name.is_empty()),
        "arguments in resource/name form may not have an empty name"
    );
    Ok((kind, names))
}

/// The kind as `apply` and `delete` print it, with its group: `pod`, `networkpolicy.networking.k8s.io`.
pub(super) fn shown(kind: Kind) -> String {
    match kind.group() {
        "" => kind.singular().to_owned(),
        group => format!("{}.{group}", kind.singular()),
    }
}

/// Path segments of a kind's collection, below its API group's path.
pub(super) fn collection(kind: Kind, namespace: Option<&str>) -> Vec<&str> {
    match namespace.filter(|_| kind.namespaced()) {
        Some(namespace) => vec!["namespaces", namespace, kind.plural()],
        None => vec![kind.plural()],
    }
}
