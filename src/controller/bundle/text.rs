//! A pod's manifest as text: its lines cut out of its author's file, and its images under other names, where they stand.
//!
//! Owns: what of a file is signed, and at which places. Not: whose an object is (`bundle`). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use k8s_openapi::api::core::v1 as corev1;

use super::{File, Found};
use crate::manifest::{FieldValidation, Object, Position, parse};

/// Path and text of each container's image.
pub(super) fn image_fields(object: &Object) -> Vec<(String, String)> {
    let Object::Pod(pod) = object else { return vec![] };
    let Some(spec) = &pod.spec else { return vec![] };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [("initContainers", init), ("containers", &spec.containers)];
    let each = lists.into_iter().flat_map(|(list, containers)| {
        containers.iter().enumerate().filter_map(move |(at, container)| {
            let image = container.image.clone()?;
            Some((format!("spec.{list}[{at}].image"), image))
        })
    });
    each.collect()
}

/// The lines of these objects at their places, all others empty; `None` where a document holds some of them and something else.
pub(super) fn cut_out(files: &[File], all: &[Found], members: &BTreeSet<usize>) -> Option<String> {
    let mut out = String::new();
    for (at, file) in files.iter().enumerate() {
        let ranges = ranges(&file.text);
        let mut wanted: BTreeMap<usize, bool> = BTreeMap::new();
        for (index, found) in all.iter().enumerate().filter(|(_, found)| found.file == at) {
            let Position { line, .. } = found.document.position("kind")?;
            let range = ranges.iter().position(|range| range.contains(&(line - 1)))?;
            let is_member = members.contains(&index);
            if *wanted.entry(range).or_insert(is_member) != is_member {
                return None;
            }
        }
        let lines: Vec<&str> = file.text.split_inclusive('\n').collect();
        let mut kept = String::new();
        for (number, range) in ranges.iter().enumerate() {
            if wanted.get(&number).copied().unwrap_or(false) {
                kept.extend(lines[range.clone()].iter().copied());
            } else {
                kept.extend(std::iter::repeat_n('\n', range.len()));
            }
        }
        if kept.trim().is_empty() {
            continue;
        }
        if !out.is_empty() && !kept.trim_start().starts_with("---") {
            out.push_str("---\n");
        }
        out.push_str(kept.trim_end());
        out.push('\n');
    }
    Some(out)
}

/// The lines (from 0) of each document, as the parser cuts them: before each `---` once there was content.
fn ranges(text: &str) -> Vec<Range<usize>> {
    let (mut starts, mut has_content, mut count) = (vec![0], false, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let after = line.strip_prefix("---");
        let is_marker =
            after.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && has_content {
            starts.push(number);
        }
        let trimmed = line.trim();
        let is_prelude = trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%');
        has_content |= is_marker || !is_prelude;
        count = number + 1;
    }
    let ends = starts.iter().copied().skip(1).chain([count]).collect::<Vec<_>>();
    starts.into_iter().zip(ends).map(|(start, end)| start..end).collect()
}

/// Replaces images where they stand. `None` where one is not found in so many letters (an alias, an escape).
pub(super) fn edited(text: &str, renamed: &BTreeMap<String, String>) -> Option<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let parsed = parse(text.as_bytes(), FieldValidation::Strict);
    let pod = parsed.documents.iter().find(|d| matches!(d.object, Object::Pod(_)))?;
    let mut places = vec![];
    for (path, image) in image_fields(&pod.object) {
        let Some(new) = renamed.get(&image) else { continue };
        places.push((pod.position(&path)?, image, new));
    }
    // From the end, so that what is still to be replaced has not moved.
    places.sort_by_key(|(at, ..)| std::cmp::Reverse((at.line, at.column)));
    for (at, image, new) in places {
        let line = lines.get_mut(at.line - 1)?;
        let from = line.char_indices().nth(at.column - 1).map_or(0, |(from, _)| from);
        let start = from + line[from..].find(&image)?;
        line.replace_range(start..start + image.len(), new);
    }
    Some(lines.concat())
}

/// Whether a text is still one pod, with these images.
pub(super) fn has_images(text: &str, wanted: &[String]) -> bool {
    let parsed = parse(text.as_bytes(), FieldValidation::Strict);
    let mut pods = parsed.documents.iter().filter(|d| matches!(d.object, Object::Pod(_)));
    let (Some(pod), None) = (pods.next(), pods.next()) else { return false };
    let found = image_fields(&pod.object);
    parsed.errors.is_empty() && found.iter().map(|(_, image)| image).eq(wanted)
}

pub(super) fn rename(pod: &mut corev1::Pod, renamed: &BTreeMap<String, String>) {
    let Some(spec) = &mut pod.spec else { return };
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        if let Some(new) = container.image.as_ref().and_then(|image| renamed.get(image)) {
            container.image = Some(new.clone());
        }
    }
}
