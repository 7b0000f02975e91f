//! The wire forms of records and responses: what is written is read back, and nothing else is.
//!
//! Its one rule: the samples of a version are never changed, because later versions must read them.
//! It does not know what a record means.

use envoy_idempotency::digest::hex;
use envoy_idempotency::fingerprint::Fingerprint;
use envoy_idempotency::key::{KeyForm, UpstreamKey};
use envoy_idempotency::message::Headers;
use envoy_idempotency::record::{Corrupt, FORMAT, Owner, RELEASED_KEPT, Record, Response, State};
use proptest::prelude::*;

#[test]
fn version_2_of_every_state_is_written_as_ever_and_readable_for_ever() {
    let (fingerprint, owner) = (Fingerprint([0xf1; 32]), Owner([0x0a; 16]));
    let plain = |state| Record {
        attempt: 1,
        key: KeyForm::Bare,
        doubt: false,
        inherited: false,
        released: Vec::new(),
        expires_ms: 0x0102_0304,
        state,
    };
    let completed = |fingerprint, status, response: Option<&[u8]>| {
        let response = response.map(<[u8]>::to_vec);
        plain(State::Completed { fingerprint, owner, status, since_ms: 0x0506, response })
    };
    let f = "f1".repeat(32);
    let o = "0a".repeat(16);
    let samples = [
        (plain(State::Open { fingerprint: None }), "02 00 00 00 01000000 0403020100000000 00 00 00".to_owned()),
        (
            Record { key: KeyForm::Quoted, ..plain(State::Open { fingerprint: None }) },
            "02 00 00 00 01000000 0403020100000000 01 00 00".to_owned(),
        ),
        (
            Record {
                key: KeyForm::Ours(UpstreamKey([0x0b; 16])),
                released: vec![Owner([0x0c; 16]), Owner([0x0d; 16])],
                ..plain(State::Open { fingerprint: Some(fingerprint) })
            },
            format!(
                "02 00 00 00 01000000 0403020100000000 02 {} 02 {} {} 01 {f}",
                "0b".repeat(16),
                "0c".repeat(16),
                "0d".repeat(16)
            ),
        ),
        (
            Record { attempt: 0x0a0b, ..plain(State::Running { fingerprint, owner, lease_end_ms: 0x0506 }) },
            format!("02 00 01 00 0b0a0000 0403020100000000 00 00 {f} {o} 0605000000000000"),
        ),
        (
            Record { inherited: true, ..plain(State::Running { fingerprint, owner, lease_end_ms: 0x0506 }) },
            format!("02 00 01 02 01000000 0403020100000000 00 00 {f} {o} 0605000000000000"),
        ),
        (
            Record { doubt: true, ..plain(State::Unknown { fingerprint, owner, retry_at_ms: 0x0506 }) },
            format!("02 00 02 01 01000000 0403020100000000 00 00 {f} {o} 0605000000000000"),
        ),
        (
            completed(Some(fingerprint), Some(201), None),
            format!("02 00 03 00 01000000 0403020100000000 00 00 01 {f} {o} c900 0605000000000000 00"),
        ),
        (
            completed(Some(fingerprint), Some(201), Some(b"paid")),
            format!("02 00 03 00 01000000 0403020100000000 00 00 01 {f} {o} c900 0605000000000000 01 70616964"),
        ),
        (
            completed(None, None, None),
            format!("02 00 03 00 01000000 0403020100000000 00 00 00 {o} 0000 0605000000000000 00"),
        ),
    ];
    for (record, sample) in samples {
        let sample = sample.replace(' ', "");
        assert_eq!(hex(&record.encode()), sample);
        assert_eq!(Record::decode(&bytes(&sample)), Ok(record));
    }
}

#[test]
fn version_2_of_a_response_is_written_as_ever_and_readable_for_ever() {
    let headers: Headers = [("a", "1"), ("a", ""), ("loc", "/é")].into_iter().collect();
    let head = "c900 03000000 01000000 61 01000000 31 01000000 61 00000000 03000000 6c6f63 03000000 2fc3a9";
    for (body, negotiated, flags, tail) in [
        (None, false, "00", ""),
        (Some(vec![]), false, "01", ""),
        (None, true, "02", ""),
        (Some(b"ok\0".to_vec()), true, "03", "6f6b00"),
    ] {
        let response = Response { status: 201, headers: headers.clone(), body, negotiated };
        let sample = format!("02 {flags} {head} {tail}").replace(' ', "");
        assert_eq!(hex(&response.encode()), sample);
        assert_eq!(Response::decode(&bytes(&sample)), Ok(response));
    }
}

