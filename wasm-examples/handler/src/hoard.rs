//! Has the host keep things.

use wasi::http::types::{Fields, OutgoingBody, OutgoingRequest};
use wasi::io::streams::OutputStream;

/// Bytes written to a body that nobody reads.
const BODY_BYTES: usize = 16 * 1024;

/// A list with one field whose value has `size` bytes.
pub(crate) fn fields(size: usize) -> Fields {
    Fields::from_list(&[("x-hoard".to_owned(), vec![b'h'; size])]).expect("a valid field")
}

/// A request to a host whose name has `size` bytes.
pub(crate) fn request(size: usize) -> OutgoingRequest {
    let request = OutgoingRequest::new(Fields::new());
    request.set_authority(Some(&"h".repeat(size))).expect("a valid name");
    request
}

/// A request with a body that is begun and goes nowhere. Fields are dropped in the order in which they stand.
pub(crate) struct Begun {
    _stream: OutputStream,
    _body: OutgoingBody,
    _request: OutgoingRequest,
}

pub(crate) fn body() -> Begun {
    let request = OutgoingRequest::new(Fields::new());
    let body = request.body().expect("the first body");
    let stream = body.write().expect("the first stream");
    if stream.check_write().is_ok_and(|room| room as usize >= BODY_BYTES) {
        stream.write(&[b'h'; BODY_BYTES]).expect("there was room");
    }
    Begun { _stream: stream, _body: body, _request: request }
}
