//! Answers of backends: what is taken is written anew in a form that is taken once more, and means the same.

use rand::Rng;
use rand::rngs::StdRng;
use sluicegate::phase::canonical::head;
use sluicegate::upstream::connection::answer::{self, Question, Rest};

use super::{Taken, feed};
use crate::canonical::cases;

fn check(bytes: &[u8], random: &mut StdRng) -> Taken {
    let question = Question { is_head: random.random_bool(0.2), upgrade: random.random_bool(0.2) };
    let Ok(Some(length)) = head::length(bytes, 0) else { return Taken::No };
    let Ok(answer) = answer::read(&bytes[..length], question) else { return Taken::No };
    assert!((100..600).contains(&answer.status));
    assert_eq!(head::length(&answer.head, 0), Ok(Some(answer.head.len())), "its end is where it ends");
    let again = answer::read(&answer.head, question).expect("it is taken once more");
    assert_eq!((again.status, again.rest), (answer.status, answer.rest), "b\"{}\"", answer.head.escape_ascii());
    assert_eq!(again.head, answer.head, "written anew it changes once more");
    assert!(!answer.keeps || !matches!(answer.rest, Rest::UntilClose | Rest::Switched));
    let text = String::from_utf8_lossy(&answer.head).to_ascii_lowercase();
    let count = |name: &str| text.matches(&format!("\r\n{name}:")).count();
    assert!(count("content-length") + count("transfer-encoding") <= 1, "{text}");
    assert!(count("upgrade") == usize::from(answer.rest == Rest::Switched), "{text}");
    Taken::Yes
}

#[test]
fn an_answer_that_is_taken_means_the_same_for_everybody() {
    let mut seeds: Vec<Vec<u8>> = cases::all("responses").iter().map(cases::Case::raw).collect();
    seeds.push(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec());
    seeds.push(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 3\r\n\r\nabc".to_vec(),
    );
    println!("{}", feed("answers", seeds, 1, check));
}
