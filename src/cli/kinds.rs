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
            bail!("one type at a time (only get takes several): {}", types.join(", "))
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

/// What `get` is asked for: `TYPE[,TYPE…] NAME…`, or `TYPE/NAME…`, where each may be of another type; `all` is what runs and what leads to it.
///
/// # Errors
/// As [`kind_and_names`].
pub(super) fn several(first: &str, rest: &[String]) -> anyhow::Result<Vec<(Kind, Vec<String>)>> {
    let mut asked: Vec<(Kind, Vec<String>)> = Vec::new();
    if first.contains('/') {
        for word in std::iter::once(first).chain(rest.iter().map(String::as_str)) {
            let (kind, names) = kind_and_names(word, &[])?;
            ensure!(!names.is_empty(), "{word}: arguments must all be of the form TYPE/NAME");
            match asked.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, all)) => all.extend(names),
                None => asked.push((kind, names)),
            }
        }
        return Ok(asked);
    }
    let words = if first == "all" { "pods,services" } else { first };
    for word in words.split(',') {
        ensure!(!word.is_empty(), "{first}: a resource type is missing");
        let (kind, names) = kind_and_names(word, rest)?;
        if asked.iter().all(|(other, _)| *other != kind) {
            asked.push((kind, names));
        }
    }
    Ok(asked)
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
