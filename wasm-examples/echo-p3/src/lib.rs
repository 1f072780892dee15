//! A service of WASI 0.3 and its clients.
//!
//! args: `echo-p3 serve [PORT]` returns what each TCP connection and each datagram brings (default 7007); nothing else ever
//!       happens in it: it only waits
//!       `echo-p3 call PORT SIZE` sends SIZE bytes over TCP to 127.0.0.1:PORT, reads them back, and compares
//!       `echo-p3 datagram PORT TEXT` the same with one datagram
//!       `echo-p3 half PORT` sends, shuts its sending side, and reads what comes until the other side closes
//!       `echo-p3 watch PORT` exchanges a word, says `connected`, and says how the connection ended
//!       `echo-p3 stall PORT` writes 64 MiB in pieces of 1 MiB
//!       `echo-p3 trap PORT` listens, says `listening`, and traps when somebody has connected
//! Prints `ok …`, or `error …`. exit codes: 0; 1 failed.

use std::net::Ipv4Addr;

use guest_p3::*;

struct Echo;

export!(Echo);

impl Guest for Echo {
    async fn run() -> Result<(), ()> {
        let arguments = arguments();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let outcome = match words.as_slice() {
            ["serve"] => serve_both(7007).await,
            ["serve", port] => serve_both(number(port)?).await,
            ["call", port, size] => call(number(port)?, size.parse().map_err(|_| ())?).await,
            ["datagram", port, text] => datagram(number(port)?, text).await,
            ["half", port] => half(number(port)?).await,
            ["watch", port] => watch(number(port)?).await,
            ["trap", port] => trap(number(port)?).await,
            ["stall", port] => stall(number(port)?).await,
            _ => return Err(()),
        };
        match outcome {
            Ok(said) => {
                println!("ok {said}");
                Ok(())
            }
            Err(code) => {
                println!("error {}", name_of(&code));
                Err(())
            }
        }
    }
}

fn number(text: &str) -> Result<u16, ()> {
    text.parse().map_err(|_| ())
}

async fn serve_both(port: u16) -> Result<&'static str, ErrorCode> {
    let (_socket, mut connections) = listen(at(Ipv4Addr::UNSPECIFIED, port));
    let udp = UdpSocket::create(Family::Ipv4)?;
    udp.bind(to_wasi(at(Ipv4Addr::UNSPECIFIED, port)))?;
    println!("echo-p3: on port {port}");
    both(serve(&mut connections, echo), async {
        while let Ok((data, from)) = udp.receive().await {
            let _ = udp.send(data, Some(from)).await;
        }
    })
    .await;
    Ok("over")
}

async fn echo(socket: TcpSocket) {
    let mut connection = Connection::new(socket);
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        let (status, bytes) = connection.input.read(buffer).await;
        if status == StreamResult::Dropped || !connection.output.write_all(bytes).await.is_empty() {
            return;
        }
        buffer = Vec::with_capacity(64 * 1024);
    }
}

async fn call(port: u16, size: usize) -> Result<&'static str, ErrorCode> {
    let Connection { mut input, received, mut output, sent, .. } =
        Connection::to(at(Ipv4Addr::LOCALHOST, port)).await?;
    let data: Vec<u8> = (0..=255).cycle().take(size).collect();
    let copy = data.clone();
    let (back, ()) = both(read_to_end(&mut input), async move {
        let rest = output.write_all(copy).await;
        assert!(rest.is_empty(), "{} bytes were not taken", rest.len());
    })
    .await;
    sent.await?;
    received.await?;
    assert!(back == data, "{} bytes came back of {size}, or others", back.len());
    Ok("the same")
}

async fn datagram(port: u16, text: &str) -> Result<&'static str, ErrorCode> {
    let udp = UdpSocket::create(Family::Ipv4)?;
    udp.connect(to_wasi(at(Ipv4Addr::LOCALHOST, port)))?;
    udp.send(text.as_bytes().to_vec(), None).await?;
    let (data, from) = udp.receive().await?;
    assert!(data == text.as_bytes(), "other bytes");
    assert!(to_std(from) == at(Ipv4Addr::LOCALHOST, port), "from elsewhere");
    Ok("the same")
}

async fn half(port: u16) -> Result<&'static str, ErrorCode> {
    let mut connection = Connection::to(at(Ipv4Addr::LOCALHOST, port)).await?;
    assert!(connection.write(b"question").await);
    drop(connection.output);
    connection.sent.await?;
    let answer = read_to_end(&mut connection.input).await;
    connection.received.await?;
    println!("read {}", String::from_utf8_lossy(&answer));
    Ok("closed")
}

async fn watch(port: u16) -> Result<&'static str, ErrorCode> {
    let mut connection = Connection::to(at(Ipv4Addr::LOCALHOST, port)).await?;
    assert!(connection.write(b"word").await);
    let (_, echoed) = connection.input.read(Vec::with_capacity(100)).await;
    assert!(echoed == b"word");
    println!("connected");
    let rest = read_to_end(&mut connection.input).await;
    assert!(rest.is_empty(), "more than the word");
    connection.received.await?;
    Ok("closed")
}

async fn stall(port: u16) -> Result<&'static str, ErrorCode> {
    let mut connection = Connection::to(at(Ipv4Addr::LOCALHOST, port)).await?;
    let mut piece = vec![0x5a; 1 << 20];
    for _ in 0..64 {
        let copy = piece.clone();
        let rest = connection.output.write_all(piece).await;
        assert!(rest.is_empty(), "{} bytes were not taken", rest.len());
        piece = copy;
    }
    drop(connection.output);
    connection.sent.await?;
    Ok("written")
}

async fn trap(port: u16) -> Result<&'static str, ErrorCode> {
    let (_socket, mut connections) = listen(at(Ipv4Addr::UNSPECIFIED, port));
    println!("listening");
    let _accepted = connections.next().await.map(Connection::new);
    panic!("as asked");
}
