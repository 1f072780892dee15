//! The rules of UDP and names in `wasi:sockets` 0.3, and every error code that podling gives, TCP's too, each checked from
//! inside: one case a run.
//!
//! args: `udp-p3 CASE`, or `udp-p3 list` for the names of all cases
//! Prints `ok CASE`; what differs is a panic that names the line. exit codes: 0; 134 differs; 1 no such case.
//!
//! Cases whose names wasmtime-wasi has too need nobody else. For those called `code_…` the test puts a world around the pod
//! (`src/wasi/sockets/tests/world.rs` tells which addresses and names).

mod codes;
mod names;
mod options;
mod udp;

guest_p3::cases! {
    ip_name_lookup: names::lookup,
    udp_bind: udp::bind,
    udp_connect: udp::connect,
    udp_receive: udp::receive,
    udp_sample_application: udp::sample_application,
    udp_send: udp::send,
    udp_send_race: udp::send_race,
    udp_sockopts: options::udp,
    udp_states: udp::states,
    code_access_denied: codes::access_denied,
    code_address_in_use: codes::address_in_use,
    code_address_not_bindable: codes::address_not_bindable,
    code_connection_broken: codes::connection_broken,
    code_connection_refused: codes::connection_refused,
    code_connection_reset: codes::connection_reset,
    code_datagram_too_large: codes::datagram_too_large,
    code_invalid_argument: codes::invalid_argument,
    code_invalid_state: codes::invalid_state,
    code_name_unresolvable: codes::name_unresolvable,
    code_other: codes::other,
    code_out_of_memory: codes::out_of_memory,
    code_permanent_resolver_failure: codes::permanent_resolver_failure,
    code_remote_unreachable: codes::remote_unreachable,
    code_temporary_resolver_failure: codes::temporary_resolver_failure,
    code_timeout: codes::timeout,
}
