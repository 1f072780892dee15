//! Things that the host keeps for a module.

use wasi::cli::stdout::get_stdout;
use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::filesystem::preopens::get_directories;
use wasi::http::types::Fields;
use wasi::io::poll::poll;
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasi::sockets::tcp_create_socket::create_tcp_socket;

use crate::{begins, held};

/// An hour.
const LONG: u64 = 3_600_000_000_000;

pub(crate) const ANY: IpSocketAddress =
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 0, address: (127, 0, 0, 1) });

pub(crate) fn sockets(number: usize) {
    begins();
    let mut sockets = Vec::new();
    for count in 0..number {
        match create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => sockets.push(socket),
            Err(error) => held(sockets, &format!("{count} sockets, then error {}", error as u8)),
        }
    }
    held(sockets, &format!("{number} sockets"));
}

/// Sockets that listen, each on a port of its own.
pub(crate) fn ports(number: usize) {
    begins();
    let network = instance_network();
    let mut sockets = Vec::new();
    for count in 0..number {
        let listening = create_tcp_socket(IpAddressFamily::Ipv4).and_then(|socket| {
            socket.start_bind(&network, ANY)?;
            socket.finish_bind()?;
            socket.start_listen()?;
            socket.finish_listen()?;
            Ok(socket)
        });
        match listening {
            Ok(socket) => sockets.push(socket),
            Err(error) => held(sockets, &format!("{count} ports, then error {}", error as u8)),
        }
    }
    held(sockets, &format!("{number} ports"));
}

pub(crate) fn pollables(number: usize) {
    begins();
    let pollables: Vec<_> = (0..number).map(|_| subscribe_duration(LONG)).collect();
    held(pollables, &format!("{number} pollables"));
}

/// Waits for one thing, named very often.
pub(crate) fn list(number: usize) {
    let soon = subscribe_duration(1);
    let list = vec![&soon; number];
    begins();
    loop {
        let ready = poll(&list).len();
        assert_eq!(ready, number);
    }
}

/// As many timers as there is time for.
pub(crate) fn timers() {
    begins();
    loop {
        let timers: Vec<_> = (0..1000).map(subscribe_duration).collect();
        let list: Vec<_> = timers.iter().collect();
        poll(&list);
    }
}

/// Headers without end.
pub(crate) fn fields(number: usize) {
    begins();
    let mut all = Vec::new();
    loop {
        let fields = Fields::new();
        for count in 0..number {
            let value = vec![b'v'; 1024];
            if fields.append("name", &value).is_err() {
                println!("{count} headers");
                break;
            }
        }
        all.push(fields);
    }
}

/// The folders that are open from the start, opened again and again.
pub(crate) fn folders(number: usize) {
    begins();
    let all: Vec<_> = (0..number).map(|_| get_directories()).collect();
    held(all, &format!("{number} times all folders"));
}

/// Standard output, got again and again.
pub(crate) fn printers(number: usize) {
    begins();
    let all: Vec<_> = (0..number).map(|_| get_stdout()).collect();
    held(all, &format!("{number} streams"));
}
