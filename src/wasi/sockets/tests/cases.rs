//! The rules of `wasi:sockets`, checked by guests from inside, and every error code reached by one.
//!
//! The cases themselves are in `wasm-examples/{sockets-p2,tcp-p3,udp-p3}`; each runs in a pod of its own, with `world` around it. Time
//! is simulated: a guest that waits for something that never comes fails at once, and two minutes of patience take none.

use std::collections::BTreeSet;

use wasmtime::component::Component;
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup;
use wasmtime_wasi::p3::bindings::sockets::types::ErrorCode as ErrorCode3;

use super::shop::{Ended, PATIENCE, component, patiently, run, run_as};
use super::{ErrorCode, join, world};

/// The cases of wasmtime-wasi's own socket tests (`tests/all/p2`, where their names begin with `p2_`), written anew.
const OF_WASMTIME_P2: [&str; 17] = [
    "ip_name_lookup",
    "tcp_bind",
    "tcp_busy_poll",
    "tcp_connect",
    "tcp_listen",
    "tcp_sample_application",
    "tcp_sockopts",
    "tcp_states",
    "tcp_streams",
    "udp_bind",
    "udp_connect",
    "udp_sample_application",
    "udp_send_to_closed_receiver",
    "udp_send_too_much",
    "udp_sockopts",
    "udp_states",
    "udp_stream",
];

/// The same of `tests/all/p3`, where they begin with `p3_sockets_`.
const OF_WASMTIME_P3: [&str; 17] = [
    "ip_name_lookup",
    "tcp_bind",
    "tcp_busy_poll",
    "tcp_connect",
    "tcp_listen",
    "tcp_sample_application",
    "tcp_sockopts",
    "tcp_states",
    "tcp_streams",
    "udp_bind",
    "udp_connect",
    "udp_receive",
    "udp_sample_application",
    "udp_send",
    "udp_send_race",
    "udp_sockopts",
    "udp_states",
];

/// How a case is known to have held.
fn held(case: &str, ended: &Ended) -> bool {
    match case {
        // The rule is that it traps.
        "udp_send_too_much" => {
            ended.code.is_none()
                && ended.said.contains("permitted 16")
                && ended.said.contains("more datagrams than check-send permitted")
        }
        _ => ended.code == Some(0) && ended.said == format!("ok {case}\n"),
    }
}

async fn names(guest: &Component) -> Vec<String> {
    let (code, said) = patiently(run(&world::pod(), guest, &["list"], &[])).await;
    assert_eq!(code, 0, "{said}");
    said.lines().map(str::to_owned).collect()
}

/// Runs all cases of a guest, and returns their names.
async fn all_hold(guest: &str) -> BTreeSet<String> {
    let component = component(guest);
    let names = names(&component).await;
    let mut wrong = Vec::new();
    for case in &names {
        let pod = world::pod();
        let mortal = join(&pod, "mortal");
        let dying = tokio::spawn(world::die(world::mortal(&mortal)));
        let member = world::member_for(case, &pod);
        let case_run = run_as(member, &component, &[case], &[]);
        match tokio::time::timeout(PATIENCE, case_run).await {
            Ok(ended) if held(case, &ended) => {}
            Ok(ended) => wrong.push(format!("{case}: {:?} {}", ended.code, ended.said)),
            Err(_) => wrong.push(format!("{case} waits for ever")),
        }
        dying.abort();
        let _ = dying.await;
        let left = (pod.open_sockets(), pod.buffered_bytes(), pod.bound_ports());
        if left != (0, 0, (0, 0)) {
            wrong.push(format!("{case} left {left:?}"));
        }
    }
    assert!(wrong.is_empty(), "{guest}:\n{}", wrong.join("\n"));
    names.into_iter().collect()
}

fn missing(of: &[&str], names: &BTreeSet<String>) -> Vec<String> {
    of.iter().filter(|name| !names.contains(**name)).map(|name| (*name).to_owned()).collect()
}

