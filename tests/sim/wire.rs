//! Redis's end of its own protocol: commands read, answers written as the script packs them.
//!
//! Its one rule: what it writes the gateway reads as the very answers that were given.

use envoy_idempotency::command::{Failure, RedisError, StoreReply};
use envoy_idempotency::record::{RecordStatus, RecordSummary};
use envoy_idempotency::store::client::Nonce;
use envoy_idempotency::store::redis::unpack;

/// The commands that these bytes are, each as its arguments.
pub fn arguments(mut bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut commands = Vec::new();
    while !bytes.is_empty() {
        let count = number(&mut bytes, b'*');
        let argument = |_| {
            let (argument, rest) = bytes_of(bytes);
            bytes = rest;
            argument.to_vec()
        };
        commands.push((0..count).map(argument).collect());
    }
    commands
}

fn bytes_of(mut bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = number(&mut bytes, b'$');
    (&bytes[..length], &bytes[length + 2..])
}

fn number(bytes: &mut &[u8], kind: u8) -> usize {
    let end = bytes.iter().position(|byte| *byte == b'\r').expect("a line ends");
    assert_eq!(bytes[0], kind, "a gateway writes whole commands");
    let number = std::str::from_utf8(&bytes[1..end]).ok().and_then(|text| text.parse().ok());
    *bytes = &bytes[end + 2..];
    number.expect("it is a number")
}

/// The nonce of the first of these operations.
pub fn nonce(operations: &[u8]) -> Nonce {
    Nonce(operations[1..17].try_into().expect("an operation begins with its kind and its nonce"))
}

/// The reply that carries these answers.
pub fn said(answers: &[(Nonce, StoreReply)]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", answers.len()).into_bytes();
    for (nonce, answer) in answers {
        let packed = [nonce.0.to_vec(), packed(answer)].concat();
        if !matches!(answer, StoreReply::Failed(_)) {
            assert_eq!(unpack(&packed).ok().as_ref(), Some(&(*nonce, answer.clone())));
        }
        out.extend(format!("${}\r\n", packed.len()).into_bytes());
        out.extend(packed);
        out.extend(b"\r\n");
    }
    out
}

fn packed(answer: &StoreReply) -> Vec<u8> {
    let flag = |flag: bool| vec![u8::from(flag)];
    let parts: (u8, Vec<Vec<u8>>) = match answer {
        StoreReply::Deferred => (b'A', vec![]),
        StoreReply::Busy { wait_ms } => (b'B', vec![wait_ms.to_le_bytes().to_vec()]),
        StoreReply::Completed { attempt, status, age_ms, ttl_ms, response } => {
            let head = vec![
                attempt.to_le_bytes().to_vec(),
                status.unwrap_or(0).to_le_bytes().to_vec(),
                age_ms.to_le_bytes().to_vec(),
                ttl_ms.to_le_bytes().to_vec(),
                flag(response.is_some()),
            ];
            (b'D', head.into_iter().chain(response.clone()).collect())
        }
        StoreReply::Failed(Failure::Corrupt) => (b'E', vec![b"CORRUPT".to_vec()]),
        StoreReply::Failed(_) => (b'E', vec![b"OOM".to_vec()]),
        StoreReply::Granted { attempt, doubt, key, expires_ms } => {
            let attempt = attempt.to_le_bytes().to_vec();
            (b'G', vec![attempt, flag(*doubt), key.encode(), expires_ms.to_le_bytes().to_vec()])
        }
        StoreReply::Exhausted { attempt } => (b'H', vec![attempt.to_le_bytes().to_vec()]),
        StoreReply::InFlight { attempt } => (b'I', vec![attempt.to_le_bytes().to_vec()]),
        StoreReply::Locked { fence } => (b'K', vec![fence.to_le_bytes().to_vec()]),
        StoreReply::Lost => (b'L', vec![]),
        StoreReply::Mismatch => (b'M', vec![]),
        StoreReply::Renewed { expires_ms } => (b'N', vec![expires_ms.to_le_bytes().to_vec()]),
        StoreReply::Settled => (b'O', vec![]),
        StoreReply::Similar { operation, since_ms, age_ms } => {
            let times = [*since_ms, *age_ms].map(|time| time.to_le_bytes().to_vec());
            (b'Y', [operation.0.to_vec()].into_iter().chain(times).collect())
        }
        StoreReply::Stale => (b'S', vec![]),
        StoreReply::Unknown { attempt, wait_ms } => {
            (b'U', vec![attempt.to_le_bytes().to_vec(), wait_ms.to_le_bytes().to_vec()])
        }
        StoreReply::Seen(Some(RecordSummary { attempt, standing, ttl_ms })) => {
            let (state, status) = match standing {
                RecordStatus::Open => (0, 0),
                RecordStatus::Running => (1, 0),
                RecordStatus::Unknown => (2, 0),
                RecordStatus::Completed(status) => (3, status.unwrap_or(0)),
            };
            let numbers =
                [attempt.to_le_bytes().to_vec(), status.to_le_bytes().to_vec(), ttl_ms.to_le_bytes().to_vec()];
            (b'V', [vec![state]].into_iter().chain(numbers).collect())
        }
        StoreReply::Seen(None) => (b'Z', vec![]),
        StoreReply::Dropped => panic!("Redis keeps every response it is given"),
    };
    [vec![parts.0], parts.1.concat()].concat()
}

#[test]
fn a_failure_of_the_store_comes_as_its_word() {
    let told = |failure| unpack(&said(&[(Nonce([7; 16]), StoreReply::Failed(failure))])[9..][..24]).ok();
    let corrupt = Some((Nonce([7; 16]), StoreReply::Failed(Failure::Corrupt)));
    assert_eq!(told(Failure::Corrupt), corrupt);
    let full = said(&[(Nonce([7; 16]), StoreReply::Failed(Failure::Full))]);
    let full = unpack(&full[9..][..20]).ok().map(|(_, answer)| answer);
    assert_eq!(full, Some(StoreReply::Failed(Failure::Redis(RedisError::Oom))));
}
