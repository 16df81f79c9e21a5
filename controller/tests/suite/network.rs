//! A network namespace for the whole run, with addresses for pods.

use std::fs::File;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The namespace, until it is dropped.
pub struct Namespace {
    name: String,
}

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

impl Namespace {
    /// Makes one and moves the calling thread into it, and so all threads and processes that it starts. `None`: not possible here.
    pub fn enter() -> Option<Namespace> {
        let name = format!("sluicegate-test-{}", std::process::id());
        if !ip(&format!("netns add {name}")) {
            return None;
        }
        let namespace = Namespace { name };
        let file = File::open(format!("/run/netns/{}", namespace.name)).ok()?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
        // Whatever of 10.88.0.0/16 is not given to a pod leads into a pair of devices without ARP: packets vanish, as on a
        // network whose host is gone.
        let commands = [
            "link set lo up",
            "link add pods type veth peer name nowhere",
            "link set pods arp off up",
            "link set nowhere arp off up",
            "addr add 10.88.0.1/16 dev pods",
        ];
        for command in commands {
            assert!(ip(command), "ip {command}");
        }
        Some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It is gone when the last process in it is.
        ip(&format!("netns delete {}", self.name));
    }
}

static NEXT: AtomicU16 = AtomicU16::new(1);

/// An address that no other test has; nobody answers on it until [`assign`].
pub fn address() -> Ipv4Addr {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(10, 88, 1 + (number / 250) as u8, 1 + (number % 250) as u8)
}

/// Gives an address to this host.
pub fn assign(address: Ipv4Addr) {
    assert!(ip(&format!("addr add {address}/32 dev lo")), "{address}");
}

/// Takes it away: packets to it vanish.
pub fn unassign(address: Ipv4Addr) {
    assert!(ip(&format!("addr delete {address}/32 dev lo")), "{address}");
}

/// Gives an IPv6 address to this host.
pub fn assign_v6(address: std::net::Ipv6Addr) {
    assert!(ip(&format!("addr add {address}/128 dev lo nodad")), "{address}");
}

/// A way to a server that can be cut: what is connected is reset, new connections are made as before.
pub struct Wire {
    /// Where to connect to.
    pub address: SocketAddr,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    /// A way to `server`.
    pub fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire { address: listener.local_addr().unwrap(), ends: Arc::default() };
        let ends = wire.ends.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(server) else { continue };
                let copy = |stream: &TcpStream| stream.try_clone().unwrap();
                ends.lock().unwrap().extend([copy(&near), copy(&far)]);
                for (mut from, mut to) in [(copy(&near), copy(&far)), (far, near)] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        wire
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.ends.lock().unwrap().drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }
}
