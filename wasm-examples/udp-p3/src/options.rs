//! Options of datagram sockets: limits, and what is read back.

use guest_p3::kit::{self, *};

/// Options can be read and set, in whatever state the socket is.
pub(crate) fn udp_work(socket: &UdpSocket) {
    assert!(works(socket.get_unicast_hop_limit()) > 0);
    works(socket.set_unicast_hop_limit(255));
    is(socket.get_unicast_hop_limit(), 255);
    assert!(works(socket.get_receive_buffer_size()) > 0);
    works(socket.set_receive_buffer_size(16000));
    assert!(works(socket.get_send_buffer_size()) > 0);
    works(socket.set_send_buffer_size(16000));
}

pub(crate) async fn udp() {
    for family in FAMILIES {
        let socket = kit::udp(family);
        assert!(socket.get_address_family() == family);
        for outcome in [
            socket.set_unicast_hop_limit(0),
            socket.set_receive_buffer_size(0),
            socket.set_send_buffer_size(0),
        ] {
            fails(outcome, "invalid-argument");
        }
        udp_work(&socket);
        for size in [1, u64::MAX] {
            works(socket.set_receive_buffer_size(size));
            works(socket.set_send_buffer_size(size));
        }
        works(socket.set_unicast_hop_limit(42));
        is(socket.get_unicast_hop_limit(), 42);
        works(socket.set_receive_buffer_size(0x10000));
        is(socket.get_receive_buffer_size(), 0x10000);
        works(socket.set_send_buffer_size(0x10000));
        is(socket.get_send_buffer_size(), 0x10000);
    }
}
