//! PATCH: three ways to say what should change. Pure.
//!
//! Owns: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch, which knows lists whose items have a name
//! (`apimachinery/pkg/util/strategicpatch`; merge keys from the `patchMergeKey` tags of `k8s.io/api`). Not: whether the result is an
//! object, or a change that is allowed. Server-side apply is not offered.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use super::status::ApiError;

/// Deepest nesting that is followed; `serde_json` refuses text beyond 128 anyway.
const DEPTH_MAX: usize = 128;

/// Most operations of a JSON patch (kube-apiserver's limit).
const OPERATIONS_MAX: usize = 10_000;

/// A patch that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Patch {
    Json(Vec<Value>),
    Merge(Value),
    Strategic(Map<String, Value>),
}

impl Patch {
    /// # Errors
    /// 415 for a kind of patch that we do not have, 400 for text that is none.
    pub(super) fn parse(media_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let read = || {
            serde_json::from_slice::<Value>(body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
        };
        match media_type {
            "application/json-patch+json" => {
                let Value::Array(operations) = read()? else {
                    return Err(ApiError::bad_request("a JSON patch is a list of operations"));
                };
                if operations.len() > OPERATIONS_MAX {
                    return Err(ApiError::bad_request(format!(
                        "the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}"
                    )));
                }
                Ok(Self::Json(operations))
            }
            "application/merge-patch+json" => Ok(Self::Merge(read()?)),
            "application/strategic-merge-patch+json" => {
                let Value::Object(patch) = read()? else {
                    return Err(ApiError::bad_request("a strategic merge patch is an object"));
                };
                Ok(Self::Strategic(patch))
            }
            _ => Err(ApiError::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json",
            )),
        }
    }

    /// The object after the patch.
    ///
    /// # Errors
    /// 400 (422 for a JSON patch) if the patch does not fit the object.
    pub(super) fn apply(&self, to: &Value) -> Result<Value, ApiError> {
        let mut result = to.clone();
        match self {
            Self::Json(operations) => {
                for operation in operations {
                    json_operation(&mut result, operation).map_err(ApiError::bad_request)?;
                }
            }
            Self::Merge(patch) => merge(&mut result, patch),
            Self::Strategic(patch) => {
                let Value::Object(target) = &mut result else {
                    return Err(ApiError::bad_request("only an object can be patched"));
                };
                let at = At { of: Of::kind(to), depth: 0 };
                strategic(target, patch, at).map_err(ApiError::bad_request)?;
            }
        }
        Ok(result)
    }
}

/// RFC 7386: null removes, objects merge, anything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// One operation of RFC 6902.
fn json_operation(document: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let path = text("path").ok_or("a JSON patch operation needs a path")?;
    let value = || operation.get("value").cloned().ok_or("a JSON patch operation needs a value");
    let from = || text("from").ok_or("a JSON patch operation needs a from");
    let find = |document: &Value, path: &str| {
        document.pointer(path).cloned().ok_or(format!("there is nothing at {path:?}"))
    };
    match text("op") {
        Some("add") => add_at(document, path, value()?),
        Some("remove") => remove_at(document, path).map(drop),
        Some("replace") => {
            let new = value()?;
            let place =
                document.pointer_mut(path).ok_or(format!("there is nothing at {path:?}"))?;
            *place = new;
            Ok(())
        }
        Some("test") => {
            let holds = find(document, path)? == value()?;
            if holds { Ok(()) } else { Err(format!("testing value {path} failed")) }
        }
        Some("copy") => {
            let value = find(document, from()?)?;
            add_at(document, path, value)
        }
        Some("move") => {
            let from = from()?;
            if path.starts_with(&format!("{from}/")) {
                return Err("a value cannot be moved into itself".to_owned());
            }
            let value = remove_at(document, from)?;
            add_at(document, path, value)
        }
        other => Err(format!("unexpected kind of JSON patch operation: {:?}", other.unwrap_or(""))),
    }
}

