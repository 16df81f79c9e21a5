//! ClientHellos that are only looked at: what was read of the beginning stays, whatever follows.

use rand::Rng;
use rand::rngs::StdRng;
use sluicegate::tls::client_hello::{Hello, enough, server_name};

use super::{Taken, feed};
use crate::passthrough::hello_of;

fn check(bytes: &[u8], random: &mut StdRng) -> Taken {
    let whole = server_name(bytes);
    let begin = &bytes[..random.random_range(0..=bytes.len())];
    match server_name(begin) {
        Hello::Incomplete => {}
        known => assert_eq!(known, whole, "after {} of {} bytes", begin.len(), bytes.len()),
    }
    assert!(enough(begin) <= 16 * 1024 || begin.len() >= 16 * 1024);
    if matches!(whole, Hello::Name(Some(_))) { Taken::Yes } else { Taken::No }
}

#[test]
fn a_name_is_not_another_one_when_more_arrives() {
    let names = ["a.test", "a-longer-name.example.test"];
    println!("{}", feed("ClientHellos", names.map(hello_of).to_vec(), 1, check));
}
