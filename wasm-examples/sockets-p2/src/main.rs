//! The rules of `wasi:sockets` 0.2, each checked from inside: one case a run.
//!
//! args: `sockets-p2 CASE`, or `sockets-p2 list` for the names of all cases
//!       `sockets-p2 stall PORT` connects to 127.0.0.1:PORT and writes 64 MiB in pieces of 1 MiB, then closes
//!       `sockets-p2 trap PORT` listens, says so, and traps when somebody has connected
//! Prints `ok CASE`; what differs is a panic that names the line. exit codes: 0; 134 differs; 1 wrong arguments.
//!
//! A case needs nobody else, except those called `code_…`: they reach every error code that a host of podling gives, and
//! for that the test puts a world around the pod (`src/wasi/sockets/tests/world.rs` tells which addresses and names).

mod codes;
mod kit;
mod names;
mod options;
mod tcp;
mod udp;

use std::{env, process};

/// A case's name and what it does. Names are those of the cases that wasmtime-wasi runs against itself, where it has one.
type Case = (&'static str, fn());

const CASES: &[Case] = &[
    ("ip_name_lookup", names::lookup),
    ("tcp_bind", tcp::bind),
    ("tcp_busy_poll", tcp::busy_poll),
    ("tcp_connect", tcp::connect),
    ("tcp_listen", tcp::listen),
    ("tcp_sample_application", tcp::sample_application),
    ("tcp_sockopts", options::tcp),
    ("tcp_states", tcp::states),
    ("tcp_streams", tcp::streams),
    ("udp_bind", udp::bind),
    ("udp_connect", udp::connect),
    ("udp_sample_application", udp::sample_application),
    ("udp_send_to_closed_receiver", udp::send_to_closed_receiver),
    ("udp_send_too_much", udp::send_too_much),
    ("udp_sockopts", options::udp),
    ("udp_states", udp::states),
    ("udp_stream", udp::stream),
    ("code_access_denied", codes::access_denied),
    ("code_address_in_use", codes::address_in_use),
    ("code_address_not_bindable", codes::address_not_bindable),
    ("code_concurrency_conflict", codes::concurrency_conflict),
    ("code_connection_refused", codes::connection_refused),
    ("code_connection_reset", codes::connection_reset),
    ("code_datagram_too_large", codes::datagram_too_large),
    ("code_invalid_argument", codes::invalid_argument),
    ("code_invalid_state", codes::invalid_state),
    ("code_name_unresolvable", codes::name_unresolvable),
    ("code_new_socket_limit", codes::new_socket_limit),
    ("code_not_in_progress", codes::not_in_progress),
    ("code_out_of_memory", codes::out_of_memory),
    ("code_permanent_resolver_failure", codes::permanent_resolver_failure),
    ("code_remote_unreachable", codes::remote_unreachable),
    ("code_temporary_resolver_failure", codes::temporary_resolver_failure),
    ("code_timeout", codes::timeout),
    ("code_would_block", codes::would_block),
];

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => CASES.iter().for_each(|(name, _)| println!("{name}")),
        ["stall", port] => tcp::stall(port.parse().expect("a port")),
        ["trap", port] => tcp::trap(port.parse().expect("a port")),
        [name] => match CASES.iter().find(|(known, _)| known == name) {
            Some((_, case)) => {
                case();
                println!("ok {name}");
            }
            None => process::exit(1),
        },
        _ => process::exit(1),
    }
}
