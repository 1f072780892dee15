//! What `wasi:http` keeps on the host for one store, in bytes.
//!
//! Owns: the sum over the resources in a store's table: fields, requests, responses, and bodies that are being written. Is not: the account
//! (`runtime`), nor what a request under way holds outside of the table (`runtime::serve`, `exchange`).
//!
//! wasmtime-wasi-http bounds each list of fields and counts none of them together, nor the strings of a request; a module could have
//! megabytes kept here by holding many. So the table is looked through whenever one of its functions is called. A handler has some five
//! resources; a module that holds thousands pays for the look with its own CPU time.
//! Limits: what one call hands over (`HOSTCALL_BYTES_MAX` of the runtime) is seen at the next call.

use std::any::{Any, TypeId};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::p2::types::{
    HostIncomingRequest, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::p3;

use super::BODY_CHUNK_BYTES;

/// A resource and its place in the table.
const RESOURCE_BYTES: usize = 256;

/// A place of a header map, taken or not: name, value, and what leads to them.
const PLACE_BYTES: usize = size_of::<HeaderName>() + size_of::<HeaderValue>() + 40;

/// What it keeps for each further value of a name.
const VALUE_BYTES: usize = size_of::<HeaderValue>() + 40;

/// A body that is being written: one chunk waiting, one on its way.
const WRITING_BYTES: usize = 2 * BODY_CHUNK_BYTES;

/// Bytes kept for all resources of `wasi:http` in `table`. The first body is not counted: whoever takes on a request pays for that of its
/// response.
pub(super) fn kept(table: &mut ResourceTable) -> usize {
    let (mut bytes, mut bodies) = (0_usize, 0_usize);
    for entry in table.iter_mut() {
        match of_one(entry) {
            Kept::Writing => bodies += 1,
            Kept::Bytes(more) => bytes += more,
        }
    }
    bytes + bodies.saturating_sub(1) * WRITING_BYTES
}

enum Kept {
    /// A body that is being written.
    Writing,
    Bytes(usize),
}

fn of_one(entry: &dyn Any) -> Kept {
    // Asked once: each question is a call through a table, and there are many entries where an instance has many requests.
    let kind = entry.type_id();
    let is = |other: TypeId| kind == other;
    let bytes = if is(TypeId::of::<p3::Request>()) {
        entry.downcast_ref().map_or(0, of_request_p3)
    } else if is(TypeId::of::<p3::Response>()) {
        entry.downcast_ref().map_or(0, |response: &p3::Response| fields(&response.headers))
    } else if is(TypeId::of::<FieldMap>()) {
        entry.downcast_ref().map_or(0, |map: &FieldMap| fields(map))
    } else if is(TypeId::of::<HostOutgoingBody>()) {
        return Kept::Writing;
    } else if is(TypeId::of::<HostIncomingRequest>()) {
        0
    } else if is(TypeId::of::<HostOutgoingResponse>()) {
        entry.downcast_ref().map_or(0, |response: &HostOutgoingResponse| fields(&response.headers))
    } else if is(TypeId::of::<HostOutgoingRequest>()) {
        entry.downcast_ref().map_or(0, of_request_p2)
    } else if is(TypeId::of::<HostIncomingResponse>()) {
        entry.downcast_ref().map_or(0, |response: &HostIncomingResponse| fields(&response.headers))
    } else {
        return Kept::Bytes(0);
    };
    Kept::Bytes(RESOURCE_BYTES + bytes)
}

fn of_request_p3(request: &p3::Request) -> usize {
    let authority = request.authority.as_ref().map_or(0, |authority| authority.as_str().len());
    let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
    fields(&request.headers) + request.method.as_str().len() + authority + path
}

fn of_request_p2(request: &HostOutgoingRequest) -> usize {
    fields(&request.headers) + of_line(request)
}

/// What the strings of a request hold.
fn of_line(request: &HostOutgoingRequest) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
    let method = if let p2::Method::Other(name) = &request.method { name.capacity() } else { 0 };
    let scheme =
        if let Some(p2::Scheme::Other(name)) = &request.scheme { name.capacity() } else { 0 };
    method + scheme + text(&request.authority) + text(&request.path_with_query)
}

/// What a list of fields holds, as it lies in memory.
pub(crate) fn fields(map: &HeaderMap) -> usize {
    let names: usize = map.keys().map(|name| name.as_str().len()).sum();
    let values: usize = map.values().map(HeaderValue::len).sum();
    let further = map.len() - map.keys_len();
    names + values + map.capacity() * PLACE_BYTES + further * VALUE_BYTES
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn fields_cost_what_their_map_takes() {
        let mut map = HeaderMap::new();
        assert_eq!(fields(&map), 0);
        map.insert("x-one", HeaderValue::from_static("12345"));
        let places = map.capacity() * PLACE_BYTES;
        assert!(places > 0);
        assert_eq!(fields(&map), 10 + places);
        map.append("x-one", HeaderValue::from_static("678"));
        assert_eq!(fields(&map), 13 + places + VALUE_BYTES);
    }

    #[test]
    fn what_is_not_of_http_costs_nothing_here_and_each_of_its_resources_is_seen() {
        let mut table = ResourceTable::new();
        table.push("a file, say").unwrap();
        assert_eq!(kept(&mut table), 0);
        let map = table.push(FieldMap::new_mutable(1000)).unwrap();
        assert_eq!(kept(&mut table), RESOURCE_BYTES);
        table
            .get_mut(&map)
            .unwrap()
            .append_raw(HeaderName::from_static("x"), HeaderValue::from_static("yz"))
            .unwrap();
        assert!(kept(&mut table) > RESOURCE_BYTES + 3);
        table.delete(map).unwrap();
        let long = "a".repeat(5000);
        let request = HostOutgoingRequest {
            method: p2::Method::Other(long.clone()),
            scheme: Some(p2::Scheme::Other(long.clone())),
            authority: Some(long.clone()),
            path_with_query: Some(long),
            headers: FieldMap::default(),
            body: None,
        };
        let request = table.push(request).unwrap();
        assert_eq!(kept(&mut table), RESOURCE_BYTES + 20_000);
        table.delete(request).unwrap();
        assert_eq!(kept(&mut table), 0);
    }
}
