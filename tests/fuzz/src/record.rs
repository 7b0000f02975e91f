//! What is stored: records, responses, and the seal they are kept under.
//!
//! Its one rule: whatever can be read is written again byte for byte, and what was sealed opens only as it was sealed.

use envoy_idempotency::config::SecretKey;
use envoy_idempotency::key::Name;
use envoy_idempotency::record::{Owner, Record, Response};
use envoy_idempotency::seal::ResponseCipher;

use crate::choices::Choices;

/// Takes the bytes as each thing that is stored, and as a response to seal.
pub fn hold(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        assert_eq!(record.encode(), data, "{record:?}");
    }
    if let Ok(response) = Response::decode(data) {
        assert_eq!(response.encode(), data, "{response:?}");
    }
    let name = Name([1; 32]);
    if let Ok(opened) = ResponseCipher::default().open(&name, data) {
        assert_eq!(ResponseCipher::default().seal(&name, Owner([0; 16]), &opened).as_deref(), Some(data));
    }
    sealed_things_open_as_they_were(data, &name);
}

fn sealed_things_open_as_they_were(data: &[u8], name: &Name) {
    let [first, second] = ["first", "second"].map(|id| SecretKey { id: id.into(), key: [id.len() as u8; 32] });
    let (old, new) = (ResponseCipher::new(std::slice::from_ref(&first)), ResponseCipher::new(&[second.clone(), first]));
    assert!(new.open(name, data).is_err(), "bytes that nobody has sealed open");

    let mut choices = Choices::new(data);
    let (at, change, cut, response) = (choices.byte(), choices.byte(), choices.byte(), choices.rest());
    for cipher in [&old, &ResponseCipher::default()] {
        let sealed = cipher.seal(name, Owner([7; 16]), response).expect("every response can be sealed");
        assert_eq!(cipher.open(name, &sealed).as_deref(), Ok(response));
        let mut broken = sealed.clone();
        let at = usize::from(at) % broken.len();
        broken[at] ^= change;
        assert_eq!(cipher.open(name, &broken).is_ok(), change == 0, "a changed byte opens");
        let cut = usize::from(cut) % sealed.len();
        assert!(cipher.open(name, &sealed[..cut]).is_err(), "a part of it opens");
    }
    let sealed = old.seal(name, Owner([7; 16]), response).expect("every response can be sealed");
    assert_eq!(new.open(name, &sealed).as_deref(), Ok(response), "a key that rotated out does not open");
    assert!(old.open(&Name([2; 32]), &sealed).is_err(), "it opens under another name");
    assert!(ResponseCipher::new(&[second]).open(name, &sealed).is_err(), "it opens without its key");
    assert!(ResponseCipher::default().open(name, &sealed).is_err(), "it opens without any key");
    let clear = ResponseCipher::default().seal(name, Owner([7; 16]), response).expect("every response can be sealed");
    assert!(old.open(name, &clear).is_err(), "what is in clear opens where there are keys");
}
