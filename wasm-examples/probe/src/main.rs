//! A server whose health can be switched from outside: for probes of every kind.
//!
//! GET /ready and /live answer 200 or 503; /ready/on, /ready/off, /live/on, /live/off switch them; /hang never answers
//! in time (it waits `HANG_MS`); / answers 200. The state also stands in files, so that an exec probe can see it.
//!
//! args: none: serves. `probe check live|ready`: an exec probe; it is another instance of this module, which shares
//! only volumes with the first.
//! env: `PORT` (default 8080); `START_DELAY_MS`: waits before it listens (default 0); `READY`, `LIVE`: `on` or `off` at the
//! start (default on); `STATE_DIR` for the files `ready` and `live` (default /state; need not be there to serve);
//! `HANG_MS` (default 5000).
//! exit codes: `check`: 0 on, 1 off or unknown; 2 wrong arguments. Serving: 1 when the port cannot be had.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io, thread};

use guest_net::{Reply, number_from_env, serve};

fn main() -> io::Result<()> {
    let state = PathBuf::from(env::var("STATE_DIR").unwrap_or_else(|_| "/state".to_owned()));
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => serve_health(&state),
        ["check", what @ ("live" | "ready")] => podling_guest::exit(check(&state, what)),
        _ => {
            eprintln!("usage: probe [check live|ready]");
            podling_guest::exit(2)
        }
    }
}

fn check(state: &Path, what: &str) -> u8 {
    match fs::read_to_string(state.join(what)) {
        Ok(text) => {
            println!("{what} {}", text.trim());
            u8::from(text.trim() != "on")
        }
        Err(error) => {
            println!("{what} unknown: {error}");
            1
        }
    }
}

/// One switch: in memory for HTTP, in a file for exec probes.
struct Switch {
    name: &'static str,
    on: bool,
    file: PathBuf,
}

impl Switch {
    fn new(name: &'static str, variable: &str, state: &Path) -> Self {
        let mut switch = Self { name, on: true, file: state.join(name) };
        switch.turn(env::var(variable).as_deref() != Ok("off"));
        switch
    }

    fn turn(&mut self, on: bool) {
        self.on = on;
        let word = if on { "on" } else { "off" };
        // Without a state directory there is nobody to read it.
        if self.file.parent().is_some_and(Path::is_dir)
            && let Err(error) = fs::write(&self.file, word)
        {
            eprintln!("probe: cannot write {}: {error}", self.file.display());
        }
        println!("probe: {} is {word}", self.name);
    }

    fn reply(&self) -> Reply {
        if self.on { Reply::text(200, "on\n") } else { Reply::text(503, "off\n") }
    }
}

fn serve_health(state: &Path) -> io::Result<()> {
    thread::sleep(Duration::from_millis(number_from_env("START_DELAY_MS", 0)));
    let hang = Duration::from_millis(number_from_env("HANG_MS", 5000));
    let mut ready = Switch::new("ready", "READY", state);
    let mut live = Switch::new("live", "LIVE", state);
    let port = number_from_env("PORT", 8080) as u16;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("probe: listening on port {port}");
    let never = serve(&listener, |request| {
        match request.path.as_str() {
            "/ready" => return ready.reply(),
            "/live" => return live.reply(),
            "/ready/on" => ready.turn(true),
            "/ready/off" => ready.turn(false),
            "/live/on" => live.turn(true),
            "/live/off" => live.turn(false),
            "/hang" => thread::sleep(hang),
            "/" => {}
            _ => return Reply::text(404, "not found\n"),
        }
        Reply::text(200, "ok\n")
    })?;
    match never {}
}