/// The guest's case for a code, or why there can be none.
type Reached = Result<&'static str, &'static str>;

fn reached_in_p2(code: ErrorCode) -> Reached {
    match code {
        ErrorCode::AccessDenied => Ok("code_access_denied"),
        ErrorCode::InvalidArgument => Ok("code_invalid_argument"),
        ErrorCode::OutOfMemory => Ok("code_out_of_memory"),
        ErrorCode::Timeout => Ok("code_timeout"),
        ErrorCode::ConcurrencyConflict => Ok("code_concurrency_conflict"),
        ErrorCode::NotInProgress => Ok("code_not_in_progress"),
        ErrorCode::WouldBlock => Ok("code_would_block"),
        ErrorCode::InvalidState => Ok("code_invalid_state"),
        ErrorCode::NewSocketLimit => Ok("code_new_socket_limit"),
        ErrorCode::AddressNotBindable => Ok("code_address_not_bindable"),
        ErrorCode::AddressInUse => Ok("code_address_in_use"),
        ErrorCode::RemoteUnreachable => Ok("code_remote_unreachable"),
        ErrorCode::ConnectionRefused => Ok("code_connection_refused"),
        ErrorCode::ConnectionReset => Ok("code_connection_reset"),
        ErrorCode::DatagramTooLarge => Ok("code_datagram_too_large"),
        ErrorCode::NameUnresolvable => Ok("code_name_unresolvable"),
        ErrorCode::TemporaryResolverFailure => Ok("code_temporary_resolver_failure"),
        ErrorCode::PermanentResolverFailure => Ok("code_permanent_resolver_failure"),
        ErrorCode::Unknown => Err("each error of the network has a code of its own"),
        ErrorCode::NotSupported => Err("every operation and both families are there"),
        ErrorCode::ConnectionAborted => {
            Err("one who leaves before being accepted is accepted and at its end")
        }
    }
}

const CODES_P2: [ErrorCode; 21] = [
    ErrorCode::Unknown,
    ErrorCode::AccessDenied,
    ErrorCode::NotSupported,
    ErrorCode::InvalidArgument,
    ErrorCode::OutOfMemory,
    ErrorCode::Timeout,
    ErrorCode::ConcurrencyConflict,
    ErrorCode::NotInProgress,
    ErrorCode::WouldBlock,
    ErrorCode::InvalidState,
    ErrorCode::NewSocketLimit,
    ErrorCode::AddressNotBindable,
    ErrorCode::AddressInUse,
    ErrorCode::RemoteUnreachable,
    ErrorCode::ConnectionRefused,
    ErrorCode::ConnectionReset,
    ErrorCode::ConnectionAborted,
    ErrorCode::DatagramTooLarge,
    ErrorCode::NameUnresolvable,
    ErrorCode::TemporaryResolverFailure,
    ErrorCode::PermanentResolverFailure,
];

fn reached_in_p3(code: &ErrorCode3) -> Reached {
    match code {
        ErrorCode3::AccessDenied => Ok("code_access_denied"),
        ErrorCode3::InvalidArgument => Ok("code_invalid_argument"),
        ErrorCode3::OutOfMemory => Ok("code_out_of_memory"),
        ErrorCode3::Timeout => Ok("code_timeout"),
        ErrorCode3::InvalidState => Ok("code_invalid_state"),
        ErrorCode3::AddressNotBindable => Ok("code_address_not_bindable"),
        ErrorCode3::AddressInUse => Ok("code_address_in_use"),
        ErrorCode3::RemoteUnreachable => Ok("code_remote_unreachable"),
        ErrorCode3::ConnectionRefused => Ok("code_connection_refused"),
        ErrorCode3::ConnectionBroken => Ok("code_connection_broken"),
        ErrorCode3::ConnectionReset => Ok("code_connection_reset"),
        ErrorCode3::DatagramTooLarge => Ok("code_datagram_too_large"),
        ErrorCode3::Other(_) => Ok("code_other"),
        ErrorCode3::NotSupported => Err("every operation and both families are there"),
        ErrorCode3::ConnectionAborted => {
            Err("one who leaves before being accepted is accepted and at its end")
        }
    }
}

