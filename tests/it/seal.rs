//! How responses are sealed: what opens is what was sealed, and nothing else opens.
//!
//! Its one rule: a sealed response is changed, cut or misplaced in every way there is, one at a time.
//! It does not know where sealed responses are kept.

use envoy_idempotency::config::SecretKey;
use envoy_idempotency::key::Name;
use envoy_idempotency::record::{Corrupt, Owner};
use envoy_idempotency::seal::ResponseCipher;
use proptest::prelude::*;

const TEXT: &[u8] = b"card 4242 4242 4242 4242 was charged 42.00 EUR";
const NAME: Name = Name([1; 32]);
const OWNER: Owner = Owner([2; 16]);

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_opens_is_what_was_sealed(
        text in prop::collection::vec(any::<u8>(), 0..2000),
        name in any::<[u8; 32]>(),
        owner in any::<[u8; 16]>(),
        id in "[!-~]{1,32}",
        key in any::<[u8; 32]>(),
    ) {
        for cipher in [ResponseCipher::default(), ResponseCipher::new(&[SecretKey { id, key }])] {
            let sealed = cipher.seal(&Name(name), Owner(owner), &text).unwrap();
            prop_assert_eq!(cipher.open(&Name(name), &sealed), Ok(text.clone()));
        }
    }

    #[test]
    fn bytes_that_nobody_sealed_do_not_open(bytes in prop::collection::vec(any::<u8>(), 0..200), form in 0..3u8) {
        let bytes = [&[form][..], &bytes].concat();
        for cipher in [ResponseCipher::default(), cipher(&[("a", 7)])] {
            prop_assert_eq!(cipher.open(&NAME, &bytes), Err(Corrupt));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_does_not_open() {
    for cipher in [ResponseCipher::default(), cipher(&[("a", 7)]), cipher(&[("a", 7), ("c", 8)])] {
        let sealed = cipher.seal(&NAME, OWNER, TEXT).unwrap();
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cipher.open(&NAME, &flipped), Err(Corrupt), "bit {bit}");
        }
    }
}

#[test]
fn what_is_cut_off_or_goes_on_does_not_open() {
    let zeroes = [b"zeroes at the end".as_slice(), &[0; 11]].concat();
    for (cipher, text) in
        [(ResponseCipher::default(), TEXT), (ResponseCipher::default(), &zeroes), (cipher(&[("a", 7)]), TEXT)]
    {
        let sealed = cipher.seal(&NAME, OWNER, text).unwrap();
        for end in 0..sealed.len() {
            assert_eq!(cipher.open(&NAME, &sealed[..end]), Err(Corrupt), "cut at {end}");
        }
        assert_eq!(cipher.open(&NAME, &[&sealed[..], &[0]].concat()), Err(Corrupt));
    }
}

#[test]
fn under_another_name_it_does_not_open() {
    let cipher = cipher(&[("a", 7)]);
    let sealed = cipher.seal(&NAME, OWNER, TEXT).unwrap();
    for bit in 0..256 {
        let mut other = NAME;
        other.0[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(cipher.open(&other, &sealed), Err(Corrupt), "bit {bit}");
    }
}

#[test]
fn under_another_key_or_another_id_it_does_not_open() {
    let sealed = cipher(&[("a", 7)]).seal(&NAME, OWNER, TEXT).unwrap();
    assert_eq!(cipher(&[("a", 7)]).open(&NAME, &sealed).as_deref(), Ok(TEXT));
    for keys in [&[("a", 8)][..], &[("b", 7)], &[("aa", 7)], &[("", 7)], &[("a", 8), ("b", 7)], &[]] {
        assert_eq!(cipher(keys).open(&NAME, &sealed), Err(Corrupt), "{keys:?}");
    }
}

#[test]
fn keys_are_rotated_by_putting_the_new_one_first() {
    let (before, between, after) = (cipher(&[("old", 1)]), cipher(&[("new", 2), ("old", 1)]), cipher(&[("new", 2)]));
    let [old, new] = [&before, &between].map(|cipher| cipher.seal(&NAME, OWNER, TEXT).unwrap());
    assert_eq!(between.open(&NAME, &old).as_deref(), Ok(TEXT), "the second key still opens");
    assert_eq!(between.open(&NAME, &new).as_deref(), Ok(TEXT));
    assert_eq!(after.open(&NAME, &new).as_deref(), Ok(TEXT), "the first key seals");
    assert_eq!(after.open(&NAME, &old), Err(Corrupt), "a key that is gone opens nothing");
    assert_eq!(before.open(&NAME, &new), Err(Corrupt), "a gateway that was not told of the key yet");
}

#[test]
fn with_keys_nothing_in_clear_opens_and_without_nothing_encrypted() {
    let (clear, locked) = (ResponseCipher::default(), cipher(&[("a", 7)]));
    assert_eq!(locked.open(&NAME, &clear.seal(&NAME, OWNER, TEXT).unwrap()), Err(Corrupt));
    assert_eq!(clear.open(&NAME, &locked.seal(&NAME, OWNER, TEXT).unwrap()), Err(Corrupt));
}

#[test]
fn nothing_of_the_text_or_the_key_is_in_what_was_sealed() {
    let sealed = cipher(&[("a", 7)]).seal(&NAME, OWNER, TEXT).unwrap();
    assert!(!TEXT.windows(4).any(|part| sealed.windows(4).any(|there| there == part)), "{sealed:?}");
    assert!(!sealed.windows(4).any(|there| there == [7; 4]), "{sealed:?}");
    // The form, the id with its length, the nonce and the tag are all that is added.
    assert_eq!(sealed.len(), 1 + 1 + 1 + 24 + TEXT.len() + 16);
}

#[test]
fn two_owners_never_share_a_nonce() {
    let cipher = cipher(&[("a", 7)]);
    let nonces: std::collections::BTreeSet<_> = (0..16)
        .flat_map(|byte| [1, 128].map(|bit| (byte, bit)))
        .map(|(byte, bit)| {
            let mut owner = OWNER;
            owner.0[byte] ^= bit;
            let sealed = cipher.seal(&NAME, owner, TEXT).unwrap();
            assert_eq!(cipher.open(&NAME, &sealed).as_deref(), Ok(TEXT));
            sealed[3..27].to_vec()
        })
        .collect();
    assert_eq!(nonces.len(), 32);
}

fn cipher(keys: &[(&str, u8)]) -> ResponseCipher {
    let key = |(id, byte): &(&str, u8)| SecretKey { id: (*id).to_owned(), key: [*byte; 32] };
    ResponseCipher::new(&keys.iter().map(key).collect::<Vec<_>>())
}