fn split_pointer(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or("a path starts with '/'")?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add_at(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (parent, last) = split_pointer(path)?;
    let nowhere = format!("there is nothing at {parent:?}");
    match document.pointer_mut(parent).ok_or(nowhere)? {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(list) if last == "-" => {
            list.push(value);
            Ok(())
        }
        Value::Array(list) => match last.parse::<usize>() {
            Ok(at) if at <= list.len() => {
                list.insert(at, value);
                Ok(())
            }
            _ => Err(format!("{last:?} is no index of the list at {parent:?}")),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err(format!("the value at {parent:?} holds no other"))
        }
    }
}

fn remove_at(document: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split_pointer(path)?;
    let nowhere = || format!("there is nothing at {path:?}");
    match document.pointer_mut(parent).ok_or_else(nowhere)? {
        Value::Object(map) => map.remove(&last).ok_or_else(nowhere),
        Value::Array(list) => match last.parse::<usize>() {
            Ok(at) if at < list.len() => Ok(list.remove(at)),
            _ => Err(nowhere()),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(nowhere()),
    }
}

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListMerge {
    /// The new list replaces the old one.
    Replace,
    /// Items with the same value of this field are the same item.
    ByKey(&'static str),
    /// Values of the new list that the old one lacks are added.
    Set,
}

/// Whose lists they are: the same field name stands for different lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Pods, ConfigMaps, Secrets: among these each name has one meaning.
    Core,
    Service,
    NetworkPolicy,
}

impl Of {
    fn kind(object: &Value) -> Self {
        match object.get("kind").and_then(Value::as_str) {
            Some("Service") => Self::Service,
            Some("NetworkPolicy") => Self::NetworkPolicy,
            Some(_) | None => Self::Core,
        }
    }
}

/// Where in a patch.
#[derive(Clone, Copy, Debug)]
struct At {
    of: Of,
    depth: usize,
}

impl At {
    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

/// By field name.
fn list_merge(of: Of, field: &str) -> ListMerge {
    match (of, field) {
        (Of::Service, "ports") => return ListMerge::ByKey("port"),
        // None of a policy's lists has a merge key: each is replaced as a whole.
        (Of::NetworkPolicy, "ports") => return ListMerge::Replace,
        (Of::Core | Of::Service | Of::NetworkPolicy, _) => {}
    }
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates" => ListMerge::ByKey("name"),
        "volumeMounts" => ListMerge::ByKey("mountPath"),
        "volumeDevices" => ListMerge::ByKey("devicePath"),
        "ports" => ListMerge::ByKey("containerPort"),
        "hostAliases" | "podIPs" | "hostIPs" => ListMerge::ByKey("ip"),
        "topologySpreadConstraints" => ListMerge::ByKey("topologyKey"),
        "conditions" => ListMerge::ByKey("type"),
        "ownerReferences" => ListMerge::ByKey("uid"),
        "finalizers" => ListMerge::Set,
        _ => ListMerge::Replace,
    }
}

fn strategic(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    at: At,
) -> Result<(), String> {
    if at.depth > DEPTH_MAX {
        return Err("the patch is nested too deeply".to_owned());
    }
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            *target = patch.clone();
            target.remove("$patch");
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => return Err(format!("unknown patch directive {other:?}")),
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        target.retain(|key, _| keep.iter().any(|kept| kept.as_str() == Some(key)));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(list)), Value::Array(gone)) = (target.get_mut(field), value) {
                list.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            strategic_field(target, key, value, at)?;
        }
    }
    for (key, value) in patch {
        if let (Some(field), Value::Array(order)) = (key.strip_prefix("$setElementOrder/"), value)
            && let Some(Value::Array(list)) = target.get_mut(field)
        {
            reorder(list, order, list_merge(at.of, field));
        }
    }
    Ok(())
}