fn codes_p3() -> [ErrorCode3; 15] {
    [
        ErrorCode3::AccessDenied,
        ErrorCode3::NotSupported,
        ErrorCode3::InvalidArgument,
        ErrorCode3::OutOfMemory,
        ErrorCode3::Timeout,
        ErrorCode3::InvalidState,
        ErrorCode3::AddressNotBindable,
        ErrorCode3::AddressInUse,
        ErrorCode3::RemoteUnreachable,
        ErrorCode3::ConnectionRefused,
        ErrorCode3::ConnectionBroken,
        ErrorCode3::ConnectionReset,
        ErrorCode3::ConnectionAborted,
        ErrorCode3::DatagramTooLarge,
        ErrorCode3::Other(None),
    ]
}

fn lookup_reached_in_p3(code: &ip_name_lookup::ErrorCode) -> Reached {
    use ip_name_lookup::ErrorCode;
    match code {
        ErrorCode::AccessDenied => Ok("code_access_denied"),
        ErrorCode::InvalidArgument => Ok("code_invalid_argument"),
        ErrorCode::NameUnresolvable => Ok("code_name_unresolvable"),
        ErrorCode::TemporaryResolverFailure => Ok("code_temporary_resolver_failure"),
        ErrorCode::PermanentResolverFailure => Ok("code_permanent_resolver_failure"),
        ErrorCode::Other(_) => Err("each error of a look-up has a code of its own"),
    }
}

fn lookup_codes_p3() -> [ip_name_lookup::ErrorCode; 6] {
    use ip_name_lookup::ErrorCode;
    [
        ErrorCode::AccessDenied,
        ErrorCode::InvalidArgument,
        ErrorCode::NameUnresolvable,
        ErrorCode::TemporaryResolverFailure,
        ErrorCode::PermanentResolverFailure,
        ErrorCode::Other(None),
    ]
}

/// Each code's case is among the guest's, and no case is for none.
fn codes_agree(reached: &[Reached], names: &BTreeSet<String>) {
    let expected: BTreeSet<&str> = reached.iter().filter_map(|reached| reached.ok()).collect();
    let there: BTreeSet<&str> =
        names.iter().map(String::as_str).filter(|name| name.starts_with("code_")).collect();
    assert_eq!(there, expected);
}

#[tokio::test(start_paused = true)]
async fn guests_of_0_2_find_every_rule_of_wasi_sockets_kept_and_reach_every_code() {
    let names = all_hold("sockets-p2").await;
    assert_eq!(missing(&OF_WASMTIME_P2, &names), [""; 0]);
    codes_agree(&CODES_P2.map(reached_in_p2), &names);
}

#[tokio::test(start_paused = true)]
async fn guests_of_0_3_find_every_rule_of_wasi_sockets_kept_and_reach_every_code() {
    let mut names = all_hold("tcp-p3").await;
    names.extend(all_hold("udp-p3").await);
    assert_eq!(missing(&OF_WASMTIME_P3, &names), [""; 0]);
    let mut reached: Vec<_> = codes_p3().iter().map(reached_in_p3).collect();
    reached.extend(lookup_codes_p3().iter().map(lookup_reached_in_p3));
    codes_agree(&reached, &names);
}

#[tokio::test(start_paused = true)]
async fn a_case_that_does_not_hold_is_told_with_its_line() {
    // No world: nobody dies at 127.0.0.1:9, so its case cannot hold, and says where.
    let pod = super::pod();
    let guest = component("sockets-p2");
    let ended =
        patiently(run_as(join(&pod, "case"), &guest, &["code_connection_reset"], &[])).await;
    assert!(!held("code_connection_reset", &ended), "{ended:?}");
    assert!(ended.said.contains("codes.rs:"), "{}", ended.said);
}