#[test]
fn another_version_another_kind_a_wrong_flag_and_too_many_owners_are_corrupt() {
    let record = Record {
        attempt: 1,
        key: KeyForm::Bare,
        doubt: false,
        inherited: false,
        released: vec![Owner([1; 16]); RELEASED_KEPT],
        expires_ms: 1,
        state: State::Open { fingerprint: None },
    };
    let whole = record.encode();
    assert_eq!(Record::decode(&whole), Ok(record));
    let last = whole.len() - 1;
    let count = RELEASED_KEPT as u8 + 1;
    // Version, kind, state, flags, form of the key, number of owners, fingerprint.
    for (at, byte) in [(0, FORMAT + 1), (0, 1), (1, 1), (1, 2), (2, 4), (3, 4), (16, 3), (17, count), (last, 2)] {
        let mut broken = whole.clone();
        broken[at] = byte;
        assert_eq!(Record::decode(&broken), Err(Corrupt), "{byte} at {at}");
    }
    let more = [&whole[..17], &[count], &[1; 16 * (RELEASED_KEPT + 1)], &[0]].concat();
    assert_eq!(Record::decode(&more), Err(Corrupt), "an owner too many");
}

#[test]
fn a_count_of_fields_beyond_the_bytes_is_corrupt_and_costs_no_memory() {
    for count in [1, 0xffff, u32::MAX] {
        let bytes = [&[FORMAT, 1, 200, 0][..], &count.to_le_bytes(), &[0; 4]].concat();
        assert_eq!(Response::decode(&bytes), Err(Corrupt), "{count}");
    }
    let huge = [&[FORMAT, 1, 200, 0, 1, 0, 0, 0][..], &u32::MAX.to_le_bytes(), b"name"].concat();
    assert_eq!(Response::decode(&huge), Err(Corrupt));
}

#[test]
fn what_no_upstream_can_have_sent_is_corrupt() {
    let response = |status, name: &str, value: &str| {
        let headers = [("a", "1"), (name, value)].into_iter().collect();
        Response { status, headers, body: Some(b"ok".to_vec()), negotiated: false }
    };
    let whole = response(999, "x-a", "\t1 \u{e9}");
    assert_eq!(Response::decode(&whole.encode()), Ok(whole));
    for (name, value) in [
        ("", "1"),
        (":status", "200"),
        ("x-a: 1\r\nset-cookie", "a=b"),
        ("x a", "1"),
        ("x\u{7f}", "1"),
        ("x-a", "1\r\nset-cookie: a=b"),
        ("x-a", "1\nset-cookie: a=b"),
        ("x-a", "1\0"),
    ] {
        assert_eq!(Response::decode(&response(200, name, value).encode()), Err(Corrupt), "{name:?}: {value:?}");
    }
    for status in [0, 100, 199, 1000, u16::MAX] {
        assert_eq!(Response::decode(&response(status, "x-a", "1").encode()), Err(Corrupt), "{status}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_record_is_read_back(record in record()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn every_response_is_read_back(response in response()) {
        prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
    }

    /// Only a stored response, which runs to the end, can lose its tail unnoticed.
    #[test]
    fn a_record_cut_off_anywhere_is_corrupt(record in record()) {
        let whole = record.encode();
        let open_ended = match &record.state {
            State::Completed { response: Some(response), .. } => response.len(),
            _ => 0,
        };
        for len in 0..whole.len() - open_ended {
            prop_assert_eq!(Record::decode(&whole[..len]), Err(Corrupt), "{} of {} bytes", len, whole.len());
        }
        for len in whole.len() - open_ended..whole.len() {
            prop_assert!(Record::decode(&whole[..len]).is_ok_and(|found| found != record));
        }
        if !matches!(record.state, State::Completed { response: Some(_), .. }) {
            prop_assert_eq!(Record::decode(&[&whole[..], b"x"].concat()), Err(Corrupt));
        }
    }

    #[test]
    fn a_response_cut_off_anywhere_is_corrupt_or_shorter(response in response()) {
        let whole = response.encode();
        let head = whole.len() - response.body.as_ref().map_or(0, Vec::len);
        for len in 0..whole.len() {
            prop_assert_eq!(Response::decode(&whole[..len]).is_err(), len < head, "{} of {} bytes", len, whole.len());
        }
    }

    /// There is one way to write each record, so whatever is read is what stands there.
    #[test]
    fn a_changed_byte_is_corrupt_or_another_record(record in record(), change in 1..=255u8) {
        let whole = record.encode();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= change;
            if let Ok(found) = Record::decode(&broken) {
                prop_assert_ne!(&found, &record, "byte {}", at);
                prop_assert_eq!(found.encode(), broken, "byte {}", at);
            }
        }
    }

    #[test]
    fn a_changed_byte_is_corrupt_or_another_response(response in response(), change in 1..=255u8) {
        let whole = response.encode();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= change;
            if let Ok(found) = Response::decode(&broken) {
                prop_assert_ne!(&found, &response, "byte {}", at);
                prop_assert_eq!(found.encode(), broken, "byte {}", at);
            }
        }
    }

    #[test]
    fn any_bytes_are_corrupt_or_exactly_what_they_say(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        for version in [noise.clone(), [&[FORMAT], &noise[..]].concat()] {
            if let Ok(record) = Record::decode(&version) {
                prop_assert_eq!(record.encode(), version.clone());
            }
            if let Ok(response) = Response::decode(&version) {
                prop_assert_eq!(response.encode(), version);
            }
        }
    }
}