fn strategic_field(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    at: At,
) -> Result<(), String> {
    match value {
        Value::Null => {
            target.remove(key);
        }
        Value::Object(patch) => {
            let place = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            if let Value::Object(place) = place {
                strategic(place, patch, at.deeper())?;
            }
            if patch.get("$patch").and_then(Value::as_str) == Some("delete") {
                target.remove(key);
            }
        }
        Value::Array(items) => match (list_merge(at.of, key), target.get_mut(key)) {
            (ListMerge::ByKey(by), Some(Value::Array(list))) => {
                merge_list(list, items, by, at)?;
            }
            (ListMerge::ByKey(by), _) => {
                let mut list = Vec::new();
                merge_list(&mut list, items, by, at)?;
                target.insert(key.to_owned(), Value::Array(list));
            }
            (ListMerge::Set, Some(Value::Array(list))) => {
                for item in items {
                    if !list.contains(item) {
                        list.push(item.clone());
                    }
                }
            }
            (ListMerge::Replace | ListMerge::Set, _) => {
                target.insert(key.to_owned(), value.clone());
            }
        },
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            target.insert(key.to_owned(), value.clone());
        }
    }
    Ok(())
}

fn merge_list(list: &mut Vec<Value>, items: &[Value], by: &str, at: At) -> Result<(), String> {
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if items.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        let kept = items.iter().filter(|item| directive(item).is_none());
        *list = kept.cloned().collect();
        return Ok(());
    }
    for item in items {
        let Value::Object(patch) = item else {
            return Err(format!("an item of a list merged by {by:?} is no object"));
        };
        let id = patch
            .get(by)
            .ok_or(format!("map: {item} does not contain declared merge key: {by}"))?;
        let place = list.iter().position(|old| old.get(by) == Some(id));
        match (directive(item).as_deref(), place) {
            (Some("delete"), _) => list.retain(|old| old.get(by) != Some(id)),
            (_, Some(place)) => {
                if let Value::Object(old) = &mut list[place] {
                    strategic(old, patch, at.deeper())?;
                }
            }
            (_, None) => {
                let mut new = Map::new();
                strategic(&mut new, patch, at.deeper())?;
                list.push(Value::Object(new));
            }
        }
    }
    Ok(())
}

/// The strategic merge patch that turns what was applied last into `new`, whatever else the object has: all of `new`, and a removal of
/// each thing that `last` had and `new` has not. What `kubectl apply` and `podling apply` send.
#[must_use]
pub fn three_way(last: Option<&Value>, new: &Value) -> Value {
    three_way_of(Of::kind(new), last, new)
}

fn three_way_of(of: Of, last: Option<&Value>, new: &Value) -> Value {
    match (last, new) {
        (Some(Value::Object(last)), Value::Object(new)) => {
            let mut patch = Map::new();
            for (key, value) in new {
                patch.insert(key.clone(), three_way_field(of, key, last.get(key), value));
            }
            for key in last.keys().filter(|key| !new.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            Value::Object(patch)
        }
        _ => new.clone(),
    }
}

fn three_way_field(of: Of, key: &str, last: Option<&Value>, new: &Value) -> Value {
    let (Some(Value::Array(last)), Value::Array(new), ListMerge::ByKey(by)) =
        (last, new, list_merge(of, key))
    else {
        return three_way_of(of, last, new);
    };
    let find = |list: &[Value], item: &Value| {
        list.iter().find(|other| other.get(by) == item.get(by)).cloned()
    };
    let mut items: Vec<Value> =
        new.iter().map(|item| three_way_of(of, find(last, item).as_ref(), item)).collect();
    for gone in last.iter().filter(|item| find(new, item).is_none()) {
        items.push(serde_json::json!({ "$patch": "delete", by: gone.get(by) }));
    }
    Value::Array(items)
}

/// Puts the items that `order` names into that order; the others stay behind the item that they followed.
fn reorder(list: &mut Vec<Value>, order: &[Value], how: ListMerge) {
    let rank = |item: &Value| match how {
        ListMerge::ByKey(by) => order.iter().position(|wanted| wanted.get(by) == item.get(by)),
        ListMerge::Set | ListMerge::Replace => order.iter().position(|wanted| wanted == item),
    };
    let mut behind = None;
    let mut ranked = Vec::new();
    for item in std::mem::take(list) {
        behind = rank(&item).map(|rank| rank + 1).or(behind);
        ranked.push((behind.unwrap_or(0), item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    list.extend(ranked.into_iter().map(|(_, item)| item));
}
