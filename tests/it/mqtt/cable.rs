//! A cable between the node and its broker: a port that passes everything on, until it is cut.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// See the header.
pub(super) struct Cable {
    pub(super) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    /// Both ends of each connection so far.
    ends: Vec<TcpStream>,
}

impl Cable {
    /// A cable to that port of this machine.
    pub(super) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cable = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = Arc::clone(&cable.state);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { continue };
                // Who is let in while it is cut is closed at once.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let mut state = state.lock().unwrap();
                if state.is_cut {
                    continue;
                }
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || pass(from, to));
                }
                state.ends.extend([near, far]);
            }
        });
        cable
    }

    /// Nothing gets through from now on, and both sides see their connection end.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for end in state.ends.drain(..) {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