fn record() -> impl Strategy<Value = Record> {
    let owner = || any::<[u8; 16]>().prop_map(Owner);
    let fingerprint = || any::<[u8; 32]>().prop_map(Fingerprint);
    let response = prop::option::of(prop::collection::vec(any::<u8>(), 0..30));
    let state = prop_oneof![
        prop::option::of(fingerprint()).prop_map(|fingerprint| State::Open { fingerprint }),
        (fingerprint(), owner(), any::<u64>()).prop_map(|(fingerprint, owner, lease_end_ms)| State::Running {
            fingerprint,
            owner,
            lease_end_ms
        }),
        (fingerprint(), owner(), any::<u64>()).prop_map(|(fingerprint, owner, retry_at_ms)| State::Unknown {
            fingerprint,
            owner,
            retry_at_ms
        }),
        (prop::option::of(fingerprint()), owner(), prop::option::of(1..=u16::MAX), any::<u64>(), response).prop_map(
            |(fingerprint, owner, status, since_ms, response)| State::Completed {
                fingerprint,
                owner,
                status,
                since_ms,
                response
            }
        ),
    ];
    let released = prop::collection::vec(owner(), 0..=RELEASED_KEPT);
    let key = prop_oneof![
        Just(KeyForm::Bare),
        Just(KeyForm::Quoted),
        any::<[u8; 16]>().prop_map(|key| KeyForm::Ours(UpstreamKey(key)))
    ];
    (any::<u32>(), key, any::<bool>(), any::<bool>(), released, any::<u64>(), state).prop_map(
        |(attempt, key, doubt, inherited, released, expires_ms, state)| Record {
            attempt,
            key,
            doubt,
            inherited,
            released,
            expires_ms,
            state,
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let name = prop::collection::vec(prop::sample::select(b"abz09-_!\xff".to_vec()), 1..12);
    let value =
        prop::collection::vec(any::<u8>().prop_filter("it ends no line", |byte| !b"\0\r\n".contains(byte)), 0..12);
    let headers = prop::collection::vec((name, value), 0..4);
    let body = prop::option::of(prop::collection::vec(any::<u8>(), 0..30));
    (200..1000u16, headers, body, any::<bool>()).prop_map(|(status, headers, body, negotiated)| {
        let headers = headers.into_iter().collect();
        Response { status, headers, body, negotiated }
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or_default() as u8;
    hex.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |byte, half| byte << 4 | digit(half))).collect()
}
