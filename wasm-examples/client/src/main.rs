//! Calls someone and says what came of it.
//!
//! args: `client tcp HOST PORT [TEXT]`   sends TEXT (default "hello"), ends its sending side, prints the answer
//!       `client udp HOST PORT [TEXT]`   sends one datagram, waits two seconds for one back
//!       `client refused HOST PORT`      expects the connection to be refused
//!       `client get URL`                prints status and body of http://HOST:PORT/PATH
//!       `client resolve NAME`           prints the addresses of NAME
//! env: none. Prints `ok …` or `error KIND`.
//! exit codes: 0 as hoped; 1 failed; 2 wrong arguments; 3 refused where it should not have been; 4 no answer in time;
//! 5 the name is unknown; 6 connected where it should have been refused.

use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use guest_net::poll::{self, Interest};
use guest_net::{Url, get};

const ANSWER_WITHIN: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let code = match words.as_slice() {
        ["tcp", host, port] => verdict(tcp(host, port, "hello")),
        ["tcp", host, port, text] => verdict(tcp(host, port, text)),
        ["udp", host, port] => verdict(udp(host, port, "hello")),
        ["udp", host, port, text] => verdict(udp(host, port, text)),
        ["refused", host, port] => refused(host, port),
        ["get", url] => fetch(url),
        ["resolve", name] => resolve(name),
        _ => {
            eprintln!("usage: client tcp|udp|refused HOST PORT [TEXT] | get URL | resolve NAME");
            2
        }
    };
    podling_guest::exit(code)
}

fn verdict(outcome: io::Result<Vec<u8>>) -> u8 {
    match outcome {
        Ok(answer) => {
            println!("ok {}", String::from_utf8_lossy(&answer));
            0
        }
        Err(error) => {
            println!("error {:?}", error.kind());
            match error.kind() {
                ErrorKind::ConnectionRefused => 3,
                ErrorKind::TimedOut | ErrorKind::WouldBlock => 4,
                ErrorKind::NotFound => 5,
                _ => 1,
            }
        }
    }
}

fn addresses(host: &str, port: &str) -> io::Result<Vec<SocketAddr>> {
    let port: u16 = port.parse().map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    // Whatever the resolver's error was, to us the name is one that it does not know.
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|_| io::Error::from(ErrorKind::NotFound))?.collect();
    if found.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(found) }
}

fn tcp(host: &str, port: &str, text: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addresses(host, port)?.as_slice())?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn udp(host: &str, port: &str, text: &str) -> io::Result<Vec<u8>> {
    let peer = addresses(host, port)?[0];
    let socket = UdpSocket::bind(if peer.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
    socket.send_to(text.as_bytes(), peer)?;
    let mut one = [Interest::readable(&socket)];
    poll::wait(&mut one, Some(ANSWER_WITHIN))?;
    if !one[0].is_ready() {
        return Err(ErrorKind::TimedOut.into());
    }
    let mut answer = vec![0; 65_536];
    let (count, _) = socket.recv_from(&mut answer)?;
    answer.truncate(count);
    Ok(answer)
}

fn refused(host: &str, port: &str) -> u8 {
    let outcome = addresses(host, port).and_then(|all| TcpStream::connect(all.as_slice()));
    match outcome {
        Ok(_) => {
            println!("error connected");
            6
        }
        Err(error) => {
            println!("ok {:?}", error.kind());
            u8::from(error.kind() != ErrorKind::ConnectionRefused)
        }
    }
}

fn fetch(url: &str) -> u8 {
    let Some(url) = Url::parse(url) else {
        eprintln!("client: no http:// URL: {url:?}");
        return 2;
    };
    let answer = get(&url, ANSWER_WITHIN);
    verdict(answer.map(|(status, body)| [format!("{status} ").into_bytes(), body].concat()))
}

fn resolve(name: &str) -> u8 {
    match addresses(name, "0") {
        Ok(all) => {
            let text: Vec<String> = all.iter().map(|address| address.ip().to_string()).collect();
            println!("ok {}", text.join(" "));
            0
        }
        Err(error) => verdict(Err(error)),
    }
}
